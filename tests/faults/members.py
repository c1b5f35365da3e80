"""SIGKILL while a population trains: every member goes on, and ends as one that was left alone."""

import pathlib
from typing import Any

from tests.faults import kills, short_run
from tests.faults.counts import Counts


def run(folder: pathlib.Path, count: int, seed: int) -> Counts:
    """Kill populations of two until there have been so many."""
    return kills.kill(folder, count, seed, _train, _fingerprint)


def _train(workdir: pathlib.Path, flag: short_run.Flag | None) -> None:
    from topojax.training.population import train_population

    kills.flag_saves(flag)
    train_population(short_run.config(**{"population.sweep": "seed=0,1"}), workdir)


def _fingerprint(workdir: pathlib.Path) -> dict[str, Any]:
    told = {folder.name: short_run.fingerprint(folder) for folder in sorted(workdir.glob("member_*"))}
    return {f"{name} {what}": value for name, found in told.items() for what, value in found.items()}
