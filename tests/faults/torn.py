"""Readers beside writers: whole files and whole lines, never a part of one."""

import itertools
import json
import os
import pathlib
import time

from tests.faults import short_run
from tests.faults.counts import Counts

READERS = 2
PERIOD = 5_000


def run(folder: pathlib.Path, count: int, seed: int) -> Counts:
    """Read while others write, until there have been so many reads."""
    short_run.import_all()
    counts = Counts(folder, "torn reads")
    stop = short_run.Flag()
    writers = [short_run.fork(lambda work=work: work(folder, stop), folder / "said.txt") for work in (_files, _lines)]
    while not all((folder / name).exists() for name in ("config.json", "metrics.jsonl")):
        time.sleep(0.01)
    todo = max(0, count - counts["reads"])
    each = -(-todo // READERS)
    readers = [short_run.fork(lambda n=n: _read(folder, each, n), folder / "said.txt") for n in range(READERS)]
    for reader in readers:
        if short_run.ended(reader):
            counts.broke((folder / "said.txt").read_text()[-1000:])
    stop.set(True)
    for writer in writers:
        if short_run.ended(writer):
            counts.broke(f"a writer ended: {(folder / 'said.txt').read_text()[-1000:]}")
    for n in range(READERS):
        for name, value in json.loads((folder / f"reader{n}.json").read_text()).items():
            counts[name] += value
    if counts["torn"]:
        counts.broke(f"{counts['torn']} torn reads")
    return counts


def _files(folder: pathlib.Path, stop: short_run.Flag) -> None:
    """Files that are replaced, of a length that changes; on each all bytes are the same but the first line."""
    from topojax.storage.logs import write_json

    n = 0
    while not stop:
        n += 1
        for name in ("config.json", "result.json"):
            write_json(folder / name, {"n": n, "text": chr(97 + n % 26) * (1 + 977 * n % 20_000), "end": n})
        time.sleep(0.001)


def _lines(folder: pathlib.Path, stop: short_run.Flag) -> None:
    """A log that grows, and is cut and begun anew as by a run that is resumed."""
    from topojax.storage.logs import JsonLines

    epoch = 0
    while not stop:
        lines = JsonLines(folder / "metrics.jsonl", 0)
        for epoch in range(1, 200):
            lines.write({"epoch": epoch, "text": "x" * (epoch * 37 % 9000), "end": epoch})
            time.sleep(0.0005)
        lines.close()


def _read(folder: pathlib.Path, count: int, number: int) -> None:
    from topojax.storage.logs import rows_of

    counts = {"reads": 0, "torn": 0, "lines": 0}
    paths = [os.fspath(folder / name) for name in ("config.json", "result.json")]
    for turn in itertools.count():
        if counts["reads"] >= count:
            break
        if turn % PERIOD == 0:
            last = 0
            for row in rows_of(folder / "metrics.jsonl"):
                counts["torn"] += row["epoch"] != row["end"] or row["epoch"] != last + 1
                counts["lines"] += 1
                last = row["epoch"]
            continue
        handle = os.open(paths[turn & 1], os.O_RDONLY)
        text = os.read(handle, 65_536)
        os.close(handle)
        counts["reads"] += 1
        # Every byte of the file is fixed by its n, at its beginning and its end.
        head, tail = text[: text.find(b",")], text[text.rfind(b":") :]
        whole = text.endswith(b"\n}\n") and head.rpartition(b" ")[2] == tail[2:-3]
        if not whole:
            counts["torn"] += 1
            print(text[:60], text[-60:])
    (folder / f"reader{number}.json").write_text(json.dumps(counts))
