"""matplotlib without a screen."""

import contextlib
import os
import sys


def import_matplotlib() -> None:
    """Import what draws into files, whatever backend $MPLBACKEND names.

    matplotlib refuses to be imported under the name of a backend that is not there. The package draws on figures of its
    own, which know no backend; the variable is left as it was, and a notebook draws on as it says.
    """
    named = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib.figure
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
    if named:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = named
