"""`python -m topojax COMMAND …` and the script `topojax`: from the first moment an interrupt ends it with one line."""

import os
import signal
from typing import Any, NoReturn


def entry(command: str | None = None) -> NoReturn:
    """Carry out what this process was called for, and end it; see `commands.entry`."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # under nohup it is ignored
        signal.signal(signal.SIGINT, _leave)  # until the command listens: its imports take a tenth of a second
    from topojax.commands import entry as carry_out

    carry_out(command)


def _leave(*_: Any) -> None:
    os.write(2, b"topojax: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    entry()
