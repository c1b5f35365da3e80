"""Faults by the thousand: what docs/reliability.md promises, counted.

  python -m tests.faults kills|members|nonfinite|fuzz|torn|disk|long [--count=N] [--state=FOLDER] [--seed=N]

Each prints its counts as it goes, keeps them in <state>/<name>.json and goes on from there; exit 1 where a promise was
broken. `--count` is how many there are to be in all, smaller ones make a short run of the same.
"""

import argparse
import importlib
import os
import pathlib
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path[:0] = [str(pathlib.Path(__file__).parents[1]), str(pathlib.Path(__file__).parents[2])]

CAMPAIGNS = {
    "kills": 1000,
    "members": 100,
    "nonfinite": 10_000,
    "fuzz": 12_000,
    "torn": 10_000_000,
    "disk": 24,
    "long": 3000,
}
"""Name → how many, unless told."""

LOADING = ("kills", "members", "disk", "long")
"""Those that load one program again and again: what is optimised is smaller, and loads faster."""


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=CAMPAIGNS)
    parser.add_argument("--count", type=int, help="how many in all")
    parser.add_argument("--state", type=pathlib.Path, default=pathlib.Path("runs/faults"), help="where counts are kept")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    state = (arguments.state / arguments.name).absolute()
    state.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for name in ("XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        os.environ.setdefault(name, str(state.parent / "cache"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    if arguments.name not in LOADING:
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    campaign = importlib.import_module(f"tests.faults.{arguments.name}")
    counts = campaign.run(state, arguments.count or CAMPAIGNS[arguments.name], arguments.seed)
    counts.say()
    return 1 if counts["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
