"""Data sets: `topojax data list` shows what there is, `topojax data fetch NAME` downloads."""

from collections.abc import Sequence

from topojax.commands import Parser


def main(argv: Sequence[str]) -> None:
    """Command line."""
    parser = Parser("data", description="Data sets: list them, fetch one.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Part)
    listing = commands.add_parser("list", help="names, sizes and shapes")
    fetching = commands.add_parser("fetch", help="download a data set and prepare it with tfds")
    fetching.add_argument("name", help="mnist, cifar10, or any other image set of tfds; the rest need no fetching")
    for command in (listing, fetching):
        command.add_argument("--data_dir", help="default: $TFDS_DATA_DIR, or ~/tensorflow_datasets")
    arguments = parser.parse_args(argv)
    from topojax.data import sets, tfds_arrays
    from topojax.errors import UserError

    if arguments.command == "list":
        for name in sets.NAMES:
            print(f"{name:14} {sets.describe(name, arguments.data_dir)}")
        return
    if arguments.name in sets.NAMES and arguments.name not in tfds_arrays.SOURCES:
        raise UserError(f"{arguments.name!r} cannot be fetched: choose one of {', '.join(tfds_arrays.SOURCES)}")
    print(f"{arguments.name} is in {tfds_arrays.fetch(arguments.name, arguments.data_dir)}")


class _Part(Parser):
    """The parser of `data list` or `data fetch`, whose name argparse makes."""

    def __init__(self, prog: str, **options):
        super().__init__(prog.removeprefix("topojax "), **options)
