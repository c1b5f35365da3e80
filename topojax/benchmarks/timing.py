"""Timing that neighbours on the machine disturb least: interleaved repeats, medians, the middle half as spread."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

T = TypeVar("T")


class Patience(NamedTuple):
    """How long to measure: at least `least` repeats, no more than `most`, none begun after `seconds`."""

    least: int
    most: int
    seconds: float


class Quartiles(NamedTuple):
    """Of repeated measurements: the value reported and its spread."""

    low: float  # 25 % of the repeats lie below
    median: float
    high: float  # 25 % lie above


def quartiles(samples: Any) -> Quartiles:
    """Quartiles of at least one number, linear between neighbours."""
    return Quartiles(*(float(q) for q in np.percentile(np.asarray(samples, float), (25, 50, 75))))


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call, until everything it returns is there."""
    since = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - since


def interleaved(measurements: Mapping[str, Callable[[], T]], patience: Patience) -> dict[str, list[T]]:
    """Repeat each measurement in turn, a, b, c, a, b, c, …: a slow minute of the machine falls on all alike.

    Each is made once beforehand and not counted: first calls load, allocate and warm caches.

    Args:
      measurements: name → what to do and what comes out of it, usually seconds.
      patience: when to stop.

    Returns:
      Name → results, as many for each.
    """
    for measure in measurements.values():
        measure()
    found: dict[str, list[T]] = {name: [] for name in measurements}
    since = time.perf_counter()
    for repeat in range(patience.most):
        if repeat >= patience.least and time.perf_counter() - since > patience.seconds:
            break
        for name, measure in measurements.items():
            found[name].append(measure())
    return found
