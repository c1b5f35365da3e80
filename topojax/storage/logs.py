"""Where a run's numbers go: JSON lines always, other sinks (TensorBoard, MLflow) when asked."""

import contextlib
import errno
import json
import math
import os
import pathlib
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any

import numpy as np

from topojax.errors import reason, tell


def number(value: Any) -> float | int | bool | None:
    """A scalar as JSON has it: float32 by its shortest digits (0.01, not 0.00999999), None if not finite."""
    scalar = np.asarray(value)[()]
    if isinstance(scalar, np.bool_):
        return bool(scalar)
    if isinstance(scalar, np.integer):
        return int(scalar)
    return float(str(scalar)) if math.isfinite(scalar) else None


def numbers(metrics: Mapping[str, Any]) -> dict[str, float | int | bool | None]:
    """`number` of each scalar."""
    return {name: number(value) for name, value in metrics.items()}


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Where to write what is to stand at `path` whole or not at all: another name in its folder, renamed at the end.

    A link stays one, and a device or a pipe, as /dev/stdout, is written into: a rename would put a file in its place.

    Args:
      path: of the file; what is there stays until the new one is whole.
    """
    if path.is_symlink() and path.exists():
        path = path.resolve()
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a file `whole`, and have the system keep it.

    Raises:
      OSError: where the folder cannot be written.
    """
    try:
        with whole(path) as part, part.open("w", encoding="utf-8") as file:
            file.write(text)
            _kept(file)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_all(folder: pathlib.Path, files: Mapping[str, bytes]) -> None:
    """Write files that belong together: none takes its place before all are written.

    Args:
      folder: made if missing, in one that is there; gone again where nothing can be written.
      files: name → what is in it.

    Raises:
      OSError: where the folder cannot be written; what was there stays.
    """
    there = folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        with contextlib.ExitStack() as parts:
            for name, data in files.items():
                with parts.enter_context(whole(folder / name)).open("wb") as file:
                    file.write(data)
                    _kept(file)
    except OSError:
        if not there:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _kept(file: IO[Any]) -> None:
    """Have the system keep what was written."""
    file.flush()
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # devices and pipes refuse
        os.fsync(file.fileno())


def write_json(path: pathlib.Path, value: Any) -> None:
    """`write_text` of `value` as indented JSON; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


class JsonLines:
    """A file of one JSON object a line, each with an 'epoch'.

    Opened for a run that goes on from some epoch, it drops the lines of later epochs and a last line that was
    cut off, so that a resumed file equals an uninterrupted one.

    Args:
      path: of the file; made if missing.
      epoch: the epoch the run goes on from; 0 empties the file.
    """

    def __init__(self, path: pathlib.Path, epoch: int):
        write_text(path, "".join(lines_until(path, epoch)))
        self._path, self._file = path, path.open("ab", buffering=0)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one object, whole: in one call of the operating system; NaN is refused.

        Raises:
          OSError: it took none of the line, or a part; what is left of it is dropped when the file is opened again.
        """
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        try:
            if not self._path.exists():  # a file that was removed would take lines that nobody finds
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def lines_until(path: pathlib.Path, epoch: int) -> list[str]:
    """The whole lines of such a file up to an epoch, or up to one that is damaged; none where there is no file."""
    return [line for row, line in _whole_lines(path) if row["epoch"] <= epoch]


