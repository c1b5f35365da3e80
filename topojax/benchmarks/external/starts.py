"""What a rate's first guess decides: optimizers that are all given the same 36 initial rates, and how each ends.

The arms are told the number of steps of the run, of which none but the governor and the linear schedule make use. What
decides by windows has 50 in a run. Nothing else differs between tasks.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from topojax import control as tc
from topojax.benchmarks.external.jobs import Job, Records, table
from topojax.types import Array

RATES = np.logspace(-5, 2, 36).astype(np.float32)
WINDOWS = 50
GREEDY_FACTOR = 0.5
TUNED = "tuned"
"""Key of Adam at the best of the rates, over seeds."""


class Arm(NamedTuple):
    """An optimizer.

    Attributes:
      words: what the table says.
      make: (initial rate, steps of a run) → transform, its `update` given `value=`.
      trained: (state, parameters) → the parameters to judge.
    """

    words: str
    make: Callable[[ArrayLike, int], optax.GradientTransformationExtraArgs]
    trained: Callable[[Any, Any], Any] = lambda _, params: params


class Task(NamedTuple):
    """What is learnt.

    Attributes:
      steps: of a run.
      begin: seed → parameters.
      loss: (parameters, seed, step) → the loss of that step's batch.
      judge: parameters → the loss on data held out.
    """

    steps: int
    begin: Callable[[Array], Any]
    loss: Callable[[Any, Array, Array], Array]
    judge: Callable[[Any], Array]


def _governed(rate: ArrayLike, steps: int, horizon: int | None) -> optax.GradientTransformationExtraArgs:
    adam = tc.keep_finite(optax.scale_by_adam())
    return optax.chain(adam, tc.scale_by_governor(rate, window=steps // WINDOWS, horizon=horizon))


def _plateau(rate: ArrayLike, steps: int) -> optax.GradientTransformationExtraArgs:
    return optax.chain(optax.adam(rate), optax.contrib.reduce_on_plateau(accumulation_size=steps // WINDOWS))


def _greedy(rate: ArrayLike, steps: int) -> optax.GradientTransformationExtraArgs:
    return optax.chain(optax.scale_by_adam(), scale_greedily(rate, steps // WINDOWS))


def _adam(rate: Any, steps: int) -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(optax.adam(rate))


ARMS: Mapping[str, Arm] = {
    "adam": Arm("Adam", _adam),
    "linear": Arm("Adam, linear to 0", lambda rate, steps: _adam(lambda k: rate * (1 - k / steps), steps)),
    "governor": Arm("Adam's direction, governor with a horizon", lambda rate, steps: _governed(rate, steps, steps)),
    "free": Arm("Adam's direction, governor without one", lambda rate, steps: _governed(rate, steps, None)),
    "prodigy": Arm(
        "prodigy, rate 1, its first estimate",
        lambda rate, _: optax.with_extra_args_support(optax.contrib.prodigy(1.0, estim_lr0=rate)),
    ),
    "schedule_free": Arm(
        "schedule_free_adamw",
        lambda rate, _: optax.with_extra_args_support(optax.contrib.schedule_free_adamw(rate)),
        optax.contrib.schedule_free_eval_params,
    ),
    "plateau": Arm("Adam, reduce_on_plateau", _plateau),
    "greedy": Arm("Adam's direction, GreedyLR's rule", _greedy),
}


class GreedyState(NamedTuple):
    """State of `scale_greedily`; every leaf has shape ()."""

    rate: Array  # float32
    total: Array  # float32, of the losses of this window
    best: Array  # float32, least mean of a window
    steps: Array  # int32


def scale_greedily(initial: ArrayLike, window: int) -> optax.GradientTransformationExtraArgs:
    """Scale by minus a rate that a better mean loss of a window divides by F and any other multiplies with it.

    GreedyLR (arXiv 2512.14527) in its first form, without its patience, warmup and cooldown, smoothed by windows; F is
    the factor that the governor has.
    """

    def init(_: Any) -> GreedyState:
        return GreedyState(jnp.float32(initial), jnp.float32(0), jnp.float32(jnp.inf), jnp.int32(0))

    def update(updates: Any, state: GreedyState, params: Any = None, *, value: Array, **_: Any) -> tuple[Any, Any]:
        total, steps = state.total + value, state.steps + 1
        mean, ends = total / window, steps % window == 0
        factor = jnp.where(mean < state.best, 1 / GREEDY_FACTOR, GREEDY_FACTOR)
        new = GreedyState(
            rate=jnp.where(ends, state.rate * factor, state.rate),
            total=jnp.where(ends, 0.0, total),
            best=jnp.where(ends, jnp.fmin(mean, state.best), state.best),
            steps=steps,
        )
        return jax.tree.map(lambda u: -state.rate * u, updates), new

    return optax.GradientTransformationExtraArgs(init, update)


def ends(task: Task, arm: Arm, rates: ArrayLike, seeds: ArrayLike) -> np.ndarray:
    """The loss on data held out at the end of a run from each rate by each seed, shape (rates, seeds); one program."""

    def run(rate: Array, seed: Array) -> Array:
        tx, params = arm.make(rate, task.steps), task.begin(seed)

        def step(carry: Any, k: Array) -> tuple[Any, None]:
            params, state = carry
            value, grads = jax.value_and_grad(task.loss)(params, seed, k)
            updates, state = tx.update(grads, state, params, value=value)
            return (optax.apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(step, (params, tx.init(params)), jnp.arange(task.steps))
        return task.judge(arm.trained(state, params))

    every = jax.vmap(jax.vmap(run, (None, 0)), (0, None))
    return np.asarray(jax.jit(every)(jnp.asarray(rates), jnp.asarray(seeds)))


def jobs(task: Callable[[], Task], records: Records, seeds: int, tuned_seeds: int) -> Iterator[Job]:
    """One for each arm, then Adam at its best rate over more seeds."""

    def run(name: str) -> list[dict[str, Any]]:
        return [{"ends": _plain(ends(task(), ARMS[name], RATES, jnp.arange(seeds)))}]

    def tune() -> list[dict[str, Any]]:
        rate = float(RATES[np.argmin(means(records["adam"]))])
        found = ends(task(), ARMS["adam"], jnp.float32([rate]), jnp.arange(100, 100 + tuned_seeds))
        return [{"rate": rate, "ends": _plain(found)}]

    for name in ARMS:
        yield Job((name,), lambda name=name: run(name))  # type: ignore[misc]
    yield Job((TUNED,), tune)


def _plain(found: np.ndarray) -> list[list[float | None]]:
    """For JSON, which has no number that is not finite."""
    return [[end if math.isfinite(end) else None for end in row] for row in found.tolist()]


def means(record: Mapping[str, Any]) -> np.ndarray:
    """The mean over seeds of each rate's end, +∞ where one is not finite."""
    return np.nan_to_num(np.mean(np.asarray(record["ends"], float), axis=1), nan=np.inf)


