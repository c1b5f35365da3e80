"""The exact solution of Burgers' equation from u(x, 0) = −sin πx, by Cole and Hopf, and the error against it."""

import functools

import jax.numpy as jnp
import numpy as np

from topojax.benchmarks.external.burgers_network import VISCOSITY, Layers, value
from topojax.types import Array

TIMES, PLACES, NODES = 100, 256, 256


def exact(x: np.ndarray, t: np.ndarray, viscosity: float = VISCOSITY, nodes: int = NODES) -> np.ndarray:
    """The solution u(x, t), shapes that broadcast, t ≥ 0; float64.

      u = −∫ sin π(x−η) f(x−η) e^(−η²/4νt) dη / ∫ f(x−η) e^(−η²/4νt) dη    f(y) = exp(−cos(πy) / 2πν)

    With η = √(4νt) z both integrals are Gauss-Hermite's. f spans e^±50, so its logarithm is shifted by its largest.

    References:
      Basdevant et al., "Spectral and finite difference solutions of the Burgers equation" (Computers & Fluids 1986).
    """
    z, weights = np.polynomial.hermite.hermgauss(nodes)
    x, t = np.broadcast_arrays(np.asarray(x, float), np.asarray(t, float))
    y = np.pi * (x[..., None] - np.sqrt(4 * viscosity * t)[..., None] * z)
    exponent = -np.cos(y) / (2 * np.pi * viscosity)
    kernel = weights * np.exp(exponent - exponent.max(-1, keepdims=True))
    return -(np.sin(y) * kernel).sum(-1) / kernel.sum(-1)


@functools.cache
def grid() -> tuple[np.ndarray, np.ndarray]:
    """Points (TIMES · PLACES, 2) and the exact u there, float32: the grid of tum-pbs/ConFIG's notebook.

    256 cells' centres in x, 100 times from 0 to 1, both ends among them.
    """
    x = np.linspace(-1 + 1 / PLACES, 1 - 1 / PLACES, PLACES)
    t = np.linspace(0, 1, TIMES)[:, None]
    x, t = np.broadcast_arrays(x, t)
    points = np.stack([x, t], -1).reshape(-1, 2)
    return points.astype(np.float32), exact(x, t).ravel().astype(np.float32)


def error(layers: Layers) -> Array:
    """Mean squared error over `grid`, shape ()."""
    points, u = grid()
    return jnp.mean((value(layers, jnp.asarray(points)) - u) ** 2)
