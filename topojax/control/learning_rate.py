"""The learning rate as an optax transform: a governor that finds it, holds it and brings it down.

  θ ← θ − η u         η = min(rate · annealing, cap)         cap = ρ max(‖θ‖, floor) / ‖u‖

u is the direction that comes in. The rate is decided once per window of steps from the loss, by the rules of
`governor_search`; the cap bounds each step by the update that it would really make.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from topojax.control.base import checked, is_known, require_positive, typed
from topojax.control.caps import NO_CAP, active_cap, update_ratio_cap
from topojax.control.governor_search import RULES, Search, SearchState, Window, fresh, observe, open_window
from topojax.control.governor_state import CAUSES, in_a_row
from topojax.types import Array

_BETWEEN = {
    **{name: (1, np.inf) for name in ("grow", "forget", "patience")},
    **{name: (0, 1) for name in ("shrink", "margin", "first")},
    "cooling": (0, 0.9),
    "window": (2, np.inf),
}
"""Ranges beyond being ≥ 0."""

BOUNDS = ("rate", "horizon", "cap")
"""What the rate in force was, by the index `ScaleByGovernorState.bound`: the governor's, annealed, or capped."""


class UpdateRatio(NamedTuple):
    """The cap made by `update_ratio`."""

    ratio: ArrayLike
    minimum_norm: ArrayLike


def update_ratio(ratio: ArrayLike, *, minimum_norm: ArrayLike = 1e-3) -> UpdateRatio:
    """Cap of `scale_by_governor`: a step changes the parameters by at most a fraction ρ of their norm.

      ‖η u‖ ≤ ρ max(‖θ‖, floor)

    Args:
      ratio: ρ > 0, number or traced.
      minimum_norm: the floor, > 0; without it parameters that start at 0 could never move.

    Raises:
      ValueError: a value that is not finite or not > 0; the message holds it.
    """
    checked(ratio=ratio, minimum_norm=minimum_norm)
    require_positive(ratio=ratio, minimum_norm=minimum_norm)
    return UpdateRatio(ratio, minimum_norm)


DEFAULT_CAP = UpdateRatio(0.05, 1e-3)
"""A step changes the parameters by at most 5 %."""


class ScaleByGovernorState(NamedTuple):
    """State of `scale_by_governor`; every leaf has shape=().

    `hyperparams` is read, and may be replaced, as that of `optax.inject_hyperparams`.
    """

    hyperparams: dict[str, Array]  # float32: every number of the transform
    search: SearchState  # the rate before annealing and cap, and what led to it
    window: Window  # the present one
    steps: Array  # int32, steps seen
    reference: Array  # float32, largest ‖θ‖ at the end of a window that was better, or at the first step
    in_force: Array  # float32, η of the last step
    bound: Array  # int32, index into BOUNDS: what set it
    failures: Array  # int32, steps in a row that were not finite, hence not taken
    failures_total: Array  # int32


