"""What a contract says: which measurement is held where, by which law of its multiplier. Data; nothing moves here.

  at_most    m ≤ b      e = (m − b) / s
  at_least   m ≥ b      e = (b − m) / s
  equal      m = b      e = (m − b) / s
  between    a ≤ m ≤ b  both of the first two, each with a multiplier

A positive error is a violation and raises the multiplier.
"""

import dataclasses
import functools
from typing import Any, NamedTuple, Protocol, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from topojax.control.base import Controller, is_known
from topojax.control.nupi import nu_pi
from topojax.control.optimizer import by_optax
from topojax.control.penalty import Penalty
from topojax.control.pid import pid
from topojax.control.primal_dual import dual_ascent

RELATIONS = {"at_most": "<=", "at_least": ">=", "equal": "=", "between": "in"}


class Rule(Protocol):
    """How multipliers move: what makes a controller once their bounds are known."""

    def __call__(self, *, minimum: ArrayLike, maximum: ArrayLike, initial: ArrayLike) -> Controller:
        """A controller of multipliers in [minimum, maximum] that start at `initial`; all of one shape (n,)."""


class Proxy(NamedTuple):
    """A measurement with a differentiable stand-in, as an accuracy with its hinge loss.

    The loss is given the stand-in's gradient; the multiplier follows the strict value (Cotter et al., "Two-player games
    for efficient non-convex constrained optimization", ALT 2019).
    """

    value: Any  # what is differentiated, in the contract's structure
    strict: Any  # what has to hold, likewise


class Options(TypedDict, total=False):
    """What every contract may be told beyond its bound.

    dual: moves the multiplier: a `Rule` (`ascent`, `nupi`, `pi`), any optax transform, or None: no multiplier, the
      penalty alone. Default: `nupi(0.3, 0.01)`; with a penalty `ascent(0.01)`.
    penalty: `augmented(c, …)`, or None.
    scale: s > 0, what an error of 1 is, in the measurement's unit; a number, or in the bound's structure. Default 1.
    shape: of the measurement where the bound is one number for all of it. Default ().
    per_example: number n of examples, each with a multiplier; measured are the B of a batch, with their `index`.
    initial: the multipliers' start. Default 0.
    minimum: their lower bound, of an inequality; > 0 for a multiplicative law. Default 0.
    maximum: their upper bound (of an equality: that of |λ|). Default 1e6.
    every: updates of the multiplier wait for this many measurements and take their mean. Default 1.
    tolerance: the contract counts as satisfied up to this error. Default: that of 0.01 of the bound, or 0.01 where the
      bound is 0.
    patience: updates in a row at `maximum` and violated after which the contract is reported as saturated. Default 100.
    """

    dual: "Rule | optax.GradientTransformation | None"
    penalty: Penalty | None
    scale: Any
    shape: tuple[int, ...]
    per_example: int
    initial: ArrayLike
    minimum: ArrayLike
    maximum: ArrayLike
    every: ArrayLike
    tolerance: ArrayLike | None
    patience: ArrayLike


@dataclasses.dataclass(frozen=True, eq=False)
class Constraint:
    """A contract without its name; made by `at_most`, `at_least`, `equal` or `between`.

    Attributes:
      relation: a key of `RELATIONS`.
      bound: pytree of float32 arrays in the measurement's structure and shapes; of `between` the lower one.
      upper: likewise, of `between` alone.
      rule: makes the controller.
      penalty: of the augmented Lagrangian.
      per_example: number of examples with a multiplier each; 0: the measurement's entries have one each.
      numbers: scale, initial, minimum, maximum, every, tolerance and patience.
    """

    relation: str
    bound: Any
    upper: Any
    rule: Rule | None
    penalty: Penalty | None
    per_example: int
    numbers: dict[str, Any]

    def __repr__(self) -> str:
        """As the contract reads."""
        bounds = self.bound if self.upper is None else (self.bound, self.upper)
        return f"{self.relation}({bounds})"


def at_most(bound: Any, **options: Unpack[Options]) -> Constraint:
    """The contract m ≤ b.

    Args:
      bound: b, a number for all of the measurement or a pytree of numbers and arrays in its structure.
      **options: see `Options`.

    Raises:
      TypeError: an unknown option, or a dual that is neither a rule nor an optax transform.
      ValueError: a number out of range; the message holds it.
    """
    return _constraint("at_most", bound, None, options)


def at_least(bound: Any, **options: Unpack[Options]) -> Constraint:
    """The contract m ≥ b; otherwise as `at_most`."""
    return _constraint("at_least", bound, None, options)


