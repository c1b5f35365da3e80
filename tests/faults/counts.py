"""Counts of a campaign that can be stopped and gone on with."""

import collections
import json
import pathlib
import time

from topojax.storage.logs import write_json


class Counts(collections.Counter):
    """Name → how often; kept in a file, shown now and then. `broken` counts promises that were not kept."""

    def __init__(self, folder: pathlib.Path, name: str):
        self._file, self._name, self._told = folder / "counts.json", name, time.monotonic()
        super().__init__(json.loads(self._file.read_text()) if self._file.exists() else {})

    def keep(self, seconds: float = 20.0) -> None:
        """Write them; say them, if some time has passed."""
        write_json(self._file, dict(self))
        if time.monotonic() - self._told > seconds:
            self._told = time.monotonic()
            self.say()

    def say(self) -> None:
        """One line."""
        write_json(self._file, dict(self))
        print(f"{self._name}: " + ", ".join(f"{name} {n}" for name, n in sorted(self.items())), flush=True)

    def broke(self, what: str) -> None:
        """A promise was not kept."""
        self["broken"] += 1
        print(f"{self._name}: BROKEN: {what}", flush=True)
