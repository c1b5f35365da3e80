"""Repeated measurements, their medians, and the middle half as spread."""

import time
from collections.abc import Callable
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


def repeated(measure: Callable[[], T], patience: Patience) -> list[T]:
    """Make a measurement, or a round of several, again and again.

    It is made once beforehand and not counted: first calls load, allocate and fill caches.

    Args:
      measure: what to do; what comes out of it.
      patience: when to stop.
    """
    measure()
    found: list[T] = []
    since = time.perf_counter()
    while len(found) < patience.most:
        if len(found) >= patience.least and time.perf_counter() - since > patience.seconds:
            break
        found.append(measure())
    return found