def markdown(records: Records, published: float | None) -> str:
    """Worst, median and best of the rates of each arm, how many are within the bar, and what misses it.

    Args:
      records: of `jobs`.
      published: the bar, where the task is the published one; else 2 standard deviations above tuned Adam's mean.
    """
    if TUNED not in records:
        return "Not all arms are done."
    tuned = np.asarray(records[TUNED]["ends"])
    own = float(tuned.mean() + 2 * tuned.std(ddof=1))
    bar = own if published is None else published
    rows: list[tuple[Any, ...]] = [("arm", "worst of 36 rates", "median", "best", "within the bar")]
    for name, arm in ARMS.items():
        if name in records:
            found = means(records[name])
            cells = (f"{number:.3f}" for number in (found.max(), np.median(found), found.min()))
            rows.append((arm.words, *cells, f"{np.sum(found <= bar)} of {len(found)}"))
    found = means(records["governor"])
    missed = [f"{rate:.1e}: {end:.3f}" for rate, end in zip(RATES, found, strict=True) if not end <= bar]
    verdict = "kept" if not missed else f"missed from {', '.join(missed)}"
    return (
        f"{table(rows)}\n\nAdam at its best rate, {records[TUNED]['rate']:.1e}, over {tuned.size} other seeds: "
        f"{tuned.mean():.3f} ± {tuned.std(ddof=1):.3f}, hence {own:.3f}. Bar of the governor's worst, "
        f"{'published' if published is not None else 'from that'}, {bar:.3f}: {verdict}."
    )


def glorot(key: Array, inputs: int, outputs: int) -> dict[str, Array]:
    """A dense layer, uniform as Glorot and Bengio have it, biases 0."""
    limit = math.sqrt(6 / (inputs + outputs))
    weights = jax.random.uniform(key, (inputs, outputs), minval=-limit, maxval=limit)
    return {"kernel": weights, "bias": jnp.zeros(outputs)}
