"""The folder of a run: one run, one configuration, one process at a time."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from topojax.config.changes import changes, may_change
from topojax.config.io import from_json, to_json
from topojax.errors import UserError
from topojax.storage.logs import write_text

_SHOWN = 5


@contextlib.contextmanager
def claim(workdir: pathlib.Path) -> Iterator[None]:
    """Make the folder if need be and hold it against other processes.

    Raises:
      UserError: it cannot be made or written, or another process trains in it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("a")
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error.strerror}") from error
    with lock:
        try:
            import fcntl  # not on Windows, where nothing is held
        except ImportError:
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"--workdir={workdir}: another process is training there") from error
        except OSError:  # a file system without locks
            pass
        yield


def same_config(workdir: pathlib.Path, config: Any, *, allow_change: bool = False) -> None:
    """Refuse to go on with another configuration; fields of `config.RESUMABLE` may change.

    Args:
      workdir: of the run.
      config: to go on with.
      allow_change: fields of `changes.CHANGEABLE` may change too.

    Raises:
      UserError: naming the fields that differ, or for a config.json that cannot be read.
    """
    found = changes(read_config(workdir), config)
    fixed = [change for change in found if not may_change(change.field)]
    if found and not (allow_change and not fixed):
        named = fixed or found
        lines = [f"{name}: {old} → {new}" for name, old, new in named]
        more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        advice = "" if fixed else ", or --allow_change to go on with the new ones"
        raise UserError(
            f"{workdir} holds a run with another configuration ({'; '.join(lines[:_SHOWN])}{more}): "
            f"choose another --workdir, or the old values{advice}"
        )


def read_config(workdir: pathlib.Path) -> Any:
    """The configuration of the run in `workdir`.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    path = workdir / "config.json"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"no run in {workdir}: cannot read {path}") from error
    return from_json(text, str(path))


def write_config(workdir: pathlib.Path, config: Any) -> None:
    """Save the configuration as config.json."""
    write_text(workdir / "config.json", to_json(config))


def finished(workdir: pathlib.Path, epochs: int) -> bool:
    """Whether result.json says that the run has had all its epochs."""
    try:
        return json.loads((workdir / "result.json").read_text(encoding="utf-8"))["epochs"] == epochs
    except (OSError, ValueError, KeyError, TypeError):
        return False
