"""What every configuration field means, with its unit and default.

topojax fields                    the whole page, as Markdown (docs/config.md)
topojax fields governor           one block, or any field whose name holds the word
"""

from collections.abc import Sequence

from topojax.commands import Parser


def main(argv: Sequence[str]) -> None:
    """Command line."""
    parser = Parser("fields", description="Print what configuration fields mean, with their defaults.")
    parser.add_argument("word", nargs="?", help="only fields whose name holds it (default: all, as Markdown)")
    word = parser.parse_args(argv).word
    from topojax.config.fields import lookup, page

    print(lookup(word) if word else page().rstrip())
