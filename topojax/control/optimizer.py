"""Any optax transform as the law of a multiplier: gradient ascent on λ in the manner of the transform.

  Δλ = transform(−e),  λ ← clip(λ + Δλ)

optax descends and a multiplier ascends, hence the sign: `optax.sgd(0.5)` gives λ + 0.5 e.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from topojax.control.base import Gain, Info, checked, finish, read, typed, weight_of
from topojax.types import Array


class OptaxState(NamedTuple):
    """State of `by_optax`."""

    weight: Array  # float32, in [minimum, maximum], shape of the bounds
    optimizer: Any  # the transform's own state


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Optax:
    """A controller made by `by_optax`."""

    transform: optax.GradientTransformation = dataclasses.field(metadata={"static": True})
    minimum: Gain
    maximum: Gain
    initial: Gain
    error_clip: Gain

    def init(self) -> OptaxState:
        """The multiplier at its initial value."""
        weight = typed(self.initial)
        return OptaxState(weight, self.transform.init(weight))

    def update(
        self, state: OptaxState, error: ArrayLike, *, dt: ArrayLike = 1.0, active: ArrayLike = True
    ) -> tuple[OptaxState, Info]:
        """The multiplier an update later, as `Controller.update` has it; `dt` is not read: a transform counts updates.

        A multiplier that stands still keeps what the transform remembers of it (leaves of the weight's shape); what
        the transform counts for all of them together goes on as soon as one of them moves.
        """
        reading = read(error, dt, self.error_clip)
        asked, optimizer = self.transform.update(-reading.error, state.optimizer, state.weight)
        asked = jnp.asarray(asked, jnp.float32)
        new = state._replace(weight=jnp.clip(state.weight + asked, self.minimum, self.maximum))
        nothing = jnp.zeros_like(asked)
        still = state._replace(optimizer=())
        moved, info = finish(
            still, new._replace(optimizer=()), (nothing, asked, nothing), reading, active, (self.minimum, self.maximum)
        )
        moves = reading.usable & jnp.asarray(active, bool)
        optimizer = jax.tree.map(lambda after, before: _kept(moves, after, before), optimizer, state.optimizer)
        return OptaxState(moved.weight, optimizer), info

    def effective(self, state: OptaxState) -> Array:
        """The multiplier, gradient stopped."""
        return weight_of(state)


def _kept(moves: Array, after: ArrayLike, before: ArrayLike) -> Array:
    """A leaf of the transform's state: each element its own where there is one a multiplier, else all together."""
    after, before = jnp.asarray(after), jnp.asarray(before)
    return jnp.where(moves if after.shape == moves.shape else jnp.any(moves), after, before)


def by_optax(
    transform: optax.GradientTransformation,
    *,
    minimum: ArrayLike = 0.0,
    maximum: ArrayLike = np.inf,
    initial: ArrayLike = 0.0,
    error_clip: ArrayLike = np.inf,
) -> Optax:
    """A multiplier that an optax transform moves: schedules, momentum, Adam, projections, as optax has them.

    Args:
      transform: of one array, the vector of multipliers. A number of it is a leaf of the state with
        `optax.inject_hyperparams`.
      minimum: lower bound of λ.
      maximum: upper bound of λ.
      initial: λ before the first update.
      error_clip: errors are clipped to ± this.

    Returns:
      A `Controller` with `OptaxState`. `Info.i` is the increment before projection.

    Raises:
      TypeError: not an optax transform.
      ValueError: minimum > maximum or initial out of bounds.
    """
    if not isinstance(transform, optax.GradientTransformation):
        raise TypeError(f"not an optax transform: {transform!r}")
    limits = checked(minimum=minimum, maximum=maximum, initial=initial, error_clip=error_clip)
    return Optax(transform, **limits)
