"""Send to MLflow what it lacks of a run, and files made since (a report).

  topojax mlflow --workdir=runs/digits

A training run sends by itself where `config.mlflow.enabled` says so.
"""

from collections.abc import Sequence

from topojax.commands import Parser


def main(argv: Sequence[str]) -> None:
    """Command line."""
    parser = Parser("mlflow", description="Send to MLflow what it lacks of a run, and its files.")
    parser.add_argument("--workdir", required=True, help="where the run lives")
    parser.add_argument("--follow", action="store_true", help="send at each line on stdin, until it ends")
    arguments = parser.parse_args(argv)
    from topojax.storage.workdir import located, require_single
    from topojax.tracking.mlflow_writer import follow, sync

    workdir = located(arguments.workdir)
    require_single(workdir)
    if arguments.follow:
        follow(workdir)
    else:
        print(sync(workdir))
