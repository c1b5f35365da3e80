"""The folder of a run: one run, one configuration, one process at a time."""

import contextlib
import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from topojax.config.defaults import RESUMABLE
from topojax.config.io import differences, flat, from_json, to_json
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


def same_config(workdir: pathlib.Path, config: Any) -> None:
    """Refuse to go on with another configuration; fields of `config.RESUMABLE` may change.

    Raises:
      UserError: naming the fields that differ, or for a config.json that cannot be read.
    """
    old = read_config(workdir)
    lines = differences(old, config, ignore=RESUMABLE)
    if lines:
        more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise UserError(
            f"{workdir} holds a run with another configuration ({'; '.join(lines[:_SHOWN])}{more}): "
            "choose another --workdir, or the old values"
        )


def adopted(workdir: pathlib.Path, config: Any) -> Any:
    """A configuration with what the run in `workdir` found out of its data, in the fields that ask for what it asked.

    Args:
      workdir: of a run, or of none yet: then the configuration is returned as it is.
      config: as it was given.
    """
    try:
        found = json.loads((workdir / "found.json").read_text(encoding="utf-8"))["fields"]
        fields, out = dict(flat(config)), config.copy_and_resolve_references()
        for name, (asked, value) in found.items():
            if fields[name] in (asked, value):
                out.update_from_flattened_dict({name: value})
        return out
    except (OSError, ValueError, KeyError, TypeError):
        return config


def write_found(workdir: pathlib.Path, fields: dict[str, tuple[Any, Any]], notes: Iterable[str]) -> None:
    """Save what was found out of the data as found.json: field → [asked, value], and notes in words."""
    write_text(workdir / "found.json", json.dumps({"fields": fields, "notes": list(notes)}, indent=2) + "\n")


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
