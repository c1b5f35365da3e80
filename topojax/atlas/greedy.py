"""GreedyLR: the rate is divided by a factor where the loss falls, and multiplied by it where it rises.

A rule that control is measured against (`optim.rate = "greedy_lr"`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from topojax.types import Array


class GreedyState(NamedTuple):
    """State of `greedy`; every field has shape=()."""

    scale: Array  # float32, of the rate
    total: Array  # float32, of the losses of this epoch
    steps: Array  # int32, of them
    before: Array  # float32, mean loss of the last epoch; ∞ before the first
    good: Array  # int32, epochs in a row that were better
    bad: Array  # int32, epochs in a row that were not


def greedy(
    factor: float, patience: int, steps: int, *, least: float, most: float
) -> optax.GradientTransformationExtraArgs:
    """Scale directions by a rate that follows the loss's last move.

      better for more than `patience` epochs in a row   s ← s / f
      worse for as long                                 s ← s f,      s in [least, most]

    Args:
      factor: f in (0, 1).
      patience: epochs.
      steps: in an epoch.
      least: lower bound of s, a factor on the rate it began with.
      most: upper bound, likewise.

    References:
      Subramanian and Ganapathiraman, "Zeroth order GreedyLR" (2023), algorithm 1, on epoch means, without smoothing.
    """

    def init(params: Any) -> GreedyState:
        del params
        zero, one = jnp.zeros((), jnp.float32), jnp.ones((), jnp.float32)
        none = jnp.zeros((), jnp.int32)
        return GreedyState(one, zero, none, one * jnp.inf, none, none)

    def update(updates: Any, state: GreedyState, params: Any = None, *, value: Array, **extra: Any) -> tuple[Any, Any]:
        del params, extra
        total, count = state.total + value, state.steps + 1
        ends = count >= steps
        mean = total / count
        better = mean < state.before
        good = jnp.where(ends, jnp.where(better, state.good + 1, 0), state.good)
        bad = jnp.where(ends, jnp.where(better, 0, state.bad + 1), state.bad)
        up, down = ends & (good > patience), ends & (bad > patience)
        scale = jnp.clip(state.scale * jnp.where(up, 1 / factor, jnp.where(down, factor, 1.0)), least, most)
        new = GreedyState(
            scale=scale,
            total=jnp.where(ends, 0.0, total),
            steps=jnp.where(ends, 0, count),
            before=jnp.where(ends, mean, state.before),
            good=jnp.where(up, 0, good),
            bad=jnp.where(down, 0, bad),
        )
        return jax.tree.map(lambda u: state.scale * u, updates), new

    return optax.GradientTransformationExtraArgs(init, update)
