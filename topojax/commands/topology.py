"""Read the topology of the data off the charts of a run: nerve, Euler characteristic, orientability, with the evidence.

  topojax topology --workdir=runs/klein [--data=…] [--out=FILE]

Writes <workdir>/topology.json. No label is used.
"""

import pathlib
from collections.abc import Sequence

from topojax.commands import Parser
from topojax.errors import UserError


def main(argv: Sequence[str]) -> None:
    """Command line."""
    parser = Parser("topology", description="Nerve, Euler characteristic and orientability of a run's charts.")
    parser.add_argument("--workdir", required=True, help="where the run lives")
    parser.add_argument("--data", help="the run's data, where they no longer lie where they did")
    parser.add_argument("--out", type=pathlib.Path, help="the JSON file (default: in the workdir)")
    arguments = parser.parse_args(argv)
    import numpy as np

    from topojax.analysis.topology import text, topology
    from topojax.scoring.run import restore
    from topojax.scoring.split import load_splits
    from topojax.storage.logs import write_json
    from topojax.storage.workdir import located, output

    workdir = located(arguments.workdir)
    path = workdir / "topology.json" if arguments.out is None else output(arguments.out)
    run = restore(workdir)
    train, test = load_splits(run, arguments.data)
    found = topology(run, np.concatenate([np.asarray(train.image), np.asarray(test.image)]))
    try:
        write_json(path, found.as_json())
    except OSError as error:
        raise UserError(f"--out={path} cannot be written: {error.strerror}") from error
    print(f"{text(found)}\n\nwritten to {path}")
