"""The one exception that a user can cause and mend, and how a command reports it."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input: one line that says what is wrong, where, and what to do about it.

    Commands print it and exit with status 2, without a traceback; library callers may catch it.
    """


def exit_status(command: Callable[[], None]) -> int:
    """Run a command: 0, or 2 and one line on stderr for a `UserError`."""
    try:
        command()
    except UserError as error:
        print(f"topojax: error: {error}", file=sys.stderr)
        return 2
    return 0
