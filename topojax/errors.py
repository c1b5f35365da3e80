"""What a user can cause and mend, and how a command ends: one line on stderr and a status, never a traceback.

`exit_status` is the one place where a command meets its surroundings: streams that are closed or speak another
encoding, no home, an interrupt. It imports nothing heavy, so that it stands before anything heavy is imported.
"""

import contextlib
import functools
import io
import logging
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NoReturn

USAGE = 2
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
_CLOSED_PIPE = 128 + 13  # SIGPIPE, which Windows does not have
_FAILED = 1


class UserError(Exception):
    """Bad input: one line that says what is wrong, where, and what to do about it.

    Commands print it and exit with status 2, without a traceback; library callers may catch it.
    """


class Stopped(Exception):
    """What ended a run though its input was good, as a disk that is full: one line that says how it can go on.

    Commands print it and exit with status 1, without a traceback.
    """


class Terminated(KeyboardInterrupt):
    """SIGTERM, as Ctrl-C is a KeyboardInterrupt: commands exit with status 143 after it."""


def shown(text: str, length: int = 80) -> str:
    """A text of a stranger on one line, of printable ASCII, shortened.

    Args:
      text: of a file that anybody may have written.
      length: characters of it that are shown.
    """
    return "".join(c if 32 <= ord(c) < 127 else ascii(c)[1:-1] for c in text[:length])


@contextlib.contextmanager
def needing(extra: str, what: str) -> Iterator[None]:
    """Import what an extra brings: where it is missing, one line says which extra, and how it is installed.

    Args:
      extra: of pyproject.toml.
      what: cannot be done without it, as the line begins.

    Raises:
      UserError: in place of an ImportError.
    """
    try:
        yield
    except ImportError as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{what} needs the extra {extra!r} ({reason}): pip install 'topojax[{extra}]'") from error


def tell(line: str) -> None:
    """A line on stderr, where there is one that takes it: words about a run never end it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # full or gone; closed; no stream at all
        stream = sys.stderr
        try:
            stream.write(f"{line}\n")
        except UnicodeEncodeError:
            stream.write(f"{line}\n".encode("ascii", "backslashreplace").decode())
        stream.flush()


_DETAILS = "See full TensorStore details"
"""What orbax puts before the name of a function, where details should be."""
_LONGEST = 200
"""Characters of what a library said."""
_OF_THE_SYSTEM = ("No space left on device", "Read-only file system", "Permission denied", "Disk quota exceeded")


def reason(cause: object) -> str:
    """What a library said, in a line; of an exception that was raised from another, what that one said."""
    while isinstance(cause, BaseException) and cause.__cause__ is not None:
        cause = cause.__cause__
    said = " ".join(str(cause).split()).partition(_DETAILS)[0].rstrip(" .") or type(cause).__name__
    for known in _OF_THE_SYSTEM:
        if known in said:  # libraries say so much around it
            return known
    return said if len(said) <= _LONGEST else f"{said[: _LONGEST - 1]}…"


@functools.cache
def tell_once(line: str) -> None:
    """A line on stderr, where it has not been said before by this process."""
    tell(line)


def run_process(command: Callable[[], int | None]) -> NoReturn:
    """End this process with the `exit_status` of a command.

    After an interrupt at once: whoever asked for that does not wait for threads that compile.
    """
    status = exit_status(command)
    if status in (INTERRUPTED, TERMINATED) or _AT_ONCE:
        os._exit(status)
    sys.exit(status)


_AT_ONCE: list[bool] = []


def leave_at_once() -> None:
    """Have `run_process` end this process without waiting for its threads, nor for other processes."""
    _AT_ONCE.append(True)


def exit_status(command: Callable[[], int | None]) -> int:
    """Run a command, in whatever surroundings it has been started.

    Args:
      command: returns the status, None for 0.

    Returns:
      What it returns; 2 and one line on stderr for a `UserError`; 130 and one line when interrupted, 143 when
      terminated; 1 and one line where the system refuses something, as a disk that is full; 141 where nobody reads
      stdout any more.
    """
    _open_streams()
    _leave_the_screen_and_home()
    with _interrupts((signal.SIGINT, signal.SIGTERM), _on_interrupt):
        try:
            status = command() or 0
            return _flushed() or status
        except UserError as error:
            _flushed()
            tell(f"topojax: error: {' '.join(str(error).split())}")
            return USAGE
        except Stopped as stopped:
            _flushed()
            tell(f"topojax: error: {' '.join(str(stopped).split())}")
            return _FAILED
        except KeyboardInterrupt as interrupt:
            _flushed()
            number = signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT
            tell(_interrupted(number, str(interrupt)))
            return 128 + number
        except OSError as error:  # a disk that is full, stdout that nobody reads
            return _flushed() or _failed(error)
        except SystemExit as ended:  # argparse's, of --help
            return _flushed() or (ended.code if isinstance(ended.code, int) else 0)


def _open_streams() -> None:
    """Give a closed stream somewhere to go, and let every stream degrade what its encoding does not have.

    A descriptor below 3 that is closed would be given to the next file that is opened, and whatever a library says on
    stderr would be written into that file.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _leave_the_screen_and_home() -> None:
    """Nothing here is drawn on a screen; and without a home, one that cannot be written is what libraries expect."""
    os.environ["MPLBACKEND"] = "agg"  # matplotlib refuses to be imported under a name that it does not know
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # where its own cache goes is of no interest
    try:
        pathlib.Path.home()
    except RuntimeError:
        os.environ["HOME"] = os.devnull


