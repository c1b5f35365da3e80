"""SIGKILL at random moments, many during a save: every run goes on, and ends as one that was left alone."""

import os
import pathlib
import random
import shutil
import signal
import statistics
import time
from collections.abc import Callable
from typing import Any

from tests.faults import short_run
from tests.faults.counts import Counts

Train = Callable[[pathlib.Path, short_run.Flag | None], Any]
"""(workdir, flag that is up during a save) → nothing."""

A_RUN = 20
"""Kills of a run, before it is left to end."""
WORKERS = len(os.sched_getaffinity(0))
LEFT = 0.75
"""Of what is left of a life, the first part has three of four moments: lives that are not killed cost most."""
IN_A_SAVE = 0.3
"""Of all kills, those that wait for a save."""


def run(folder: pathlib.Path, count: int, seed: int) -> Counts:
    """Kill runs until there have been so many."""
    return kill(folder, count, seed, _train, short_run.fingerprint)


def kill(
    folder: pathlib.Path, count: int, seed: int, train: Train, fingerprint: Callable[[pathlib.Path], dict[str, Any]]
) -> Counts:
    """Kill what trains until there have been so many.

    Args:
      folder: of the campaign.
      count: kills.
      seed: of their moments.
      train: what is killed, and goes on when it is called again.
      fingerprint: what must be the same in the end, however often it was killed.
    """
    short_run.import_all()
    counts = Counts(folder, folder.name)
    said = folder / "said.txt"
    whole, done = folder / "whole", folder / "whole.done"
    if not done.exists():
        shutil.rmtree(whole, ignore_errors=True)
        status = short_run.ended(short_run.fork(lambda: train(whole, None), said))
        assert status == 0, said.read_text()[-2000:]
        done.touch()
    expected = fingerprint(whole)
    length, save = _lengths(folder / "timed", said, train)
    chance = random.Random(f"{seed} {counts['kills']}")
    running: dict[int, _Killed] = {}
    known = 0
    free = list(range(WORKERS))
    while counts["kills"] < count or running:
        while free and counts["kills"] < count:
            worker = free.pop()
            running[worker] = _Killed(
                folder / f"run{worker}", said, (length, save), random.Random(chance.random()), train
            )
        for worker, killed in list(running.items()):
            if killed.turn(counts):
                killed.compare(expected, fingerprint, counts)
                del running[worker]
                free.append(worker)
        if counts.total() != known:
            known = counts.total()
            counts.keep()
        time.sleep(0.003)
    return counts


def _lengths(workdir: pathlib.Path, said: pathlib.Path, train: Train) -> tuple[float, float]:
    """Seconds of CPU of a run, and of one of its saves."""
    flag, saves, begun, last = short_run.Flag(), [], None, 0.0
    child = short_run.fork(lambda: train(workdir, flag), said)
    while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        last = short_run.cpu_s(child)
        if flag and begun is None:
            begun = last
        elif not flag and begun is not None:
            saves.append(last - begun)
            begun = None
        time.sleep(0.003)
    short_run.ended(child)
    shutil.rmtree(workdir)
    return last, statistics.median(saves)


def _train(workdir: pathlib.Path, flag: short_run.Flag | None) -> None:
    from topojax.training.loop import train_and_evaluate

    flag_saves(flag)
    train_and_evaluate(short_run.config(), workdir)


def flag_saves(flag: short_run.Flag | None) -> None:
    """Have the flag up while this process saves a checkpoint."""
    from topojax.storage.checkpoint import Checkpoints

    if flag is not None:
        save = Checkpoints.save

        def flagged(self, *arguments, **keywords):
            with flag.up():
                return save(self, *arguments, **keywords)

        Checkpoints.save = flagged


class _Killed:
    """A run that is killed again and again, and then left alone."""

    def __init__(
        self,
        workdir: pathlib.Path,
        said: pathlib.Path,
        lengths: tuple[float, float],
        chance: random.Random,
        train: Train,
    ):
        shutil.rmtree(workdir, ignore_errors=True)
        self._workdir, self._said, self._lengths, self._chance, self._train = workdir, said, lengths, chance, train
        self._kills, self._flag = 0, short_run.Flag()
        self._start()

    def _start(self) -> None:
        self._flag.set(False)
        epochs = (int(path.name) for path in self._workdir.rglob("checkpoints/*") if path.name.isdecimal())
        saved = max(epochs, default=0)
        in_a_save = self._chance.random() < IN_A_SAVE and saved < short_run.EPOCHS
        # Moments are told in seconds of CPU: another process beside this one does not make them earlier. Most of
        # a life is its beginning and end; what has been saved is not trained again.
        left = self._lengths[0] * (1.0 - 0.3 * saved / short_run.EPOCHS)
        part = 1.0 if self._chance.random() < 0.25 else LEFT
        self._at = None if in_a_save else self._chance.uniform(0.0, part * left)
        self._child = short_run.fork(lambda: self._train(self._workdir, self._flag), self._said)

    def turn(self, counts: Counts) -> bool:
        """Look after it; whether it has come to its end."""
        if self._kills < A_RUN:
            if self._at is None and self._flag:
                self._at = short_run.cpu_s(self._child) + self._chance.uniform(0.0, self._lengths[1])
            if self._at is not None and short_run.cpu_s(self._child) >= self._at:
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

    def compare(self, expected: dict, fingerprint: Callable, counts: Counts) -> None:
        """Hold it against the run that was left alone."""
        counts["runs"] += 1
        try:
            found = fingerprint(self._workdir)
        except (OSError, ValueError) as error:
            counts.broke(f"{self._workdir}: {error}")
            return
        differ = [name for name in expected if found[name] != expected[name]]
        counts["identical"] += not differ
        if differ:
            kept = self._workdir.with_name(f"differs{time.time_ns()}")
            shutil.copytree(self._workdir, kept)
            counts.broke(f"{kept} differs in {', '.join(differ)}")