def rows_of(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The objects of such a file, up to one that is damaged or still being written; none where there is no file."""
    return (row for row, _ in _whole_lines(path))


def _whole_lines(path: pathlib.Path) -> Iterator[tuple[dict[str, Any], str]]:
    """One line after the other: the file of a long run is larger than what is kept of it."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                text = line.decode()
                row = json.loads(text, parse_constant=_refuse)
            except (ValueError, RecursionError):
                return
            if not text.endswith("\n") or not isinstance(row, dict) or type(row.get("epoch")) is not int:
                return
            yield row, text


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


Row = Mapping[str, float | int | bool | None]
"""One logged epoch: name → number, None where it was not finite."""


class Sink:
    """A place where a run shows what it does. A sink overrides what it has a use for."""

    def metrics(self, epoch: int, step: int, values: Row) -> None:
        """One row of scalars."""

    def event(self, epoch: int, step: int, event: Mapping[str, Any]) -> None:
        """One decision (`events.events`)."""

    def view(self, epoch: int, step: int, state: Any, predictions: Mapping[str, np.ndarray]) -> None:
        """The training state, valid during the call, and what it says of the test split (`evaluate.predict`)."""

    def finish(self, result: Mapping[str, Any]) -> None:
        """The run is done and its files are written."""

    def close(self) -> None:
        """Let go, whether finished or not."""


class Files(Sink):
    """metrics.jsonl, events.jsonl, and usage.jsonl: at each log, which share of the test examples each chart has.

    Args:
      workdir: of the run.
      epoch: the epoch it goes on from, 0 for a new run.
    """

    def __init__(self, workdir: pathlib.Path, epoch: int):
        self._metrics = JsonLines(workdir / "metrics.jsonl", epoch)
        self._events = JsonLines(workdir / "events.jsonl", epoch)
        self._usage = JsonLines(workdir / "usage.jsonl", epoch)

    def metrics(self, epoch: int, step: int, values: Row) -> None:
        """One line."""
        self._metrics.write({"epoch": epoch, "step": step, **values})

    def event(self, epoch: int, step: int, event: Mapping[str, Any]) -> None:
        """One line."""
        self._events.write({"epoch": epoch, "step": step, **event})

    def view(self, epoch: int, step: int, state: Any, predictions: Mapping[str, np.ndarray]) -> None:
        """One line."""
        chart, code = predictions["chart"], predictions["code"]
        count = np.bincount(chart, minlength=predictions["router"].shape[1])
        used = len(np.unique(np.stack([chart, code]), axis=1).T)
        shares = [round(float(share), 6) for share in count / len(chart)]
        self._usage.write({"epoch": epoch, "step": step, "charts": shares, "codes_used": used})

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()
        self._events.close()
        self._usage.close()


class Writers(Sink):
    """The files of a run and any other sinks, as one.

    The files must take what they are given. A board that fails is left, with a line on stderr: the run is in its files.

    Args:
      workdir: of the run.
      epoch: the epoch it goes on from, 0 for a new run.
      others: made before anything is written, so that one that cannot be made costs nothing.
    """

    def __init__(self, workdir: pathlib.Path, epoch: int, others: Iterable[Sink] = ()):
        self._boards = list(others)
        self._files = Files(workdir, epoch)

    def metrics(self, epoch: int, step: int, values: Row) -> None:
        """One row of scalars, with `nonfinite`, the count of those that are None."""
        row = {**values, "nonfinite": sum(value is None for value in values.values())}
        self._to_all(lambda sink: sink.metrics(epoch, step, row))

    def event(self, epoch: int, step: int, event: Mapping[str, Any]) -> None:
        """One decision, to all."""
        self._to_all(lambda sink: sink.event(epoch, step, event))

    def view(self, epoch: int, step: int, state: Any, predictions: Mapping[str, np.ndarray]) -> None:
        """State and predictions, to all."""
        self._to_all(lambda sink: sink.view(epoch, step, state, predictions))

    def finish(self, result: Mapping[str, Any]) -> None:
        """The end of the run, to all."""
        self._to_all(lambda sink: sink.finish(result))

    def close(self) -> None:
        """Close all."""
        self._to_all(lambda sink: sink.close())

    def _to_all(self, say: Callable[[Sink], None]) -> None:
        say(self._files)
        for board in list(self._boards):
            try:
                say(board)
            except Exception as error:  # each library has its own
                self._boards.remove(board)
                tell(f"topojax: warning: {type(board).__name__} fails, the run goes on without it: {reason(error)}")
