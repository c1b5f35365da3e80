"""The runs that are done: one JSON line each, so that a comparison that was stopped goes on where it was."""

import hashlib
import json
import pathlib
from typing import Any

from topojax.config.defaults import RESUMABLE
from topojax.config.io import flat
from topojax.errors import UserError
from topojax.storage.logs import write_text
from topojax.storage.runtime import versions

_COUNTS = ("train.epochs",)  # may change when a run is resumed, but is another run here


def key(config: Any, split: str) -> str:
    """Names a run: a hash of all of its configuration that changes its numbers, its split, the package's version.

    Args:
      config: of the run, with its seed.
      split: what it is scored on.
    """
    ignored = tuple(field for field in RESUMABLE if field not in _COUNTS)
    fields = {
        name: value
        for name, value in flat(config)
        if not any(name == field or name.startswith(f"{field}.") for field in ignored)
    }
    text = json.dumps([versions()["topojax"], split, fields], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Ledger:
    """runs.jsonl: a line for every finished run, found again by its key.

    Args:
      path: of the file; made with the first line. A last line that was cut off is dropped.

    Raises:
      UserError: another line is no JSON object with a key.
    """

    def __init__(self, path: pathlib.Path):
        self.path, self.lines = path, {}
        whole = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        if whole and not whole[-1].endswith("\n"):
            whole.pop()
            write_text(path, "".join(whole))
        for number, text in enumerate(whole, start=1):
            try:
                line = json.loads(text)
                self.lines[line["key"]] = line
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}, line {number}: not a finished run; delete the line, or the file") from error

    def add(self, line: dict[str, Any]) -> None:
        """Append a run; it is on the disk before this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        self.lines[line["key"]] = line
