"""Write the page about a run, or about several side by side.

topojax report --workdir=runs/digits                              runs/digits/report/index.html
topojax report --workdir=runs/digits --every=50                   with a slider over the checkpoints, a PNG of each
topojax report --workdir=runs/digits --compare runs/a runs/b      runs/digits/comparison/index.html
"""

from collections.abc import Sequence

from topojax.commands import Parser


def main(argv: Sequence[str]) -> None:
    """Command line."""
    parser = Parser("report", description="One page about a run, that opens offline.")
    parser.add_argument("--workdir", help="where the run lives (default: the first of --compare)")
    parser.add_argument("--step", type=int, help="which checkpoint, by epoch (default: the latest)")
    parser.add_argument("--data", help="the run's data, where they no longer lie where they did")
    parser.add_argument("--compare", nargs="+", default=[], metavar="DIR", help="other runs, in the same figures")
    parser.add_argument("--every", type=int, metavar="N", help="also the atlas at every N-th epoch that is saved")
    arguments = parser.parse_args(argv)
    if not (arguments.workdir or arguments.compare):
        parser.error("--workdir is required")
    workdir, *others = [arguments.workdir, *arguments.compare] if arguments.workdir else arguments.compare
    from topojax.report.write import write
    from topojax.storage.runtime import use_compilation_cache

    use_compilation_cache()
    page = write(workdir, step=arguments.step, compare=others, data=arguments.data, every=arguments.every)
    print(f"{page} and {len(list(page.parent.glob('*.png')))} PNGs beside it")
    if (page.parent.parent / "mlflow.json").exists():  # the run is on MLflow: so is its report
        from topojax.tracking.mlflow_writer import sync

        print(sync(page.parent.parent))