def equal(value: Any, **options: Unpack[Options]) -> Constraint:
    """The contract m = b, whose multiplier may have either sign; otherwise as `at_most`."""
    return _constraint("equal", value, None, options)


def between(lower: Any, upper: Any, **options: Unpack[Options]) -> Constraint:
    """The contract a ≤ m ≤ b, with a multiplier for either side; otherwise as `at_most`.

    Raises:
      ValueError: also where a > b.
    """
    return _constraint("between", lower, upper, options)


def ascent(
    rate: ArrayLike, *, damping: ArrayLike = 0.0, form: str = "additive", error_clip: ArrayLike = np.inf
) -> Rule:
    """Dual ascent, λ ← clip(λ + η Δt e), as a rule for contracts; see `dual_ascent`."""
    return functools.partial(dual_ascent, rate, damping=damping, form=form, error_clip=error_clip)


def nupi(kp: ArrayLike, ki: ArrayLike, nu: ArrayLike = 0.0, *, error_clip: ArrayLike = np.inf) -> Rule:
    """ν-PI control as a rule for contracts; see `nu_pi`."""
    return functools.partial(nu_pi, kp, ki, nu, error_clip=error_clip)


def pi(kp: ArrayLike, ki: ArrayLike, *, kd: ArrayLike = 0.0, error_clip: ArrayLike = np.inf) -> Rule:
    """PI or PID control in incremental form as a rule for contracts; see `pid`."""
    return functools.partial(pid, kp, ki, kd, error_clip=error_clip)


_DEFAULTS: dict[str, Any] = {
    "scale": 1.0,
    "initial": None,
    "minimum": 0.0,
    "maximum": 1e6,
    "every": 1,
    "tolerance": None,
    "patience": 100,
}


def _constraint(relation: str, bound: Any, upper: Any, options: Options) -> Constraint:
    given: dict[str, Any] = dict(options)
    unknown = sorted(set(given) - set(Options.__annotations__))
    if unknown:
        raise TypeError(f"{relation}: unknown option {unknown[0]!r}; known are {', '.join(Options.__annotations__)}")
    examples = given.pop("per_example", 0)
    if not isinstance(examples, (int, np.integer)) or examples < 0 or ("per_example" in options and examples == 0):
        raise ValueError(f"{relation}: per_example must be a number of examples >= 1, got {options['per_example']!r}")
    if examples and "shape" in given:
        raise ValueError(f"{relation}: give per_example or shape, not both: an example has one number")
    shape = (int(examples),) if examples else _sizes(relation, given.pop("shape", ()))
    if not isinstance(given.get("penalty"), Penalty | None):
        raise TypeError(f"{relation}: penalty must be made by augmented(c), got {given['penalty']!r}")
    if relation == "equal" and "minimum" in given:
        raise ValueError("equal: a multiplier of either sign has no minimum, give maximum, the bound of its size")
    rule = _rule(relation, given)
    penalty = given.pop("penalty", None)
    if rule is None and penalty is None:
        raise ValueError(f"{relation}: dual=None needs a penalty; nothing would hold the contract")
    bound = _shaped(relation, "the bound", bound, shape)
    upper = None if upper is None else _shaped(relation, "the upper bound", upper, shape)
    if upper is not None:
        _ordered(bound, upper)
    numbers = _DEFAULTS | given
    if not _numeric(numbers["scale"]):
        raise TypeError(f"{relation}: scale must hold numbers, got {numbers['scale']!r}")
    if not jax.tree_util.all_leaves([numbers["scale"]]):
        numbers["scale"] = _like(relation, "scale", numbers["scale"], bound)
    if numbers["initial"] is None:
        numbers["initial"] = numbers["minimum"]
    for name in ("scale", "every", "patience"):
        _positive(relation, name, numbers[name])
    for name in ("every", "patience"):
        if is_known(numbers[name]) and (np.asarray(numbers[name]) % 1 != 0).any():
            raise ValueError(f"{relation}: {name} must be a whole number, got {numbers[name]}")
    tolerance = numbers["tolerance"]
    if tolerance is not None and is_known(tolerance) and not (np.asarray(tolerance) >= 0).all():
        raise ValueError(f"{relation}: tolerance must be >= 0, got {tolerance}")
    return Constraint(relation, bound, upper, rule, penalty, int(examples), numbers)


def _sizes(relation: str, shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple | list) or not all(isinstance(n, int | np.integer) and n >= 1 for n in shape):
        raise ValueError(f"{relation}: shape must be a tuple of sizes >= 1, as (3,), got {shape!r}")
    return tuple(int(n) for n in shape)