def scale_by_governor(
    initial: ArrayLike,
    *,
    maximum: ArrayLike = 1e3,
    minimum: ArrayLike = 1e-8,
    window: ArrayLike = 50,
    cap: UpdateRatio | None = DEFAULT_CAP,
    horizon: ArrayLike | None = None,
    cooling: ArrayLike = 0.5,
    first: ArrayLike = 0.02,
    **rules: ArrayLike,
) -> optax.GradientTransformationExtraArgs:
    """Scale a direction by **minus** a rate that is found while training, as `optax.scale_by_learning_rate` would.

    Goes last in a chain, after what makes the direction. `update` needs `params` and `value=`, the loss of this step:
    the one that the updates descend, without what multipliers' own moves add (with `contracts`, `problem.merit`).

    Args:
      initial: η of the first step, unless that would move the parameters by more than `first` of what the cap allows.
      maximum: upper bound of η.
      minimum: lower bound of η, > 0.
      window: steps per decision, ≥ 2; 1/50 to 1/100 of a run, and enough that the loss's mean over them says something.
      cap: from `update_ratio`; None: none, and `initial` is taken at its word.
      horizon: T, steps of the run; the rate then falls linearly to 0 by its end. None: it falls by `plateau` alone.
      cooling: last fraction of the horizon in which it falls, in (0, 0.9]; the rate is sought before.
      first: fraction of the cap that the first step may use.
      **rules: of `governor_search`: `grow` ≥ 1 (factor per window), `shrink` in (0, 1], `significance` (standard
        errors that make a difference), `patience` (windows on trial), `plateau` (windows without a new best; 0: off, as
        it is by default with a horizon),
        `margin` in (0, 1] (fraction of the unstable rate that may be used), `forget` ≥ 1 (factor per window on the
        memory of that rate), `alarm` (standard deviations of single losses above the first window's that cut at once).

    Every number may be traced: the transform works under `jax.vmap` over any of them.

    Returns:
      A transform whose state is a `ScaleByGovernorState`. A step whose value or direction is not finite is not taken,
      but counted; the first of a run cuts the rate. A direction stays finite only if what makes it does: wrap that
      (`keep_finite`), or one bad gradient stays in Adam's moments for good.

    Raises:
      ValueError: a number out of its range; at trace time, `value` or `params` missing.

    Example:
      >>> tx = optax.chain(keep_finite(optax.scale_by_adam()), scale_by_governor(1e-3, horizon=10_000))
      >>> updates, state = tx.update(grads, state, params, value=loss)
      >>> cause(state), optax.tree_utils.tree_get(state, "in_force")
    """
    cap = _cap(cap)
    numbers = _numbers(
        initial=initial,
        maximum=maximum,
        minimum=minimum,
        window=window,
        ratio=cap.ratio,
        minimum_norm=cap.minimum_norm,
        horizon=np.inf if horizon is None else horizon,
        cooling=cooling,
        first=first,
        **{**RULES, "plateau": RULES["plateau"] if horizon is None else 0, **rules},
    )

    def init(params: optax.Params) -> ScaleByGovernorState:
        del params
        hyperparams = {name: typed(value) for name, value in numbers.items()}
        zero, none = typed(0, jnp.int32), typed(0)
        search = fresh(hyperparams["initial"])
        return ScaleByGovernorState(hyperparams, search, open_window(), zero, typed(np.inf), none, zero, zero, zero)

    def update(
        updates: optax.Updates,
        state: ScaleByGovernorState,
        params: optax.Params | None = None,
        *,
        value: ArrayLike | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, ScaleByGovernorState]:
        del extra
        return _scaled(updates, state, params, value)

    return optax.GradientTransformationExtraArgs(init, update)


def _cap(cap: Any) -> UpdateRatio:
    if cap is not None and not isinstance(cap, UpdateRatio):
        raise TypeError(f"cap must be made by update_ratio, as cap=update_ratio(0.05), got {cap!r}")
    return cap or UpdateRatio(np.inf, 0.0)


def cause(state: Any) -> str:
    """Name of the cause of the rate's last change, from the state of a transform that holds a governor.

    Args:
      state: of `scale_by_governor`, or of a chain or wrapper with one in it; concrete values.

    Raises:
      KeyError: there is none, or more than one, in it.
    """
    return CAUSES[_index(state, "cause")]


def _index(state: Any, name: str) -> int:
    found = optax.tree_utils.tree_get(state, name)
    if found is None:
        raise KeyError(f"no governor in this state: {type(state).__name__}")
    if np.ndim(found):
        raise ValueError(f"a state of {np.shape(found)} runs: take one out, jax.tree.map(lambda leaf: leaf[i], state)")
    return int(found)


def bound(state: Any) -> str:
    """Name, of `BOUNDS`, of what set the rate of the last step; arguments and errors as for `cause`."""
    return BOUNDS[_index(state, "bound")]


