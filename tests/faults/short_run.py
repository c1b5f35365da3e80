"""A run of seconds in a process of its own, forked from one that has imported everything and started nothing."""

import contextlib
import gc
import importlib
import json
import mmap
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

EPOCHS = 4
QUIET = ("time/first_epoch_s", "time/train_s", "time/compile_s", "time/total_s", "versions")  # commits too


def config(**fields: Any) -> Any:
    """Checkpoints of every epoch, a log of every other."""
    from tiny_config import get_config

    c = get_config()
    c.name, c.train.epochs, c.model.covariant = "short", EPOCHS, False
    c.checkpoint.every_epochs, c.checkpoint.keep, c.log.every_epochs = 1, 3, 2
    c.update_from_flattened_dict(fields)
    return c


LATER = (
    "jaxlib.mlir.dialects.mhlo",
    "orbax.checkpoint",
    "scipy.optimize",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.neighbors",
    "tiny_config",
    "topojax.training.loop",
)
"""What is imported while a run is under way."""


def import_all() -> None:
    """All that a run imports or asks its surroundings for, so that forks have it; no backend of JAX is started."""
    for name in LATER:
        importlib.import_module(name)
    from topojax.storage import program_cache, runtime

    program_cache._source()
    commit = runtime.commit()
    runtime.commit = lambda: commit  # git takes as long as an epoch
    gc.collect()
    gc.freeze()  # pages that forks share, and need not look through


def cpu_s(child: int) -> float:
    """Seconds of CPU that a child has had: on a machine that is busy, how far it has come."""
    return time.clock_gettime((~child << 3) | 2)  # CPUCLOCK_SCHED of another process, as of clock_getcpuclockid(3)


class Flag:
    """A byte that a parent and its forks share."""

    def __init__(self):
        self._bytes = mmap.mmap(-1, 1)

    def __bool__(self) -> bool:
        return bool(self._bytes[0])

    def set(self, value: bool) -> None:
        """Another value."""
        self._bytes[0] = int(value)

    @contextlib.contextmanager
    def up(self) -> Iterator[None]:
        """Set within."""
        self.set(True)
        try:
            yield
        finally:
            self.set(False)


def fork(work: Callable[[], Any], said: pathlib.Path) -> int:
    """The process id of a child that does some work as a command would, its stderr and stdout going to a file."""
    child = os.fork()
    if child:
        return child
    try:
        with said.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        from topojax.errors import exit_status

        status = exit_status(work)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(70)


def ended(child: int) -> int:
    """The status of a child: negative, the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fingerprint(workdir: pathlib.Path) -> dict[str, Any]:
    """Everything of a finished run that must not depend on how often it was stopped: state, logs, result."""
    meta = json.loads((workdir / "checkpoints" / str(EPOCHS) / "meta" / "metadata").read_text())
    logs = {}
    for name in ("metrics.jsonl", "events.jsonl"):
        rows = map(json.loads, (workdir / name).read_text().splitlines())
        logs[name] = [{k: v for k, v in row.items() if k not in QUIET} for row in rows]
    result = json.loads((workdir / "result.json").read_text())
    return {"state": meta["digest"], **logs, "result": {k: v for k, v in result.items() if k not in QUIET}}