@contextlib.contextmanager
def interrupts_noted() -> Iterator[None]:
    """Have Ctrl-C and SIGTERM raise KeyboardInterrupt or `Terminated` within, or be noted where they are deferred.

    For what a script or a notebook calls; within a command, which does so already, and beside handlers of the caller's
    own it changes nothing.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    with _interrupts([n for n, handler in usual.items() if signal.getsignal(n) == handler], _note):
        yield


@contextlib.contextmanager
def _interrupts(numbers: Sequence[signal.Signals], react: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have some signals handled by a function, then as they were before."""
    if not numbers or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, react)
    try:
        yield
    finally:
        _INTERRUPTS.clear()
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


_INTERRUPTS: list[int] = []
"""Interrupts of this process that have been raised or noted: what raises inside a callback of a library may be dropped
there."""
_DEFERRING: list[bool] = [False]


@contextlib.contextmanager
def interrupts_deferred(deferred: bool = True) -> Iterator[None]:
    """The first interrupt within is noted, for `raise_if_interrupted`; the second is raised at once.

    For work that must not be left half done, and asks often.

    Args:
      deferred: False, within such work, for a part that may be left at any time.
    """
    if not deferred:
        raise_if_interrupted()
    _DEFERRING.append(deferred)
    try:
        yield
    finally:
        _DEFERRING.pop()


def interrupted() -> bool:
    """Whether an interrupt has been noted or swallowed."""
    return bool(_INTERRUPTS)


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt or `Terminated` where an interrupt was noted, or raised before and swallowed.

    For long loops, once a turn.
    """
    if _INTERRUPTS:
        raise _exception(_INTERRUPTS[-1])


def _exception(number: int) -> KeyboardInterrupt:
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    """End an import at once; elsewhere `_note`."""
    # A module that is interrupted while it is imported may swallow that, or turn it into an error of its own.
    while frame is not None and not _DEFERRING[-1]:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            tell(_interrupted(number, ""))
            os._exit(128 + number)
        frame = frame.f_back
    _note(number, frame)


def _note(number: int, frame: FrameType | None) -> None:
    _INTERRUPTS.append(number)
    if not _DEFERRING[-1] or len(_INTERRUPTS) > 1:
        raise _exception(number)


def _interrupted(number: int, said: str) -> str:
    return f"topojax: {'terminated' if number == signal.SIGTERM else 'interrupted'}{': ' if said else ''}{said}"


def _flushed() -> int:
    """Bring out what stdout holds: 0, or the status where that fails, and then nothing tries again."""
    try:
        sys.stdout.flush()
    except (AttributeError, ValueError):  # not a stream, or closed by the command
        return 0
    except OSError as error:
        with contextlib.suppress(OSError, AttributeError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())  # the interpreter tries once more at its end
            os.close(null)
        return _failed(error, "stdout")
    return 0


def _failed(error: OSError, what: str = "") -> int:
    if isinstance(error, BrokenPipeError):
        return _CLOSED_PIPE
    what = what or " ".join(str(error.filename or "").split())
    tell(f"topojax: error: {f'{what}: ' if what else ''}{error.strerror or error}")
    return _FAILED
