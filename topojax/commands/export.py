"""Export what a run says of a split (`analysis.export`).

topojax export --workdir=runs/digits --out=digits.npz
topojax export --workdir=runs/digits --out=digits.parquet     (extra `parquet`)
topojax export --workdir=runs/digits --out=projector          TensorBoard's projector: a folder
"""

from collections.abc import Sequence

from topojax.commands import Parser


def main(argv: Sequence[str]) -> None:
    """Command line."""
    parser = Parser("export", description="Export embeddings and codes of a run.")
    parser.add_argument("--workdir", required=True, help="where the run lives")
    parser.add_argument("--out", required=True, help="FILE.npz, FILE.parquet, or a folder for TensorBoard's projector")
    parser.add_argument("--step", type=int, help="which checkpoint, by epoch (default: the latest)")
    parser.add_argument("--split", choices=("train", "test"), default="test", help="default: test")
    arguments = parser.parse_args(argv)
    from topojax.analysis.export import export
    from topojax.storage.runtime import use_compilation_cache

    use_compilation_cache()
    print(f"written to {export(arguments.workdir, arguments.out, step=arguments.step, split=arguments.split)}")
