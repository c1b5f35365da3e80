"""A process that is aborted from below says so in one line, and ends with status 1.

JAX's coordination service ends a process that has lost the others by abort(), after many words on the stream of the
process. They go elsewhere here, and with them what collectives print when they connect.
"""

import ctypes
import io
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

_PATIENCE_S = 10.0
"""For a process that has begun to leave by itself."""
_KEPT: list[Any] = []
"""What must live as long as the process: the handler, and where the words go."""
_LEAVING: list[bool] = []


def leaving() -> None:
    """Let the process say its own line before an abort does: it has begun to leave."""
    _LEAVING.append(True)


def watch(line: Callable[[str], str]) -> None:
    """From here on, answer an abort with a line on stderr and status 1; once a process.

    Args:
      line: what libraries said last → the line.
    """
    if _KEPT or os.name != "posix":
        return
    noise = tempfile.TemporaryFile()  # noqa: SIM115
    ours = _divert(noise.fileno())

    def on_abort(_: int) -> None:
        if _LEAVING:
            time.sleep(_PATIENCE_S)
        # Whoever has begun to leave and is still here waits for a service that is gone: its line never comes.
        leaving()
        os.write(ours, f"topojax: error: {line(_tail(noise.fileno()))}\n".encode())
        os._exit(1)

    # Not Python's own handlers: they wait for the interpreter to come round, and abort() does not.
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(on_abort)
    install = ctypes.CDLL(None).signal
    install.restype, install.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    install(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    _KEPT.extend((noise, handler))


def who(words: str) -> int | None:
    """The process that the coordination service names as lost; None where it names none."""
    if "Failed to send RPC to coordination service" in words:  # which is process 0
        return 0
    found = re.search(r"[Tt]ask[: ]?(\d+) heartbeat|task:(\d+)", words)
    return int(found[1] or found[2]) if found else None


def _divert(noise: int) -> int:
    """Let Python's streams go on as they are, and what is written past them to a file; returns stderr's descriptor."""
    kept = {}
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        kept[number] = os.dup(number)
        if isinstance(stream, io.TextIOWrapper) and stream.fileno() == number:
            stream.flush()
            lines = 1 if stream.line_buffering else -1
            ours = open(kept[number], "w", lines, stream.encoding, stream.errors)  # noqa: SIM115
            setattr(sys, name, ours)
        os.dup2(noise, number)
    return kept[2]


def _tail(noise: int) -> str:
    size = os.fstat(noise).st_size
    return os.pread(noise, 4096, max(0, size - 4096)).decode(errors="replace")
