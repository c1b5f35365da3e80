"""Weights of terms that are no constraints: likelihoods weighed by their own noise, terms balanced by a measurement.

  likelihood   w L + ½ d s,    s = log(d / 2w)       the Gaussian's negative log-likelihood; w → d / 2L
  balanced     w v                                   w → factor × what is measured, as a ratio of gradient norms

Both weights move in log space by a first-order lag (`tracking`): for a likelihood this is gradient descent on s, whose
minimum over s is s = log L.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from topojax.control.base import require_positive
from topojax.control.tracking import Tracking, tracking
from topojax.types import Array


class Balanced(NamedTuple):
    """What a `balanced` weight is given: the term, and the measurement that its weight follows."""

    value: ArrayLike  # shape=(): the term of the loss
    measured: ArrayLike  # shape=(): > 0, what the weight follows


class WeighingState(NamedTuple):
    """State of one weight: its law, what moves, and the last value of its term."""

    law: Any  # Tracking: gains and bounds
    weight: Any  # TrackingState
    former: Array  # shape=(), float32: the weight by which the last value was weighed
    dims: Array  # shape=(), float32: d of a likelihood
    value: Array  # shape=(), float32: NaN before the first
    frozen: Array  # shape=(), int32: measurements that could not be used


@dataclasses.dataclass(frozen=True, eq=False)
class Weighing:
    """A weighed term without its name; made by `likelihood` or `balanced`."""

    kind: str
    law: Tracking
    dims: ArrayLike

    def init(self) -> WeighingState:
        """The weight at its start."""
        law = jax.tree.map(lambda gain: jnp.array(gain, jnp.float32), self.law)
        dims = jnp.array(self.dims, jnp.float32)
        weight = law.init()
        former = jnp.copy(law.effective(weight))  # a buffer of its own: both may be donated
        return WeighingState(law, weight, former, dims, jnp.full((), jnp.nan, jnp.float32), jnp.zeros((), jnp.int32))

    def read(self, name: str, measured: Any) -> tuple[Array, Array]:
        """The term and what its weight follows, both of shape ().

        Raises:
          TypeError: a `balanced` weight that is not given `Balanced`.
          ValueError: a shape that is not ().
        """
        if self.kind == "balanced":
            if not isinstance(measured, Balanced):
                raise TypeError(f"measured[{name!r}] must be Balanced(value, measured), got {type(measured).__name__}")
            value, follows = (jnp.asarray(part, jnp.float32) for part in measured)
        else:
            value = jnp.asarray(measured, jnp.float32)
            follows = 1 / jax.lax.stop_gradient(value)
        for part in (value, follows):
            if part.shape != ():
                raise ValueError(f"measured[{name!r}] has shape {part.shape}, a weighed term is a scalar ()")
        return value, follows

    def term(self, state: WeighingState, value: Array) -> Array:
        """What the term adds to the loss; 0 where it is not finite."""
        return self._value(state, value, state.law.effective(state.weight))

    def work(self, state: WeighingState, value: Array) -> Array:
        """What the weight's last move has added to the loss, as a new value has it."""
        return self.term(state, value) - self._value(state, value, state.former)

    def _value(self, state: WeighingState, value: Array, weight: Array) -> Array:
        added = weight * jnp.where(jnp.isfinite(value), value, 0.0)
        if self.kind == "likelihood":
            added += 0.5 * state.dims * jnp.log(0.5 * state.dims / weight)
        return jnp.where(jnp.isfinite(value), added, 0.0)

    def update(self, state: WeighingState, value: Array, follows: Array, dt: Array, active: Array) -> WeighingState:
        """The weight after a measurement."""
        weight, info = state.law.update(state.weight, follows, dt=dt, active=active)
        heard = active & jnp.isfinite(value)
        return state._replace(
            weight=weight,
            former=jnp.where(heard, state.law.effective(state.weight), state.former),
            value=jnp.where(heard, value, state.value),
            frozen=state.frozen + (info.frozen & active),
        )


def likelihood(
    dims: ArrayLike = 1.0,
    *,
    lag: ArrayLike = 100.0,
    initial: ArrayLike | None = None,
    minimum: ArrayLike = 1e-6,
    maximum: ArrayLike = 1e6,
) -> Weighing:
    """A squared error or another negative log-likelihood, weighed by its own noise.

    Args:
      dims: d > 0, dimensions of the residual whose mean squared error is measured.
      lag: updates that log w takes to follow, by a factor of e.
      initial: w at the start; default d/2, of unit variance.
      minimum: lower bound of w, > 0.
      maximum: upper bound of w.

    Raises:
      ValueError: a value out of range; the message holds it.

    References:
      Kendall, Gal and Cipolla, "Multi-task learning using uncertainty to weigh losses" (CVPR 2018). Deviation: s is
      moved by its law here, not by the optimizer of the parameters (for which see `precision`).
    """
    require_positive(dims=dims)
    start = jnp.asarray(dims, jnp.float32) * 0.5 if isinstance(dims, jax.core.Tracer) else 0.5 * np.asarray(dims)
    return Weighing("likelihood", _law(start, lag, start if initial is None else initial, minimum, maximum), dims)


def balanced(
    factor: ArrayLike = 1.0,
    *,
    lag: ArrayLike = 100.0,
    initial: ArrayLike = 1.0,
    minimum: ArrayLike = 1e-6,
    maximum: ArrayLike = 1e6,
) -> Weighing:
    """A term whose weight follows what is measured beside it, as ‖∇L‖ / ‖∇v‖; it is measured as `Balanced`.

    Args:
      factor: c > 0: w → c × measured.
      lag: updates that log w takes to follow, by a factor of e; 0 follows at once.
      initial: w at the start.
      minimum: lower bound of w, > 0.
      maximum: upper bound of w.

    Raises:
      ValueError: a value out of range; the message holds it.

    References:
      Chen et al., "GradNorm" (ICML 2018); Wang, Teng and Perdikaris, "Understanding and mitigating gradient flow
      pathologies in physics-informed neural networks" (2021) for the running ratio.
    """
    return Weighing("balanced", _law(factor, lag, initial, minimum, maximum), 1.0)


def _law(factor: Any, lag: Any, initial: Any, minimum: Any, maximum: Any) -> Tracking:
    law = tracking(factor, lag=lag, initial=initial, minimum=minimum, maximum=maximum)
    if law.initial.shape != ():
        raise ValueError(f"a weight is one number, got gains of shape {law.initial.shape}")
    return law
