"""Burgers' equation by a network, trained in every arm: what is run, and the table.

The score is the last step's mean squared error over `burgers_reference.grid`, against the exact solution. A search by
hand is 6 rates × 6 weights of boundary and initial losses, with a cosine, over seed 0; its three best are run with all
five seeds, and the best is that with the least mean. It picks by the score itself, which no arm that sets its own
weights and rate may look at.
"""

import functools
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax.benchmarks.external.burgers_arms import ARMS, STEPS, Numbers, layers, stepper
from topojax.benchmarks.external.burgers_network import draw
from topojax.benchmarks.external.burgers_reference import error
from topojax.benchmarks.external.jobs import Job, Records, table
from topojax.types import Array

SEEDS = range(5)
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
WEIGHTS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
GIVEN = 3e-3
"""Rate of the arms that only weigh: where the search by hand ended."""
MARKS = 10
AT_ONCE = 3
"""Runs of one program: on two cores three take some five minutes."""
BEST = 3
BAR, FACTOR = 5e-4, 1.5
PUBLISHED = {"summed, 1e-4": 0.0310, "ConFIG": 0.00638, "M-ConFIG": 0.00186}
"""The best test error over a run in the executed notebook of tum-pbs/ConFIG, not that of the last step."""


class Setting(NamedTuple):
    """One run but for its seed."""

    arm: str
    rate: float = 0.0
    cosine: bool = True
    weight: float = 1.0

    def key(self, seed: int) -> str:
        """Of its record."""
        given = "" if ARMS[self.arm].governed else f" rate={self.rate:g}{'' if self.cosine else ' constant'}"
        return f"{self.arm}{given}{f' weight={self.weight:g}' if self.arm == 'search' else ''} seed={seed}"


FIXED = (
    *(Setting("summed", rate, cosine=False) for rate in (1e-4, 1e-3, 3e-3, 1e-2)),
    *(Setting(arm, GIVEN) for arm in ("precisions", "ratios", "contracts")),
)
GOVERNED = (Setting("summed_governed"), Setting("contracts_governed"))
SEARCHED = tuple(Setting("search", rate, weight=weight) for rate in RATES for weight in WEIGHTS)


def jobs(records: Records, at_once: int = AT_ONCE) -> Iterator[Job]:
    """Arms with all seeds, the search over one, and its best over all; the last follow from the records before them."""

    def of(arm: str, runs: Sequence[tuple[Setting, int]]) -> Iterator[Job]:
        for begin in range(0, len(runs), at_once):
            part = runs[begin : begin + at_once]
            keys = tuple(setting.key(seed) for setting, seed in part)
            yield Job(keys, functools.partial(train, arm, part))

    for settings in (GOVERNED[1:], GOVERNED[:1], FIXED):
        for arm in dict.fromkeys(setting.arm for setting in settings):
            yield from of(arm, [(s, seed) for s in settings if s.arm == arm for seed in SEEDS])
    yield from of("search", [(setting, SEEDS[0]) for setting in SEARCHED])
    yield from of("search", [(setting, seed) for setting in found_by_hand(records) for seed in SEEDS[1:]])


def found_by_hand(records: Records) -> list[Setting]:
    """The best of the search over its one seed; none before it is done."""
    errors = {setting: records.get(setting.key(SEEDS[0]), {"error": math.nan})["error"] for setting in SEARCHED}
    if any(math.isnan(_number(error)) for error in errors.values()):
        return []
    return sorted(SEARCHED, key=lambda setting: _number(errors[setting]))[:BEST]


def train(arm: str, runs: Sequence[tuple[Setting, int]]) -> list[dict[str, Any]]:
    """Runs of one arm as one program.

    Returns:
      For each the score at ten times of the run (`errors`), the last one (`error`) and the device.
    """
    numbers = Numbers(*(jnp.asarray([getattr(s, name) for s, _ in runs], jnp.float32) for name in Numbers._fields))
    seeds = jnp.asarray([seed for _, seed in runs])
    found = np.asarray(jax.jit(jax.vmap(lambda numbers, seed: _run(arm, numbers, seed)))(numbers, seeds), float)
    device = jax.devices()[0].device_kind
    return [
        {**setting._asdict(), "seed": seed, "errors": _finite(row), "error": _finite(row)[-1], "device": device}
        for (setting, seed), row in zip(runs, found, strict=True)
    ]


