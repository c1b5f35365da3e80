"""Command line of the report."""

import argparse
import sys

from topojax.errors import exit_status


def main(argv: list[str] | None = None) -> int:
    """Write a report; 2 on a UserError."""
    parser = argparse.ArgumentParser(
        "python -m topojax.report", description="One page about a run, that opens offline."
    )
    parser.add_argument("--workdir", help="where the run lives (default: the first of --compare)")
    parser.add_argument("--step", type=int, help="which checkpoint, by epoch (default: the latest)")
    parser.add_argument("--compare", nargs="+", default=[], metavar="DIR", help="other runs, in the same figures")
    arguments = parser.parse_args(argv)
    if not (arguments.workdir or arguments.compare):
        parser.error("--workdir is required")
    workdir, *others = [arguments.workdir, *arguments.compare] if arguments.workdir else arguments.compare

    def carry_out() -> None:
        from topojax.report.write import write
        from topojax.storage.runtime import use_compilation_cache

        use_compilation_cache()
        page = write(workdir, step=arguments.step, compare=others)
        print(f"{page} and {len(list(page.parent.glob('*.png')))} PNGs beside it")
        if (page.parent.parent / "mlflow.json").exists():  # the run is on MLflow: so is its report
            from topojax.tracking.mlflow_writer import sync

            sync(page.parent.parent)

    return exit_status(carry_out)


if __name__ == "__main__":
    sys.exit(main())