def keep_finite(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Keep what a transform remembers from a gradient that is not finite, and let that gradient through.

    `scale_by_governor` after it then counts the step and does not take it.

    Args:
      inner: what makes a direction of gradients, such as `optax.scale_by_adam()`.
    """
    inner = optax.with_extra_args_support(inner)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        finite = jnp.isfinite(optax.tree.norm(updates))
        new, after = inner.update(updates, state, params, **extra)
        new = jax.tree.map(lambda u: jnp.where(finite, u, jnp.nan), new)
        return new, jax.tree.map(lambda a, b: jnp.where(finite, a, b), after, state)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _scaled(
    updates: optax.Updates, state: ScaleByGovernorState, params: optax.Params | None, value: ArrayLike | None
) -> tuple[optax.Updates, ScaleByGovernorState]:
    """The update, and the state after it."""
    if value is None or params is None:
        missing = "value=loss" if value is None else "params"
        raise ValueError(
            f"scale_by_governor needs {missing}: call tx.update(grads, state, params, value=loss), with the transform "
            "inside optax.chain or a wrapper that hands extra arguments on"
        )
    if jnp.shape(value) != ():
        raise ValueError(f"scale_by_governor needs a scalar value, got shape {jnp.shape(value)}")
    loss, direction, size = (
        jax.lax.stop_gradient(jnp.asarray(number, jnp.float32))
        for number in (value, optax.tree.norm(updates), optax.tree.norm(params))
    )
    new = _step(jax.lax.stop_gradient(state), loss, direction, size)
    taken = new.failures == 0
    scaled = jax.tree.map(lambda u: jnp.where(taken, -new.in_force.astype(u.dtype) * u, jnp.zeros_like(u)), updates)
    return scaled, new


def _numbers(**numbers: ArrayLike) -> dict[str, ArrayLike]:
    """Every number of the transform, checked as far as its value is known."""
    known = {*RULES, "initial", "maximum", "minimum", "window", "ratio", "minimum_norm", "horizon", "cooling", "first"}
    for name in numbers.keys() - known:
        raise TypeError(f"scale_by_governor has no number {name!r}; it has {', '.join(sorted(known))}")
    for name, value in numbers.items():
        shape = np.shape(value)
        if shape != ():
            raise ValueError(f"{name} must be a number, got shape {shape}; to try many, jax.vmap over it")
    checked(**{name: value for name, value in numbers.items() if name not in ("ratio", "horizon")})
    require_positive(**{name: numbers[name] for name in ("minimum", "horizon", "shrink", "margin", "cooling", "first")})
    for name, (low, high) in _BETWEEN.items():
        if is_known(numbers[name]) and not low <= float(np.asarray(numbers[name])) <= high:
            raise ValueError(f"{name} must lie in [{low}, {high:g}], got {numbers[name]}")
    return numbers


def _step(state: ScaleByGovernorState, loss: Array, direction: Array, size: Array) -> ScaleByGovernorState:
    """One step: the rate in force, what the window says of it, and a decision at the window's end."""
    numbers = state.hyperparams
    finite = jnp.isfinite(loss) & jnp.isfinite(direction) & jnp.isfinite(size)
    capped = update_ratio_cap(direction, size, numbers["ratio"], minimum_norm=numbers["minimum_norm"])
    cap = jnp.where(jnp.isfinite(numbers["ratio"]), capped, NO_CAP)
    rules = Search(**{name: numbers[name] for name in Search._fields})
    before, alarmed = rules.alarmed(state.search, loss)
    start = jnp.clip(jnp.minimum(before.rate, numbers["first"] * cap), numbers["minimum"], numbers["maximum"])
    unstarted = (state.window.counted == 0) & (state.search.windows == 0)
    rate = jnp.where(unstarted & finite, start, before.rate)
    left = 1 - state.steps / numbers["horizon"]
    annealing = jnp.clip(left / numbers["cooling"], 0.0, 1.0)
    in_force, bound = active_cap(rate, rate * annealing, cap)

    failed = rules.fail(before._replace(rate=rate), ~finite & (state.failures == 0))
    opened = jax.tree.map(lambda new, old: jnp.where(alarmed, new, old), open_window(), state.window)
    window = observe(opened, loss, in_force / jnp.maximum(annealing, np.finfo(np.float32).tiny), finite & ~alarmed)
    steps = state.steps + 1
    ends = (steps % numbers["window"].astype(jnp.int32)) == 0
    earned = cap * jnp.minimum(state.reference / jnp.maximum(size, numbers["minimum_norm"]), 1.0)
    decided = rules.decide(failed, window, earned=earned, cooling=annealing < 1)
    judged = ends & (window.counted > 0)
    search, window = jax.tree.map(
        lambda after, before: jnp.where(judged, after, before), (decided, open_window()), (failed, window)
    )
    grown = jnp.maximum(size, state.reference)
    return ScaleByGovernorState(
        hyperparams=numbers,
        search=search,
        window=window,
        steps=steps,
        reference=jnp.where(unstarted, size, jnp.where(judged & decided.improved, grown, state.reference)),
        in_force=jnp.where(finite, in_force, 0.0),
        bound=bound,
        failures=in_a_row(state.failures, ~finite),
        failures_total=state.failures_total + ~finite,
    )
