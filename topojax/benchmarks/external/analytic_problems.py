"""Small constrained problems whose solution is known: minimise f(x) where g(x) = 0, or where g(x) ≤ 0.

They are those of cooper's tutorials and tests. The functions use what jax.numpy and torch have in common, so that every
library solves the same lines.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem, its solution and how the primal side descends; the dual side is what is compared.

    Attributes:
      words: what the table says.
      loss: (np, x) → f, shape (); np is jax.numpy or torch.
      violation: (np, x) → g, shape (m,).
      equality: g = 0; else g ≤ 0.
      start: x before the first step.
      solution: x*.
      multipliers: λ* of f + λ·g, shape (m,).
      rate: of plain gradient descent in x.
      momentum: of it.
      steps: how long.
    """

    words: str
    loss: Callable[[Any, Any], Any]
    violation: Callable[[Any, Any], Any]
    equality: bool
    start: np.ndarray
    solution: np.ndarray
    multipliers: np.ndarray
    rate: float
    momentum: float = 0.0
    steps: int = 3000


def die() -> Problem:
    """The die of largest entropy whose mean roll is 4.5, in logarithms of its six probabilities.

    Stationarity is p_i ∝ exp(−ν i), so ν follows from the mean by bisection, and μ = log Σ exp(−ν i) − 1.
    """
    faces = np.arange(1, 7, dtype=np.float64)
    low, high = -2.0, 2.0
    for _ in range(200):
        slope = (low + high) / 2
        p = np.exp(-slope * faces) / np.exp(-slope * faces).sum()
        low, high = (slope, high) if p @ faces > 4.5 else (low, slope)
    logarithm = np.log(p)
    return Problem(
        "maximum-entropy die",
        lambda np, x: np.sum(np.exp(x) * x),
        lambda np, x: np.stack([np.sum(np.exp(x)) - 1, sum(np.exp(x[i]) * (i + 1.0) for i in range(6)) - 4.5]),
        equality=True,
        start=np.full(6, -np.log(6)),
        solution=logarithm,
        multipliers=np.array([np.log(np.exp(-slope * faces).sum()) - 1, slope]),
        rate=3e-2,
        steps=7000,
    )


def linear(
    words: str, variables: int, singular: np.ndarray, *, equality: bool, seed: int, start: float, **descent: Any
) -> Problem:
    """The shortest x with A x = b, or A x ≤ b.

    A = U diag(singular) Vᵀ with random orthonormal U and V, |b| = 1. With equality x* = A⁺ b and λ* = −2 (A Aᵀ)⁻¹ b;
    with A x ≤ b the dual min ¼ λᵀ A Aᵀ λ + bᵀ λ over λ ≥ 0 is solved by projected descent.
    """
    rng = np.random.default_rng(seed)
    number = len(singular)
    u, _ = np.linalg.qr(rng.normal(size=(number, number)))
    v, _ = np.linalg.qr(rng.normal(size=(variables, number)))
    matrix = u @ np.diag(singular) @ v.T
    b = rng.normal(size=number)
    b /= np.linalg.norm(b)
    square = matrix @ matrix.T
    multipliers = -2 * np.linalg.solve(square, b)
    if not equality:
        multipliers = np.zeros(number)
        for _ in range(20_000):
            multipliers = np.maximum(0, multipliers - (square @ multipliers / 2 + b) / np.linalg.norm(square, 2))
    left, right = _Constant(matrix), _Constant(b)
    return Problem(
        words,
        lambda np, x: np.sum(x * x),
        lambda np, x: left.of(np) @ x - right.of(np),
        equality=equality,
        start=np.full(variables, start),
        solution=-matrix.T @ multipliers / 2,
        multipliers=multipliers,
        **descent,
    )


class _Constant:
    """An array as a float32 constant of whichever library asks, made once for each."""

    def __init__(self, values: np.ndarray):
        self.values = values.astype(np.float32)
        self.made: dict[str, Any] = {}

    def of(self, library: Any) -> Any:
        if not hasattr(library, "as_tensor"):
            return self.values  # jax.numpy takes it as it is
        if library.__name__ not in self.made:
            self.made[library.__name__] = library.as_tensor(self.values)
        return self.made[library.__name__]


def plane() -> Problem:
    """A test of cooper's in two dimensions: x² + 2 y² where x + y ≥ 1 and x² + y ≤ 1; the second does not bind."""
    return Problem(
        "x² + 2y², two inequalities",
        lambda np, x: x[0] ** 2 + 2 * x[1] ** 2,
        lambda np, x: np.stack([1 - x[0] - x[1], x[0] ** 2 + x[1] - 1]),
        equality=False,
        start=np.array([0.0, -1.0]),
        solution=np.array([2 / 3, 1 / 3]),
        multipliers=np.array([4 / 3, 0.0]),
        rate=1e-2,
    )


def circle() -> Problem:
    """Nocedal and Wright, problem 17.3, the tutorial of the augmented Lagrangian: x + y on a circle of radius √2."""
    return Problem(
        "x + y on a circle",
        lambda np, x: x[0] + x[1],
        lambda np, x: np.stack([x[0] ** 2 + x[1] ** 2 - 2]),
        equality=True,
        start=np.array([-0.5, -1.5]),
        solution=np.array([-1.0, -1.0]),
        multipliers=np.array([0.5]),
        rate=3e-2,
    )


@functools.cache
def problems() -> dict[str, Problem]:
    """Name to problem, in the order of the table."""
    tests = np.random.default_rng(0).uniform(1.5, 2.5, size=5)
    norm: dict[str, Any] = {"seed": 135, "start": 0.02, "rate": 1e-3, "momentum": 0.9, "steps": 5000}
    test: dict[str, Any] = {"seed": 1, "start": 1.0, "rate": 3e-2, "steps": 2000}
    return {
        "die": die(),
        "norm": linear("minimum norm, 100 equations", 500, np.ones(100), equality=True, **norm),
        "equal": linear("‖x‖², 5 equalities", 10, tests, equality=True, **test),
        "at_most": linear("‖x‖², 5 inequalities", 10, tests, equality=False, **test),
        "plane": plane(),
        "circle": circle(),
    }
