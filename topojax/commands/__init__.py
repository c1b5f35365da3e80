"""The command `topojax`: a table of commands, each in a thin file of its own that is imported when it is asked for.

`topojax COMMAND …` and `python -m topojax COMMAND …` are the same, and `python -m topojax.train …` is `topojax train`.
"""

import time

STARTED = time.perf_counter()
"""Before anything heavy is imported: a run's time is what its user waits."""

import argparse  # noqa: E402
import difflib  # noqa: E402
import importlib  # noqa: E402
import itertools  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import NoReturn  # noqa: E402

from topojax.errors import UserError, exit_status, run_process  # noqa: E402

COMMANDS = {
    "train": ("train", "train an atlas, or go on with a run"),
    "contracts": ("contracts", "what was promised of a run, and what was measured"),
    "evaluate": ("evaluate", "scores of a split, as a table and as JSON"),
    "export": ("export", "coordinates, charts and codes of a split, as a file"),
    "report": ("report", "one page about a run, that opens offline"),
    "topology": ("topology", "nerve, Euler characteristic and orientability of what a run has learned"),
    "data": ("data", "data sets: list them, fetch one"),
    "fields": ("fields", "what configuration fields mean, with their defaults"),
    "import-torch": ("import_torch", "make a run of a checkpoint of the original program"),
    "migrate-flags": ("migrate_flags", "translate a command line of the original program"),
    "mlflow": ("mlflow", "send to MLflow what it lacks of a run"),
}
"""Command → its module in this package, what it does. The module's `main(argv)` returns a status, or None for 0."""

SWITCHES = {
    "JAX_ENABLE_X64": "0",
    "JAX_NUMPY_DTYPE_PROMOTION": "standard",
    "JAX_DEBUG_NANS": "0",
    "JAX_DEBUG_INFS": "0",
    "JAX_DISABLE_JIT": "0",
}
"""Variables that would make other programs of a run, or none → their values here (`storage.switches` says why)."""

_HELP = ("--help", "-h", "help")


class Parser(argparse.ArgumentParser):
    """argparse's, of one command; what it refuses is a `UserError`.

    Args:
      command: of topojax, unless `prog` names the whole.
    """

    def __init__(self, command: str = "", *, prog: str | None = None, **options):
        super().__init__(prog=prog or f"topojax {command}", **options)

    def parse_args(self, args=None, namespace=None):
        """argparse's; an option that is given as nothing, as by a variable that is not set, is refused.

        A path that is empty would be the folder at hand.
        """
        words = list(args or ())
        words = words[: words.index("--")] if "--" in words else words
        for before, word in itertools.pairwise(["", *words]):
            option = word[:-1] if word.endswith("=") else "" if word else before
            if option in self._option_string_actions:
                raise UserError(f"{option} is empty")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Refuse, in one line."""
        raise UserError(f"{message} ({self.prog} --help says more)")


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a command and return its exit status, see `errors.exit_status`.

    Args:
      argv: the command and its arguments; those of the process, unless told.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_status(lambda: _dispatch(words))


def entry(command: str | None = None) -> NoReturn:
    """Carry out what this process was called for, and end it.

    Args:
      command: the one that it was called as; the first argument names it, unless told.
    """
    run_process(lambda: _dispatch([*([command] if command else []), *sys.argv[1:]]))


def _dispatch(words: list[str]) -> int | None:
    os.environ.update({name: value for name, value in SWITCHES.items() if name in os.environ})
    name, *rest = words or ["--help"]
    if name in _HELP:
        print(_overview())
        return 0
    if name == "--version":
        from importlib.metadata import version

        print(f"topojax {version('topojax')}")
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name.replace("_", "-"), COMMANDS, n=1)
        raise UserError(f"there is no command {name!r}: " + (f"did you mean {close[0]}?" if close else _LISTED))
    return importlib.import_module(f"{__name__}.{COMMANDS[name][0]}").main(rest)


_LISTED = "topojax --help lists them"


def _overview() -> str:
    lines = [f"  {name:15}{about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        [
            "Attentive atlases whose learning rate and loss weights are set by measurable contracts.",
            "",
            "usage: topojax COMMAND …",
            "",
            *lines,
            "",
            "topojax COMMAND --help says more; topojax --version which version this is.",
        ]
    )
