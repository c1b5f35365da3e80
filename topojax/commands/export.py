"""Export what a run says of a split (`analysis.export`).

topojax export --workdir=runs/digits --out=digits.npz
topojax export --workdir=runs/digits --out=digits.parquet     for embedding-atlas (extra `parquet`)
topojax export --workdir=runs/digits --out=digits.h5ad        for scanpy (extra `anndata`)
topojax export --workdir=runs/digits --out=projector          TensorBoard's projector: a folder
topojax export --workdir=runs/digits --out=programs --format=stablehlo      encoder and decoder as programs
"""

from collections.abc import Sequence

from topojax.commands import Parser


def main(argv: Sequence[str]) -> None:
    """Command line."""
    parser = Parser("export", description="Export embeddings and codes of a run.")
    parser.add_argument("--workdir", required=True, help="where the run lives")
    parser.add_argument("--out", required=True, help="FILE.npz, FILE.parquet, FILE.h5ad, or a folder")
    parser.add_argument(
        "--format", choices=("stablehlo",), help="write encoder and decoder as programs into the folder"
    )
    parser.add_argument("--data", help="the run's data, where they no longer lie where they did")
    parser.add_argument("--step", type=int, help="which checkpoint, by epoch (default: the latest)")
    parser.add_argument("--split", choices=("train", "test"), default="test", help="default: test")
    arguments = parser.parse_args(argv)
    from topojax.analysis.export import export
    from topojax.storage.runtime import use_compilation_cache

    use_compilation_cache()
    a = arguments
    path = export(a.workdir, a.out, step=a.step, split=a.split, data=a.data, format=a.format)
    print(f"written to {path}")