def _numeric(tree: Any) -> bool:
    """Whether a tree holds numbers alone, one at least."""
    leaves = jax.tree.leaves(tree)
    return bool(leaves) and all(not is_known(leaf) or np.asarray(leaf).dtype.kind in "biuf" for leaf in leaves)


def _rule(relation: str, given: dict[str, Any]) -> Rule | None:
    """The rule that `dual` means; takes it out of the options."""
    default = ascent(0.01) if given.get("penalty") is not None else nupi(0.3, 0.01)
    dual = given.pop("dual", default)
    if dual in (ascent, nupi, pi):
        raise TypeError(f"{relation}: dual={dual.__name__} lacks its gains: {dual.__name__}(…) is a rule")
    if str(getattr(dual, "__module__", "")).partition(".")[0] == "optax" and hasattr(dual, "__name__"):
        raise TypeError(f"{relation}: dual=optax.{dual.__name__} lacks its rate: optax.{dual.__name__}(…) is a rule")
    if hasattr(dual, "effective"):
        raise TypeError(
            f"{relation}: dual must be a rule, as ascent(…), nupi(…), pi(…); this is a controller, whose bounds are set"
        )
    if isinstance(dual, optax.GradientTransformation):
        _moves_by_gradient(relation, dual)
        return functools.partial(by_optax, dual)
    if dual is None or callable(dual):
        return dual
    raise TypeError(f"{relation}: dual must be a rule, an optax transform or None, got {dual!r}")


def _moves_by_gradient(relation: str, transform: optax.GradientTransformation) -> None:
    """Refuse a transform that wants to be told more than the error, as a line search does."""
    one = jax.ShapeDtypeStruct((1,), jnp.float32)
    try:
        jax.eval_shape(lambda x: transform.update(x, transform.init(x), x), one)
    except TypeError as error:
        raise TypeError(f"{relation}: dual must move a multiplier by its error alone, this transform cannot") from error


def _shaped(relation: str, what: str, tree: Any, shape: tuple[int, ...]) -> Any:
    """A bound in the measurement's structure; one number becomes `shape`."""
    if jax.tree.leaves(tree) and not _numeric(tree):
        raise TypeError(f"{relation}: {what} must hold numbers, got {tree!r}")

    def leaf(value: Any) -> Any:
        array = jnp.asarray(value, jnp.float32) if not is_known(value) else np.asarray(value, np.float32)
        if is_known(value) and not np.isfinite(array).all():
            raise ValueError(f"{relation}: {what} must be finite, got {value}")
        if not shape or array.shape == shape:
            return array
        if array.shape != ():
            raise ValueError(f"{relation}: {what} has shape {array.shape}, the contract {shape}")
        return jnp.broadcast_to(array, shape) if not is_known(value) else np.broadcast_to(array, shape)

    if not sum(np.size(value) for value in jax.tree.leaves(tree)):
        raise ValueError(f"{relation}: {what} holds no number, got {tree!r}")
    return jax.tree.map(leaf, tree)


def _like(relation: str, what: str, tree: Any, bound: Any) -> Any:
    """A number or array for each leaf of a bound, in the bound's shapes."""
    if not _alike(tree, bound):
        structures = f"{jax.tree.structure(tree)}, the bound {jax.tree.structure(bound)}"
        raise ValueError(f"{relation}: {what} has the structure {structures}")

    def leaf(value: Any, like: Any) -> Any:
        if np.shape(value) not in ((), like.shape):
            raise ValueError(f"{relation}: {what} has shape {np.shape(value)}, the bound {like.shape}")
        return np.broadcast_to(value, like.shape) if is_known(value) else jnp.broadcast_to(value, like.shape)

    return jax.tree.map(leaf, tree, bound)


def _ordered(lower: Any, upper: Any) -> None:
    """Refuse a > b where both are known."""
    if not _alike(lower, upper):
        raise ValueError(f"between: the bounds differ in structure, {lower!r} and {upper!r}")
    for low, high in zip(jax.tree.leaves(lower), jax.tree.leaves(upper), strict=True):
        if is_known(low) and is_known(high) and (low > high).any():
            raise ValueError(f"between: the lower bound must be <= the upper, got {low} > {high}")


def _alike(one: Any, other: Any) -> bool:
    structures: list[Any] = [jax.tree.structure(tree) for tree in (one, other)]
    return structures[0] == structures[1]


def _positive(relation: str, name: str, tree: Any) -> None:
    for value in jax.tree.leaves(tree):
        if is_known(value) and not (np.isfinite(value) & (np.asarray(value) > 0)).all():
            raise ValueError(f"{relation}: {name} must be finite and > 0, got {value}")
