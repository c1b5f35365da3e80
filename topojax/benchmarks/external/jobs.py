"""Work that may be stopped: what is done is kept as lines of JSON, and the next run goes on after it."""

import pathlib
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from topojax.errors import UserError, tell

Records = dict[str, dict[str, Any]]
"""Key → what was found."""


class Job(NamedTuple):
    """Something that is done at once, or not at all.

    Attributes:
      keys: of the records that it makes.
      run: makes them, in the order of the keys.
    """

    keys: tuple[str, ...]
    run: Callable[[], list[dict[str, Any]]]


def work(jobs: Callable[[Records], Iterable[Job]], path: pathlib.Path, seconds: float) -> tuple[Records, bool]:
    """Do what is not done, one job after the other, each on the disk before the next.

    Args:
      jobs: records so far, which grow, → what is to be done.
      path: of the records, JSON lines with a `key`.
      seconds: no job is begun after these, nor one that the longest so far says would end after them.

    Returns:
      The records, and whether all jobs are done. A job that lacks an extra says so in a line, and counts as done.
    """
    from topojax.benchmarks.ledger import Ledger

    path.parent.mkdir(parents=True, exist_ok=True)
    ledger, since, longest = Ledger(path), time.monotonic(), 0.0
    lacking: set[str] = set()
    for job in jobs(ledger.lines):
        if all(key in ledger.lines for key in job.keys):
            continue
        begun = time.monotonic()
        if begun + longest - since > seconds:
            return ledger.lines, False
        try:
            found = job.run()
        except UserError as error:
            if str(error) not in lacking:
                tell(f"left out: {error}")
                lacking.add(str(error))
            continue
        took = time.monotonic() - begun
        longest = max(longest, took)
        for key, record in zip(job.keys, found, strict=True):
            ledger.add({"key": key} | record | {"seconds": round(took / len(found), 3)})
    return ledger.lines, True


def table(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as Markdown, the first one as its head."""
    head, *rest = [[str(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest))
