"""What a run on a problem with a known solution is worth: how near, how far beyond, and how soon."""

from typing import NamedTuple

import numpy as np

REACHED = 1e-3
SETTLED = 0.02
OVERSHOOT = 0.2


class Score(NamedTuple):
    """One mechanism on one problem.

    Attributes:
      multiplier: |λ − λ*|, the largest of the last step; NaN, as the next but one, of a penalty without a multiplier.
      solution: |x − x*|, likewise.
      overshoot: how far a multiplier ever went beyond λ*, of the largest |λ*|; 0.2 is a fifth too far.
      settled: steps until every multiplier stays within 2 % of the largest |λ*|, and one more than there are if never.
      reached: likewise until all stay within 1e-3 of λ*.
    """

    multiplier: float
    solution: float
    overshoot: float
    settled: int
    reached: int


def score(multipliers: np.ndarray | None, solution: np.ndarray, aim: np.ndarray, place: np.ndarray) -> Score:
    """Of a run from λ = 0.

    Args:
      multipliers: λ after each step, (steps, m); None where there is none.
      solution: x after the last step, (n,).
      aim: λ*, (m,).
      place: x*, (n,).
    """
    off = float(np.abs(np.asarray(solution, float) - place).max())
    if multipliers is None:
        return Score(float("nan"), off, float("nan"), 0, 0)
    multipliers = np.asarray(multipliers, float)
    scale = np.abs(aim).max()
    gap = multipliers - aim
    beyond = np.where(aim == 0, np.abs(gap), gap * np.sign(aim)).max()
    distance = np.abs(gap).max(1)
    distance = np.where(np.isfinite(distance), distance, np.inf)
    return Score(
        multiplier=float(distance[-1]),
        solution=off,
        overshoot=float(max(beyond / scale, 0)) if np.isfinite(beyond) else float("inf"),
        settled=_stays(distance <= SETTLED * scale),
        reached=_stays(distance <= REACHED),
    )


def _stays(inside: np.ndarray) -> int:
    outside = np.flatnonzero(~inside)
    return 1 if not len(outside) else int(outside[-1]) + 2


def rank(score: Score) -> tuple:
    """What makes one choice of gains better than another: overshoot allowed, reached soonest, settled soonest, nearest.

    Of a penalty alone the one that ends nearest to x*. The same rule picks the gains of every library and mechanism.
    """
    return (score.overshoot > OVERSHOOT, score.reached, score.settled, score.multiplier, score.solution)
