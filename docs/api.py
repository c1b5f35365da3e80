"""The API reference, from the docstrings.

python docs/api.py build/api        then open build/api/index.html
"""

import importlib
import pathlib
import pkgutil
import sys

from absl import flags

import topojax
from topojax.errors import UserError, needing, run_process

COMMANDS = ("topojax.commands.train", "topojax.benchmarks.speed", "topojax.benchmarks.control")
"""Modules that define command-line flags, of the same names: what one has defined is taken away before the next."""


def main(folder: str) -> None:
    """Write the pages."""
    with needing("docs", "the API reference"):
        import pdoc
        import pdoc.render
    for name in topojax.__all__:  # they are imported when first used: pdoc looks without using them
        setattr(topojax, name, getattr(topojax, name))
    for name in COMMANDS:
        before = set(flags.FLAGS)
        importlib.import_module(name)
        for flag in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, flag)
    packages = ["topojax", *(m.name for m in pkgutil.walk_packages(topojax.__path__, "topojax.") if m.ispkg)]
    for package in map(importlib.import_module, packages):
        if hasattr(package, "__all__"):  # pdoc would leave out modules that are not named there
            package.__all__ = [*package.__all__, *(m.name for m in pkgutil.iter_modules(package.__path__))]
    pdoc.render.configure(docformat="google", footer_text=f"topojax {topojax.__version__}")
    pdoc.pdoc("topojax", output_directory=pathlib.Path(folder))
    print(pathlib.Path(folder) / "index.html")


def command() -> None:
    """One argument: the folder."""
    if len(sys.argv) != 2:
        raise UserError("docs/api.py FOLDER: name the folder that the pages go to")
    main(sys.argv[1])


if __name__ == "__main__":
    run_process(command)
