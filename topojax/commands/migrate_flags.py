"""Translate a command line of the original program.

  topojax migrate-flags -- --dataset mnist --epochs 3000 --lr 0.01 --adaptive_lr true
  topojax migrate-flags --table                        what every flag becomes (docs/flags.md)

Prints the equivalent topojax line on stdout and, on stderr, which of the given flags mean nothing here and why. Data,
sizes, seed and rate that the line leaves out are the original's defaults; loss weights and controllers are topojax's,
unless --defaults asks for the original's there too.
"""

import argparse
from collections.abc import Sequence

from topojax.commands import Parser
from topojax.errors import tell


def main(argv: Sequence[str]) -> None:
    """Command line."""
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = Parser(
        "migrate-flags",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [--defaults] -- FLAGS OF THE ORIGINAL",
    )
    parser.add_argument("--defaults", action="store_true", help="the original's defaults for all flags not given")
    parser.add_argument("--table", action="store_true", help="print what every flag becomes, as Markdown")
    own = parser.parse_args(argv[:cut])
    from topojax.config.migrate_flags import migrate, shell, table

    if own.table:
        print(table(), end="")
        return
    if cut == len(argv):
        parser.error("put -- before the original's flags")
    words, remarks = migrate(argv[cut + 1 :], defaults=own.defaults)
    print(shell(words))
    for remark in remarks:
        tell(f"# {remark}")
