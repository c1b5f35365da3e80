"""Print the contracts of any checkpoint of a run: who is satisfied, who is not, and what to do about it."""

from collections.abc import Sequence

from topojax.commands import Parser


def main(argv: Sequence[str]) -> None:
    """Command line."""
    parser = Parser("contracts", description="Print the contracts of a run.")
    parser.add_argument("--workdir", required=True, help="where the run lives")
    parser.add_argument("--step", type=int, help="which checkpoint, by epoch (default: the last)")
    parser.add_argument(
        "--averaged", action="store_true", help="measured once more on the averaged parameters that scores are of"
    )
    arguments = parser.parse_args(argv)
    from topojax.scoring.audit import show
    from topojax.storage.workdir import located

    print(show(located(arguments.workdir), arguments.step, averaged=arguments.averaged))
