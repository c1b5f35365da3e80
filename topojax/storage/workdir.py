"""The folder of a run: one run, one configuration, one process at a time."""

import contextlib
import json
import os
import pathlib
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from topojax.config.changes import changes, may_change
from topojax.config.io import flat, from_json, to_json
from topojax.config.validate import validate
from topojax.errors import UserError, tell, tell_once
from topojax.storage.logs import write_text

_SHOWN = 5

_NAMES = ("metrics.jsonl", "events.jsonl", "usage.jsonl", "result.json", "population.json", "config.json")
"""Files of a run that a new one would replace; config.json is there before the others."""


@contextlib.contextmanager
def claim(workdir: pathlib.Path) -> Iterator[None]:
    """Make the folder if need be and hold it against other processes.

    Raises:
      UserError: it cannot be made or written, or another process trains in it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("a+")
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error.strerror}") from error
    with lock:
        try:
            import fcntl  # not on Windows, where nothing is held
        except ImportError:
            yield
            return
        try:  # the system's lock: it goes with the process, however that ends
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            who = lock.read().strip()
            raise UserError(f"--workdir={workdir}: another process is training there ({who})") from error
        except OSError as error:
            tell(f"topojax: warning: {workdir} cannot be locked ({error.strerror}): let no other process train there")
        with contextlib.suppress(OSError):  # who holds it is for the message above alone
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
        for left in workdir.glob(".*.part"):  # by a process that was killed while it wrote
            left.unlink(missing_ok=True)
        yield


def own(workdir: pathlib.Path) -> None:
    """Refuse a folder whose files bear a run's names and are none: what is somebody else's is not overwritten.

    Raises:
      UserError: naming the file, and the way out.
    """
    bearing = [name for name in _NAMES if (workdir / name).exists()]
    if not bearing:
        return
    try:
        read_config(workdir)
    except UserError as error:
        again = (workdir / "checkpoints").is_dir() and (workdir / "config.json").is_file()
        advice = ", or remove config.json, which is then written again from the last checkpoint" if again else ""
        raise UserError(
            f"--workdir={workdir} holds {bearing[0]}, but no configuration of a run of topojax ({error}): "
            f"name another folder{advice}"
        ) from error


def located(workdir: str | pathlib.Path, what: str = "workdir") -> pathlib.Path:
    """A workdir as it was typed: ~ is the home, and what is no folder of this machine is refused at once.

    Args:
      workdir: or another path.
      what: it is, for the message.

    Raises:
      UserError: a URL, a name that is not text, or a home that is not there.
    """
    text = os.fspath(workdir)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text) and not re.match(r"[A-Za-z]:[/\\]", text):
        raise UserError(f"{what} {text}: runs live on file systems, choose a folder (a mounted one for {text[:2]}…)")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{what} {text!r}: its name is not UTF-8, choose another") from error
    if "\0" in text:
        raise UserError(f"{what} {text!r}: no name holds a zero byte, choose another")
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{what} {text}: there is no such home") from error


def output(path: str | pathlib.Path) -> pathlib.Path:
    """A path to write to as it was typed, `located`; what a run has written is not written over.

    Raises:
      UserError: as of `located`, or a file of a run.
    """
    out = located(path, "--out")
    if out.name in _NAMES and out.exists() and (out.parent / "config.json").exists():
        raise UserError(f"--out={out} is a file of a run: name another")
    return out


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


def adopted(workdir: pathlib.Path, config: Any) -> Any:
    """A configuration with what the run in `workdir` found out of its data, in the fields that ask for what it asked.

    Args:
      workdir: of a run, or of none yet: then the configuration is returned as it is.
      config: as it was given.
    """
    found = _found(workdir, config)
    out = config.copy_and_resolve_references() if found else config
    for name, (_, value) in found.items():
        out.update_from_flattened_dict({name: value})
    return out


def _found(workdir: pathlib.Path, config: Any) -> dict[str, tuple[Any, Any]]:
    """The fields of found.json that a configuration asks for, or has as they were found: [asked, value]."""
    try:
        found = json.loads((workdir / "found.json").read_text(encoding="utf-8"))["fields"]
        fields = dict(flat(config))
        return {name: (asked, value) for name, (asked, value) in found.items() if fields[name] in (asked, value)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def write_found(workdir: pathlib.Path, config: Any, fields: dict[str, tuple[Any, Any]], notes: Iterable[str]) -> None:
    """Save what was found out of the data as found.json: field → [asked, value], and notes in words.

    What `config` has adopted of an earlier one stays in it: a run that was left before its first checkpoint.
    """
    told = {"fields": _found(workdir, config) | fields, "notes": list(notes)}
    write_text(workdir / "found.json", json.dumps(told, indent=2) + "\n")


def as_trained(workdir: pathlib.Path, config: Any) -> set[str]:
    """The fields that stand as the run in `workdir` was trained: nothing is found out for them when it goes on.

    A run of a former version has not measured all that this one measures.

    Args:
      workdir: of a run with a checkpoint; without a config.json that can be read there are none.
      config: as `adopted` has it.
    """
    try:
        trained = dict(flat(read_config(workdir)))
    except UserError:
        return set()
    return {name for name, value in flat(config) if name in trained and trained[name] == value}


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
    return valid(from_json(text, str(path)), str(path))


def config_of(workdir: pathlib.Path, meta: Mapping[str, Any]) -> Any:
    """The configuration that a checkpoint was trained with: config.json's, unless the checkpoint's own says otherwise.

    Then the checkpoint's is taken, with a line on stderr: config.json may have been edited, or damaged, or be that of a
    run that has gone on with other settings since.

    Args:
      workdir: of the run.
      meta: of the checkpoint.

    Raises:
      UserError: config.json cannot be read.
    """
    config = read_config(workdir)
    if "config" not in meta:
        return config
    own = from_json(json.dumps(meta["config"]), f"checkpoint {meta.get('epoch')} of {workdir}")
    found = changes(own, config)
    if not found:
        return config
    named = "; ".join(f"{field} {new}, not {old}" for field, old, new in found[:_SHOWN])
    tell_once(f"topojax: warning: epoch {meta['epoch']} of {workdir} was trained with another config.json ({named})")
    return own


def valid(config: Any, where: str) -> Any:
    """A configuration that has been read, if it can be one of a run.

    Raises:
      UserError: it cannot; what is said begins with `where`.
    """
    try:
        validate(config, trained=True)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return config


def read_result(workdir: pathlib.Path) -> dict[str, Any] | None:
    """What result.json holds, None where there is none, or none that is whole."""
    try:
        result = json.loads((workdir / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return result if isinstance(result, dict) else None


def member(workdir: pathlib.Path, which: int | str) -> pathlib.Path:
    """The folder of one run of a population.

    Args:
      workdir: of the population.
      which: its number from 0, or `best`.

    Raises:
      UserError: there is no population, no such member, or none is the best yet.
    """
    folders = members(workdir)
    if not folders:
        raise UserError(f"no population in {workdir}: it holds no member_000")
    if which == "best":
        try:
            which = json.loads((workdir / "population.json").read_text(encoding="utf-8"))["best"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{workdir / 'population.json'} cannot be read: ask for a member by its number") from error
        if which is None:
            raise UserError(f"no member of {workdir} is the best yet: ask for one by its number")
    if not isinstance(which, int) or not 0 <= which < len(folders):
        raise UserError(f"no member {which!r} in {workdir}: it has 0 to {len(folders) - 1}, or 'best'")
    return folders[which]


def members(workdir: pathlib.Path) -> list[pathlib.Path]:
    """The folders of a population's runs, in order; empty where there is none."""
    return sorted(workdir.glob("member_[0-9]*"), key=lambda folder: int(folder.name.removeprefix("member_")))


def require_single(workdir: pathlib.Path) -> None:
    """Refuse the folder of a population where one run is asked for.

    Raises:
      UserError: naming the folder of a member, the best where it is known.
    """
    if (workdir / "checkpoints").is_dir() or not members(workdir):
        return
    try:
        one = member(workdir, "best")
    except UserError:
        one = members(workdir)[0]
    raise UserError(f"{workdir} is a population: --workdir={one} is one of its {len(members(workdir))} runs")


def write_config(workdir: pathlib.Path, config: Any) -> None:
    """Save the configuration as config.json."""
    write_text(workdir / "config.json", to_json(config))


def finished(workdir: pathlib.Path, epochs: int) -> bool:
    """Whether result.json says that the run has had all its epochs."""
    return (read_result(workdir) or {}).get("epochs") == epochs
