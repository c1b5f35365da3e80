"""What a contract adds to the loss: a multiplier's term, a penalty's, or both (augmented Lagrangian).

With e the error (≤ 0 allowed; = 0 for an equality), λ the multiplier and c the penalty's coefficient,

  c = 0        ψ = λ e
  equality     ψ = λ e + ½ c e²
  inequality   ψ = (max(0, λ + c e)² − λ²) / 2c          the minimum over a slack: ∇ψ = max(0, λ + c e) ∇e

At a solution λ is the multiplier itself, with or without c: c only makes the valley steeper, so that the orbit around
the solution is damped. A penalty without a multiplier needs c → ∞ to satisfy its contract.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from topojax.control.base import Gain, checked, is_known
from topojax.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Penalty:
    """c and how it grows; made by `quadratic` or `augmented`. Every leaf float32, () or (n,)."""

    coefficient: Gain
    growth: Gain
    decrease: Gain
    maximum: Gain

    def init(self) -> Array:
        """C before the first update."""
        return jnp.array(self.coefficient, jnp.float32)

    def grown(self, coefficient: Array, violation: Array, before: Array) -> Array:
        """C after an update that brought the violation from `before` to `violation`.

          c ← min(growth c, maximum)    where violation > decrease · before

        Args:
          coefficient: c.
          violation: |e| of an equality, max(e, −λ/c) of an inequality.
          before: the violation at the last update; ∞ at the first.
        """
        slow = violation > self.decrease * before
        larger = jnp.minimum(coefficient * self.growth, self.maximum)
        return jnp.where(slow, jnp.maximum(coefficient, larger), coefficient)


def augmented(
    coefficient: ArrayLike, *, growth: ArrayLike = 1.0, decrease: ArrayLike = 0.99, maximum: ArrayLike = 1e4
) -> Penalty:
    """The augmented Lagrangian: ½ c e² beside the multiplier's term, c growing while the violation does not fall.

    Args:
      coefficient: c > 0 at the start, in loss per squared unit of error.
      growth: factor ≥ 1 of an update that brought too little; 1 keeps c.
      decrease: an update brings enough that leaves no more than this share of the violation, in (0, 1].
      maximum: largest c that growth leads to.

    Raises:
      ValueError: a value out of range; the message holds it.

    References:
      Hestenes (1969), Powell (1969); Nocedal and Wright, "Numerical Optimization", 17.3 and framework 17.3 for the
      growth. Deviation: c is adapted at each update of the multiplier, not after an inner minimisation.
    """
    values = checked(coefficient=coefficient, growth=growth, decrease=decrease, maximum=maximum)
    for name, low, high in (("coefficient", 0, np.inf), ("growth", 1, np.inf), ("decrease", 0, 1)):
        if is_known(values[name]) and not ((values[name] >= low) & (values[name] <= high)).all():
            raise ValueError(f"{name} must lie in [{low}, {high:g}], got {values[name]}")
    if is_known(coefficient) and not (values["coefficient"] > 0).all():
        raise ValueError(f"coefficient must be > 0, got {coefficient}")
    return Penalty(**values)


def value(error: Array, multiplier: Array, coefficient: Array, equality: ArrayLike) -> Array:
    """ψ(e, λ, c), elementwise.

    Args:
      error: e, any shape.
      multiplier: λ, likewise.
      coefficient: c ≥ 0, likewise.
      equality: bool, likewise.
    """
    plain = multiplier * error
    steep = jnp.where(coefficient > 0, coefficient, 1.0)
    inside = (jnp.maximum(multiplier + steep * error, 0.0) ** 2 - multiplier**2) / (2 * steep)
    bent = jnp.where(equality, plain + 0.5 * coefficient * error**2, inside)
    return jnp.where(coefficient > 0, bent, plain)


def violation(error: Array, multiplier: Array, coefficient: Array, equality: ArrayLike) -> Array:
    """How far an error is from what a solution allows: |e|, or |max(e, −λ/c)| of an inequality; elementwise.

    A satisfied inequality whose multiplier is not 0 is as unsolved as a violated one.
    """
    slack = jnp.where(coefficient > 0, -multiplier / jnp.where(coefficient > 0, coefficient, 1.0), -jnp.inf)
    return jnp.where(equality, jnp.abs(error), jnp.abs(jnp.maximum(error, slack)))
