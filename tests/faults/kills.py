"""SIGKILL at random moments, many during a save: every run goes on, and ends as one that was left alone."""

import os
import pathlib
import random
import shutil
import signal
import time

from tests.faults import short_run
from tests.faults.counts import Counts

A_RUN = 20
"""Kills of a run, before it is left to end."""
WORKERS = 2


def run(folder: pathlib.Path, count: int, seed: int) -> Counts:
    """Kill until there have been so many."""
    short_run.import_all()
    counts = Counts(folder, "kills")
    said = folder / "said.txt"
    whole = folder / "whole"
    since = time.monotonic()
    if not (whole / "result.json").exists():
        status = short_run.ended(short_run.fork(lambda: _train(whole, None), said))
        assert status == 0, said.read_text()[-2000:]
    short_run.ended(short_run.fork(lambda: _train(folder / f"warm{os.getpid()}", None), said))
    expected = short_run.fingerprint(whole)
    since = time.monotonic()
    short_run.ended(short_run.fork(lambda: _train(folder / f"timed{os.getpid()}", None), said))
    length = time.monotonic() - since
    for left in (*folder.glob("warm*"), *folder.glob("timed*")):
        shutil.rmtree(left)
    chance = random.Random(f"{seed} {counts['kills']}")
    running: dict[int, _Killed] = {}
    free = list(range(WORKERS))
    while counts["kills"] < count or running:
        while free and counts["kills"] < count:
            worker = free.pop()
            running[worker] = _Killed(folder / f"run{worker}", said, length, random.Random(chance.random()))
        for worker, killed in list(running.items()):
            if killed.turn(counts):
                killed.compare(expected, counts)
                del running[worker]
                free.append(worker)
        counts.keep()
        time.sleep(0.002)
    return counts


def _train(workdir: pathlib.Path, flag: short_run.Flag | None) -> None:
    from topojax.storage.checkpoint import Checkpoints
    from topojax.training.loop import train_and_evaluate

    if flag is not None:
        save = Checkpoints.save

        def flagged(self, *arguments, **keywords):
            with flag.up():
                return save(self, *arguments, **keywords)

        Checkpoints.save = flagged
    train_and_evaluate(short_run.config(), workdir)


class _Killed:
    """A run that is killed again and again, and then left alone."""

    def __init__(self, workdir: pathlib.Path, said: pathlib.Path, length: float, chance: random.Random):
        shutil.rmtree(workdir, ignore_errors=True)
        self._workdir, self._said, self._length, self._chance = workdir, said, length, chance
        self._kills, self._flag = 0, short_run.Flag()
        self._start()

    def _start(self) -> None:
        self._flag.set(False)
        self._begun = time.monotonic()
        self._in_a_save = self._chance.random() < 0.3
        self._at = None if self._in_a_save else self._begun + self._chance.uniform(0.0, self._length)
        self._child = short_run.fork(lambda: _train(self._workdir, self._flag), self._said)

    def turn(self, counts: Counts) -> bool:
        """Look after it; whether it has come to its end."""
        now = time.monotonic()
        if self._kills < A_RUN:
            if self._at is None and self._flag:
                self._at = now + self._chance.uniform(0.0, 0.05)
            if self._at is not None and now >= self._at:
                os.kill(self._child, signal.SIGKILL)
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if not pid:
            return False
        status = os.waitstatus_to_exitcode(status)
        if status == -signal.SIGKILL:
            self._kills += 1
            counts["kills"] += 1
            counts["during a save"] += bool(self._flag)
            self._start()
            return False
        if status:
            counts.broke(f"status {status} in {self._workdir}: {self._said.read_text()[-1500:]}")
        return True

    def compare(self, expected: dict, counts: Counts) -> None:
        """Hold it against the run that was left alone."""
        counts["runs"] += 1
        try:
            found = short_run.fingerprint(self._workdir)
        except (OSError, ValueError) as error:
            counts.broke(f"{self._workdir}: {error}")
            return
        differ = [name for name in expected if found[name] != expected[name]]
        counts["identical"] += not differ
        if differ:
            kept = self._workdir.with_name(f"differs{time.time_ns()}")
            shutil.copytree(self._workdir, kept)
            counts.broke(f"{kept} differs in {', '.join(differ)}")