def _finite(row: np.ndarray) -> list[float | None]:
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in row]


def _run(arm: str, numbers: Numbers, seed: Array, steps: int = STEPS) -> Array:
    begin, step = stepper(ARMS[arm], numbers)
    first, points = (jax.random.fold_in(jax.random.key(use), seed) for use in (7, 8))

    def stretch(state: Any, at: Array) -> tuple[Any, Array]:
        keys = jax.vmap(lambda i: jax.random.fold_in(points, i))(at + jnp.arange(steps // MARKS))
        state, _ = jax.lax.scan(lambda state, key: (step(state, draw(key)), None), state, keys)
        return state, error(layers(ARMS[arm], state))

    return jax.lax.scan(stretch, begin(first), jnp.arange(MARKS) * (steps // MARKS))[1]


def markdown(records: Records) -> str:
    """Every arm over its seeds, the search by hand, and the bars."""
    whole = [s for s in SEARCHED if all(s.key(seed) in records for seed in SEEDS)]
    by_hand = sorted(whole, key=lambda setting: _mean(records, setting))[:BEST]
    rows: list[Sequence[Any]] = [("arm", "by hand", "seeds", "last step, mean", "worst", "best of the run, mean")]
    means: dict[Setting, float] = {}
    for setting in (*FIXED, *by_hand, *GOVERNED):
        found = [records[setting.key(seed)] for seed in SEEDS if setting.key(seed) in records]
        if found:
            errors = [_number(one["error"]) for one in found]
            least = [min(map(_number, one["errors"])) for one in found]
            mean = statistics.fmean(errors)
            means[setting] = mean if len(found) == len(SEEDS) else math.nan
            numbers = (f"{mean:.2g}", f"{max(errors):.2g}", f"{statistics.fmean(least):.2g}")
            rows.append((ARMS[setting.arm].words, _given(setting), len(found), *numbers))
    devices = sorted({one["device"] for one in records.values()})
    parts = [table(rows), f"Computed on: {', '.join(devices) or 'nothing yet'}."]
    if found_by_hand(records):
        parts.append(
            f"Search by hand, seed {SEEDS[0]}, error of the last step by rate and weight:\n\n{_searched(records)}"
        )
    best = means[by_hand[0]] if by_hand else math.nan
    ours = means.get(GOVERNED[1], math.nan)
    if math.isfinite(ours):
        parts.append(f"Contracts + governor are to be ≤ {BAR:g}: {'kept' if ours <= BAR else 'missed'}, {ours:.2g}.")
    if math.isfinite(ours) and math.isfinite(best):
        kept = "kept" if ours <= FACTOR * best else "missed"
        parts.append(f"They are to be ≤ {FACTOR} × the best found by hand, {best:.2g}: {kept}, × {ours / best:.2g}.")
    return "\n\n".join(parts)


def _number(error: float | None) -> float:
    return math.inf if error is None else error


def _mean(records: Records, setting: Setting) -> float:
    return statistics.fmean(_number(records[setting.key(seed)]["error"]) for seed in SEEDS)


def _given(setting: Setting) -> str:
    if ARMS[setting.arm].governed:
        return "nothing"
    end = "cosine" if setting.cosine else "constant"
    weight = f", weight {setting.weight:g}" if setting.arm == "search" else ""
    return f"rate {setting.rate:g}, {end}{weight}"


def _searched(records: Records) -> str:
    def cell(rate: float, weight: float) -> str:
        found = records[Setting("search", rate, weight=weight).key(SEEDS[0])]["error"]
        return "∞" if found is None else f"{found:.2g}"

    rows = [(f"{rate:g}", *(cell(rate, weight) for weight in WEIGHTS)) for rate in RATES]
    return table([("rate", *(f"× {weight:g}" for weight in WEIGHTS)), *rows])
