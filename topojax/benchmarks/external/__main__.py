"""Tasks from outside, beside other libraries.

  python -m topojax.benchmarks.external [--part=PART|all] [--out=runs/external] [--minutes=14]
  python -m topojax.benchmarks.external --pages      write docs/external.md's tables from docs/external/*.jsonl

Each part keeps what is done in OUT/PART.jsonl and stops before `--minutes` are over; the same command goes on.
cooper and humancompatible-train are the extra `external`; without it their rows are left out, with a line that says so.
"""

import argparse
import functools
import importlib
import pathlib
import sys
from collections.abc import Sequence

from topojax.commands import Parser
from topojax.errors import run_process, tell

PARTS = ("analytic", "burgers", "overhead", "quadratic_deep", "mnist_vae")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its status."""
    parser = Parser(
        prog="python -m topojax.benchmarks.external",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/external"))
    parser.add_argument(
        "--minutes", type=float, default=14.0, help="of each part; no job is begun that would end later"
    )
    parser.add_argument("--pages", action="store_true", help="write docs/external.md from docs/external/; runs nothing")
    parser.add_argument("--at-once", type=int, default=3, help="runs of burgers in one program; more suit a GPU")
    options = parser.parse_args(argv)
    if options.pages:
        from topojax.benchmarks.external import written as pages

        pages.write(pathlib.Path.cwd())
        return 0
    from topojax.benchmarks.external.jobs import work

    done = True
    for name in PARTS if options.part == "all" else (options.part,):
        part = importlib.import_module(f"topojax.benchmarks.external.{name}")
        jobs = functools.partial(part.jobs, at_once=options.at_once) if name == "burgers" else part.jobs
        records, whole = work(jobs, options.out / f"{name}.jsonl", 60 * options.minutes)
        print(part.markdown(records), flush=True)
        done &= whole
    if not done:
        tell("time is up; run the same command again to go on")
    return 0


if __name__ == "__main__":
    run_process(lambda: main(sys.argv[1:]))
