"""`python -m topojax COMMAND …` and the script `topojax`: from the first moment a signal ends it with one line."""

import os
import signal
from typing import Any, NoReturn


def entry(command: str | None = None) -> NoReturn:
    """Carry out what this process was called for, and end it; see `commands.entry`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):  # under nohup it is ignored
            signal.signal(number, _leave)  # until the command listens: its imports take a tenth of a second
    from topojax.commands import entry as carry_out

    carry_out(command)


def _leave(number: int, _: Any) -> None:
    os.write(2, b"topojax: terminated\n" if number == signal.SIGTERM else b"topojax: interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    entry()
