"""Tune, run and summarise the arms of `arms.py`; every finished run is in a ledger."""

import copy
import dataclasses
import itertools
import json
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from topojax.benchmarks.arms import ARMS, GRID, Arm, Setting, configure
from topojax.benchmarks.ledger import Ledger, key
from topojax.benchmarks.seeded import Trained, compile_runs
from topojax.config.found import fitted
from topojax.config.numbers import READ_BY_EVALUATION, described, named
from topojax.config.validate import validate
from topojax.data import sets
from topojax.scoring.audit import audit
from topojax.scoring.scores import scores
from topojax.storage.logs import numbers
from topojax.storage.runtime import use_compilation_cache, versions
from topojax.types import Batch

MEASURES = ("ami", "router_accuracy", "readout_accuracy", "mse", "I_XK", "epochs_to_90", "satisfied")
"""What a run is reported by."""
SWEEP_SEEDS = 3
"""Seeds of a wrong guess, whose mean is told."""
HELD_OUT = 0.2
"""Share of the training split that tuning scores on."""
TUNING_SEED = 0
_FRACTION = 0.9


def compare(
    config: Any,
    workdir: pathlib.Path,
    *,
    seeds: int,
    arms: Sequence[str] = tuple(ARMS),
    grid: Mapping[str, Sequence[Any]] = GRID,
    sweep: Mapping[str, Sequence[float]] | None = None,
    carried: Setting | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Compare the arms on one configuration.

    Args:
      config: a whole configuration; its seed is not used.
      workdir: an existing folder; runs.jsonl in it is read and appended to.
      seeds: each arm's test runs have seeds 0 … seeds − 1.
      arms: names of `ARMS`, `constants` before all that inherit from it.
      grid: what tuning tries, for each field of `Setting`.
      sweep: `SWEEP` or another; None sweeps nothing.
      carried: what the arm `carried` has; None: what `constants` comes to here.
      say: told of every run.

    Returns:
      JSON-able: config, versions, seeds, grid, arms (name → settings, curve, and for each of `MEASURES` mean, sd and
      the values by seed) and, if swept, sweep (name → points, and worst, mean and best test AMI).

    Raises:
      UserError: a configuration that some arm cannot run.
    """
    config = copy.deepcopy(config)
    config.unlock()
    config.train.until = "epochs"  # all arms train as many
    runner = Runner(config, workdir, say)
    for name in arms:  # before hours are spent
        validate(configure(config, ARMS[name], seed=seeds - 1))
    settings: dict[str, Setting] = {}
    for name in arms:
        if name == "carried":
            settings[name] = carried or settings["constants"]
            continue
        settings[name] = tune(runner.run, name, _inherited(ARMS[name], settings), grid)
    found = {
        name: summary([runner.run(name, "test", settings[name], seed) for seed in range(seeds)], settings[name])
        for name in arms
    }
    out = {
        "name": config.name,
        "data": pathlib.PurePath(config.data.name).name,
        "epochs": config.train.epochs,
        "labels_used": config.supervised.enabled,
        "seeds": seeds,
        "grid": {field: list(values) for field, values in grid.items()},
        "versions": versions(),
        "arms": found,
    }
    if sweep is not None:
        swept = [name for name in ("control", "constants") if name in arms]
        out["sweep"] = {name: _sweep(runner, name, settings[name], sweep, min(seeds, SWEEP_SEEDS)) for name in swept}
    return out


class Runner:
    """Runs what the ledger does not hold; consecutive runs that differ in numbers alone share a compiled program."""

    def __init__(self, config: Any, workdir: pathlib.Path, say: Callable[[str], None] = print):
        if config.train.compilation_cache:
            use_compilation_cache()
        self.config, self.ledger, self.say = config, Ledger(workdir / "runs.jsonl"), say
        self._last: tuple[Any, Any] = (None, None)

    def run(self, name: str, split: str, setting: Setting, seed: int) -> dict[str, Any]:
        """A run's line: from the ledger, or trained now.

        Args:
          name: of the arm.
          split: `test`: train on the training split, score on the test split; `validation`: train on 1 − HELD_OUT of
            the training split and score on the rest; the test split is not looked at.
          setting: by hand.
          seed: of data, initialisation, order and augmentation.
        """
        config = configure(self.config, ARMS[name], setting, seed=seed)
        validate(config)
        found = self.ledger.lines.get(key(config, split))
        if found is None:
            dataset = sets.load(config.data, seed=seed)
            dataset = held_out(dataset, seed) if split == "validation" else dataset
            config, _ = fitted(config, dataset, in_memory=False)
            if config.data.neighbours and dataset.train.neighbours is None:
                dataset = dataset._replace(train=sets.with_neighbours(dataset.train, config.data.neighbours))
            trained = self._compiled(config, dataset)(dataset, config)
            told = {"key": key(config, split), "arm": name, "split": split, "seed": seed}
            found = told | {"setting": dataclasses.asdict(setting)}
            found |= measured(config, trained, np.asarray(dataset.test.label))
            self.ledger.add(found)
            words = " ".join(f"{field}={value}" for field, value in found["setting"].items() if value is not None)
            self.say(f"{name:18} {split:10} seed {seed} {words:32} AMI {found['ami']:.3f}  {found['seconds']:.1f} s")
        return found

    def _compiled(self, config: Any, dataset: sets.Dataset) -> Callable[[sets.Dataset, Any], Trained]:
        sizes = [dataset.sizes(), len(dataset.test.label)]
        same = json.dumps([described(config), named(config, READ_BY_EVALUATION), sizes])
        if self._last[0] != same:
            self._last = (None, None)  # before the next program is built, the last one's memory goes
            self._last = (same, compile_runs(config, dataset))
        return self._last[1]


def held_out(dataset: sets.Dataset, seed: int) -> sets.Dataset:
    """The data set of tuning: `HELD_OUT` of the training split, by class and seed, in the place of the test split."""
    train, label = dataset.train, np.asarray(dataset.train.label)
    out = np.zeros(len(label), bool)
    out[sets.stratified(label, max(1, round(HELD_OUT * len(label))), np.random.default_rng(seed))] = True
    kept = Batch(train.image[~out], train.label[~out])
    if train.neighbours is not None:  # rows of the whole split, some of them held out
        kept = sets.with_neighbours(kept, train.neighbours.shape[1])
    return dataset._replace(train=kept, test=Batch(train.image[out], train.label[out]))


def measured(config: Any, trained: Trained, labels: np.ndarray) -> dict[str, Any]:
    """`MEASURES` of a run, and what they are made of; a number that is not finite is None.

    Contracts whose signal is a gradient ratio are left out: it is measured only where a weight follows it, so that they
    could not be held against each other.
    """
    tested = numbers(scores(trained.predictions, labels, prefix=""))
    table = [row for row in audit(config, trained.row) if not row["signal"].endswith("_balance")]
    verdicts = {row["contract"]: row["satisfied"] for row in table if row["satisfied"] is not None}
    return {
        "ami": tested["ami"],
        "router_accuracy": tested.get("acc_supervised", tested["acc_matched"]),
        "readout_accuracy": tested["acc_readout"],
        "mse": tested["mse"],
        "I_XK": tested["I_XK"],
        "epochs_to_90": epochs_to(trained.curve),
        "satisfied": sum(verdicts.values()) / len(verdicts) if verdicts else None,
        "violated": [name for name, kept in verdicts.items() if not kept],
        "contracts": len(verdicts),
        "curve": [round(value, 4) for value in trained.curve],
        "seconds": round(trained.seconds, 2),
    }


def epochs_to(curve: Sequence[float], fraction: float = _FRACTION) -> int | None:
    """First epoch, from 1, whose value is at least `fraction` of the last one's; None where that is not positive."""
    if not curve or curve[-1] <= 0:
        return None
    return next(epoch for epoch, value in enumerate(curve, start=1) if value >= fraction * curve[-1])


def summary(lines: Sequence[Mapping[str, Any]], setting: Setting) -> dict[str, Any]:
    """Mean and sample standard deviation of each measure over runs, in the order of the seeds.

    Runs without a number (None) are left out of mean and sd, and None stays among the values; sd of one is None.
    """
    out: dict[str, Any] = {"setting": dataclasses.asdict(setting), "keys": [line["key"] for line in lines]}
    for measure in MEASURES:
        values = [line[measure] for line in lines]
        there = [value for value in values if value is not None]
        out[measure] = {
            "mean": statistics.fmean(there) if there else None,
            "sd": statistics.stdev(there) if len(there) > 1 else None,
            "values": values,
        }
    curves = [line["curve"] for line in lines]
    return out | {"curve": [round(statistics.fmean(epoch), 4) for epoch in zip(*curves, strict=True)]}


def _inherited(arm: Arm, settings: Mapping[str, Setting]) -> Setting:
    if not arm.inherits:
        return Setting(gates=False) if any("gates" in stage for stage in arm.tunes) else Setting()
    return Setting(**{field: getattr(settings["constants"], field) for field in arm.inherits})


def tune(run: Callable[..., Mapping[str, Any]], name: str, setting: Setting, grid: Mapping[str, Any]) -> Setting:
    """The setting of the largest AMI on the validation part; of equals, that of the least error.

    Args:
      run: `Runner.run`.
      name: of the arm; its stages of tuning say which fields are tried together.
      setting: where to start from.
      grid: field → what is tried. A stage with nothing to choose from trains nothing.
    """

    def rank(tried: Setting) -> tuple[float, float]:
        line = run(name, "validation", tried, TUNING_SEED)
        return -line["ami"], float("inf") if line["mse"] is None else line["mse"]

    for stage in ARMS[name].tunes:
        tried: list[Setting] = []
        for values in itertools.product(*(grid[field] for field in stage)):
            chosen: dict[str, Any] = dict(zip(stage, values, strict=True))
            tried.append(dataclasses.replace(setting, **chosen))
        setting = min(tried, key=rank) if len(tried) > 1 else tried[0]
    return setting


def _sweep(
    runner: Runner, name: str, tuned: Setting, sweep: Mapping[str, Sequence[float]], seeds: int
) -> dict[str, Any]:
    """Test AMI and error over wrong guesses, one field at a time from the configuration's own rate and weights."""
    points = []
    for field, values in sweep.items():
        for value in values:
            guess = _guess(runner.config, tuned, field, value)
            lines = [runner.run(name, "test", guess, seed) for seed in range(seeds)]
            errors = [line["mse"] for line in lines if line["mse"] is not None]
            point: dict[str, Any] = {"field": field, "value": value}
            point |= {"ami": statistics.fmean(line["ami"] for line in lines)}
            points.append(point | {"mse": statistics.fmean(errors) if errors else None})
    out: dict[str, Any] = {"points": points}
    for field in ("all", *sweep):
        found = [point["ami"] for point in points if field in ("all", point["field"])]
        out[field] = {"worst": min(found), "mean": statistics.fmean(found), "best": max(found)}
        errors = [point["mse"] for point in points if field in ("all", point["field"]) and point["mse"] is not None]
        out[field] |= {"mse_worst": max(errors, default=None), "mse_best": min(errors, default=None)}
    return out


def _guess(config: Any, tuned: Setting, field: str, value: float) -> Setting:
    wrong: dict[str, Any] = {field: value, "clipped": True}
    if field == "both":
        wrong = {"rate": config.optim.learning_rate * value, "scale": value, "clipped": True}
    return dataclasses.replace(Setting(gates=tuned.gates), **wrong)
