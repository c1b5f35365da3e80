"""What all controllers of loss weights share: pure functions, one sign rule, and when not to move.

**The sign rule, for the whole package: error > 0 raises the weight.** Where a larger weight lowers the
metric, the error is metric − target; where it raises the metric, target − metric. Errors are dimensionless
(divided by a tolerance, a target or the log of an alphabet) and clipped to ± `error_clip`.

Everything is elementwise. Gains, bounds, weights and errors are scalars () or vectors (n,), so n contracts
are one controller with vector gains. A controller is a pytree whose leaves are its gains and bounds: closed over they
are constants of the program, passed as an argument they are numbers that a `vmap` maps and a checkpoint holds. They are
validated when the controller is built, as far as their values are known by then (a tracer's is not).
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from topojax.types import Array

Gain = Any
"""A number of a controller, float32, () or (n,): NumPy's where its value is known, else traced.

Not typed as an array: to NumPy's types its product with a traced array is NumPy's.
"""

SIGNED = ("minimum", "maximum", "initial", "nu")
"""What may be negative."""

UNBOUNDED = ("minimum", "maximum", "error_clip", "max_step")
"""What may be infinite: it limits, and need not."""


def is_known(value: Any) -> bool:
    """Whether a value can be looked at: it is not traced."""
    return not isinstance(value, jax.core.Tracer)


def is_off(value: Any) -> bool:
    """Whether a number is 0 where 0 takes code out of a program; a traced one is not."""
    return is_known(value) and not value


class Info(NamedTuple):
    """What one update did, for logs; never read by a control law. Every field has the weight's shape."""

    p: Array  # float32: proportional part of the increment asked for, before any limit
    i: Array  # float32: integral part
    d: Array  # float32: derivative part
    at_min: Array  # bool: the new weight is on its lower bound
    at_max: Array  # bool: the new weight is on its upper bound
    frozen: Array  # bool: error or Δt could not be used (NaN, ±inf, Δt ≤ 0); no leaf moved


def weight_of(state: Any) -> Array:
    """The weight that enters the loss where nothing is added to it: `state.weight`, gradient stopped."""
    return jax.lax.stop_gradient(state.weight)


class Controller(Protocol):
    """A rule for loss weights, in the manner of an optax transform: pure functions of a state.

    Example:
      >>> control = pid(kp=0.05, ki=0.05)
      >>> state = control.init()
      >>> loss = task + control.effective(state) * term
      >>> state, info = control.update(state, (metric - target) / target, dt=1 / steps_per_epoch)
    """

    def init(self) -> Any:
        """The state before the first update: a NamedTuple with at least `weight` (float32, shape of the gains)."""

    def update(
        self, state: Any, error: ArrayLike, *, dt: ArrayLike = 1.0, active: ArrayLike = True
    ) -> tuple[Any, Info]:
        """The state after one error, and what was done.

        Args:
          state: of `init` or the last update.
          error: dimensionless, shape () or the weight's.
          dt: shape (), time since the last update in epochs, 1/steps_per_epoch.
          active: bool, shape () or the weight's. Where it is False, or error or dt is not usable, every leaf keeps its
            bits.
        """

    def effective(self, state: Any) -> Array:
        """What multiplies the loss: the weight itself, plus the augmented term of a damped dual ascent."""


class Reading(NamedTuple):
    """An error made safe to compute with."""

    error: Array  # float32, weight's shape: clipped, 0 where it was not finite
    dt: Array  # shape=(), float32, epochs: 1 where it was not usable
    usable: Array  # bool, weight's shape


def checked(**values: ArrayLike) -> dict[str, Any]:
    """Validate gains and bounds: float32 arrays of one common shape.

    Args:
      **values: name to scalar or vector, each finite and ≥ 0; what is in `SIGNED` may be negative, what is in
        `UNBOUNDED` infinite. What is traced is not looked at.

    Returns:
      The same names to arrays, broadcast against each other: NumPy's where the value is known.

    Raises:
      ValueError: not finite, negative, minimum > maximum, initial outside [minimum, maximum] or shapes
        that do not broadcast; the message names the value.
    """
    arrays = {name: _sound(name, value) for name, value in values.items()}
    try:
        shape = np.broadcast_shapes(*(array.shape for array in arrays.values()))
    except ValueError as error:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ValueError(f"gains must be scalars or share one shape, got {shapes}") from error
    known = {name for name, array in arrays.items() if is_known(array)}
    arrays = {
        name: np.broadcast_to(array, shape) if name in known else jnp.broadcast_to(array, shape)
        for name, array in arrays.items()
    }
    if {"minimum", "maximum"} <= known and (arrays["minimum"] > arrays["maximum"]).any():
        raise ValueError(f"minimum must be <= maximum, got {values['minimum']} > {values['maximum']}")
    if {"minimum", "maximum", "initial"} <= known:
        low, high, start = arrays["minimum"], arrays["maximum"], arrays["initial"]
        if ((start < low) | (start > high)).any():
            raise ValueError(
                f"initial must lie in [minimum, maximum] = [{values['minimum']}, {values['maximum']}], "
                f"got {values['initial']}"
            )
    return arrays


