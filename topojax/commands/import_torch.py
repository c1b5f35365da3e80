"""Make a workdir of a checkpoint of the original program.

  topojax import-torch topo_epoch_01200.pt --workdir=runs/imported [--verify=reference.npz]
  topojax train --config=runs/imported/config.py --workdir=runs/imported --config.train.epochs=1300

The file is read without torch, and nothing in it is executed. It may also be an .npz or .safetensors of the same names.
What could not be carried over is said, and stands in provenance.json.
"""

import argparse
import pathlib
from collections.abc import Sequence

from topojax.commands import Parser


def main(argv: Sequence[str]) -> None:
    """Command line."""
    parser = Parser("import-torch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=pathlib.Path, help="topo_epoch_….pt, or .npz or .safetensors")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="the folder to make")
    parser.add_argument("--verify", type=pathlib.Path, help=".npz of inputs x and the original's outputs")
    parser.add_argument(
        "--controllers",
        choices=("kept", "fresh"),
        default="kept",
        help="kept: weights, targets and rate that were reached; fresh: this program's own (default: kept)",
    )
    arguments = parser.parse_args(argv)
    from topojax.storage.runtime import use_compilation_cache
    from topojax.training.original_import import import_original

    use_compilation_cache()
    fresh = arguments.controllers == "fresh"
    for line in import_original(arguments.file, arguments.workdir, reference=arguments.verify, fresh=fresh):
        print(line)
    print(f"written to {arguments.workdir}: topojax evaluate, report, export and train take it from here")