def _sound(name: str, value: ArrayLike) -> Any:
    """A value as a float32 array, refused if it makes no sense; a tracer as it is."""
    if not is_known(value):
        return jnp.asarray(value, jnp.float32)
    with np.errstate(over="ignore"):  # what overflows float32 is reported as not finite
        array = np.asarray(value, np.float32)
    if not np.isfinite(array).all() and (name not in UNBOUNDED or np.isnan(array).any()):
        raise ValueError(f"{name} must be finite, got {value}")
    if name not in SIGNED and (array < 0).any():
        raise ValueError(f"{name} must be >= 0, got {value}")
    return array


def require_positive(**values: ArrayLike) -> None:
    """Raise ValueError for the first value that is known and not > 0 everywhere."""
    for name, value in values.items():
        if is_known(value) and not (np.asarray(value) > 0).all():
            raise ValueError(f"{name} must be > 0, got {value}")


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def typed(value: ArrayLike, dtype: Any = jnp.float32) -> Array:
    """A strongly typed copy: a weak type would cost a second trace, a shared buffer cannot be donated."""
    return jnp.array(np.asarray(value, dtype) if is_known(value) else value, dtype)


def read(error: ArrayLike, dt: ArrayLike, clip: Gain) -> Reading:
    """Clip the error to ±clip and say where it can be used.

    Args:
      error: shape () or clip's; any value. Its gradient is stopped.
      dt: shape (), epochs.
      clip: the bound on |error|, in the weight's shape.

    Raises:
      ValueError: the error's shape is neither () nor the weight's.
    """
    error = jax.lax.stop_gradient(jnp.asarray(error, jnp.float32))
    dt = jnp.asarray(dt, jnp.float32)
    if error.shape not in ((), clip.shape):
        raise ValueError(f"error has shape {error.shape}, the weight {clip.shape}")
    error = jnp.broadcast_to(error, clip.shape)
    timed = jnp.isfinite(dt) & (dt > 0)
    finite = jnp.isfinite(error)
    return Reading(
        error=jnp.clip(jnp.where(finite, error, 0.0), -clip, clip),
        dt=jnp.where(timed, dt, 1.0),
        usable=finite & timed,
    )


def where_active(active: Array, new: Any, old: Any) -> Any:
    """`new` where active, `old` bit for bit elsewhere; elementwise, every leaf in the weight's shape."""
    return jax.tree.map(lambda after, before: jnp.where(active, after, before), new, old)


def finish(
    old: Any, new: Any, parts: tuple[Array, Array, Array], reading: Reading, active: ArrayLike, bounds: tuple
) -> tuple[Any, Info]:
    """Accept the new state where the controller is active, its error usable and the result finite.

    Args:
      old: the state before, every leaf in the weight's shape.
      new: the state proposed, of the same type.
      parts: p, i, d of the increment.
      reading: of this update's error.
      active: bool, shape () or the weight's.
      bounds: minimum and maximum, in the weight's shape.
    """
    finite = jax.tree.reduce(lambda ok, leaf: ok & jnp.isfinite(leaf), new, reading.usable)
    moves = finite & jnp.asarray(active, bool)
    state = where_active(moves, new, old)
    p, i, d = (jnp.where(moves, part, 0.0) for part in parts)
    minimum, maximum = bounds
    return state, Info(p, i, d, state.weight <= minimum, state.weight >= maximum, ~finite)


def limited(weight: Array, proposal: Array, max_step: Gain | None) -> Array:
    """The proposal, at most `max_step` away from the present weight (None: no limit)."""
    if max_step is None:
        return proposal
    return jnp.clip(proposal, weight - max_step, weight + max_step)
