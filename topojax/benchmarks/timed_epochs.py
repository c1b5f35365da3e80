"""Epochs to be timed: the run's own, one without any control, one that only looks.

Every one is a scan over the batches of an epoch, compiled as a run's is, that keeps its state from call to call: one
that trains goes on training.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from topojax.atlas import optim
from topojax.atlas.controllers import select_rows
from topojax.atlas.measure import make_settings
from topojax.atlas.objective import Objective
from topojax.atlas.terms import INVARIANCES, Lazy
from topojax.benchmarks.timing import seconds
from topojax.benchmarks.variants import interval
from topojax.config.numbers import pack
from topojax.control import precision
from topojax.data.augment import Views, make_views
from topojax.data.sets import batch_indices
from topojax.scoring.run import build, numbered_of
from topojax.storage.runtime import compile_program
from topojax.types import Array, Batch


class Loop(NamedTuple):
    """An epoch before it is compiled.

    Attributes:
      init: () → carry.
      epoch: (carry, data) → (carry, anything); pure.
      steps: in an epoch.
      interval: epochs in which the controlled run does everything it does at times.
    """

    init: Callable[[], Any]
    epoch: Callable[[Any, Batch], tuple[Any, Any]]
    steps: int
    interval: int


class Epochs:
    """A compiled epoch and its carry.

    Args:
      loop: what was compiled.
      compiled: (carry, data) → (carry, anything); it may donate its carry.
      carry: what it starts from; given up.
      data: the training split, on the device.
    """

    def __init__(self, loop: Loop, compiled: Callable[[Any, Batch], tuple[Any, Any]], carry: Any, data: Batch):
        self.loop, self.compiled, self.carry, self.data = loop, compiled, carry, data

    def epoch(self) -> float:
        """Go on for an epoch; its seconds."""
        return seconds(self._epoch)

    def of_step(self, times: Sequence[float]) -> float:
        """Seconds of a step, from those of epochs."""
        return sum(times) / (len(times) * self.loop.steps)

    def _epoch(self) -> Any:
        self.carry, out = self.compiled(self.carry, self.data)
        return self.carry, out


def in_turn(epochs: Mapping[str, Epochs]) -> dict[str, list[float]]:
    """Go on for an interval of each, epoch by epoch in turn; the seconds of every epoch."""
    found: dict[str, list[float]] = {name: [] for name in epochs}
    for i in range(max(each.loop.interval for each in epochs.values())):
        for name, each in epochs.items():
            if i < each.loop.interval:
                found[name].append(each.epoch())
    return found


def start(loop: Loop, data: Batch) -> Epochs:
    """Compile an epoch and make what it starts from."""
    carry = compile_program(jax.jit(loop.init).lower())()
    return Epochs(loop, compile_program(jax.jit(loop.epoch, donate_argnums=0).lower(carry, data)), carry, data)


def trained(config: Any, about: dict[str, Any]) -> Loop:
    """The epoch of a run.

    Args:
      config: a whole configuration, valid.
      about: what `run.build` wants to know of the data.
    """
    _, program = build(config, about)
    steps = program.steps_per_epoch
    numbered = numbered_of(config, about)

    def init() -> Any:
        numbers = pack(config)
        return numbers, numbered.init(numbers)

    def epoch(carry: Any, data: Batch) -> tuple[Any, Array]:
        numbers, state = carry  # arguments, as in a run
        state, metrics = numbered.epoch(numbers, state, data)
        return (numbers, state), metrics

    return Loop(init, epoch, steps, interval(config, steps))


def bare(config: Any, about: dict[str, Any]) -> Loop:
    """The epoch of a training loop without control: L = recon + codebook + Σ λ_k C_k, clipped Adam, a rate.

    Losses, augmentation and optimizer are the run's. Nothing is measured, logged but the loss, guarded or adapted; a
    weight is its contract's initial one, as if every gate were open.

    Args:
      config: a whole configuration, valid.
      about: what `run.build` wants to know of the data.
    """
    model, program = build(config, about)
    batch_size, steps, image_shape = config.train.batch_size, program.steps_per_epoch, about["image_shape"]
    rows = select_rows(config)
    gradient = jax.value_and_grad(Objective(config, model, rows).loss, has_aux=True)
    optimizer = optim.make_optimizer(config.optim, steps_per_epoch=steps)
    settings_of = make_settings(config, rows)
    views_of = make_views(config, image_shape, second=any(row.name in INVARIANCES for row in rows))

    def init() -> Any:
        state = program.init()
        charts = config.model.num_charts
        # Arguments, not constants: XLA would fold a weight of 1 or 0.
        weights = {r.name: jnp.full((charts,) if r.per_chart else (), r.initial, jnp.float32) for r in rows}
        length, rate = jnp.float32(config.geometry.initial_length), jnp.float32(config.optim.learning_rate)
        settings = settings_of({}, state.control.coupling.epsilon, length, weights)
        return (state.params, state.spectral, state.opt_state, state.step), (state.key, weights, settings, rate)

    def epoch(carry: Any, data: Batch) -> tuple[Any, Array]:
        moving, fixed = carry
        seed, lambdas, settings, rate = fixed

        def look(number: Array, index: Array) -> Views:
            return views_of(jax.random.fold_in(seed, number), Batch(data.image[index], data.label[index]))

        def step(carry: Any, following: Array) -> tuple[Any, Array]:
            (params, spectral, opt_state, number), views = carry
            after = look(number + 1, following)
            # A last value of 0, not carried: it changes the loss that is shown, not the descent.
            now = settings._replace(singular=Lazy(number % config.losses.orthogonality_every == 0, jnp.float32(0)))
            (loss, aux), grads = gradient(params, spectral, lambdas, now, *views)
            direction, opt_state = optimizer.update(grads, opt_state, params, value=loss)
            params = jax.tree.map(lambda p, u: p - rate * u, params, direction)
            params["atlas"] = model.project(params["atlas"])
            if config.precision.enabled:
                params["precision"] = precision.project(params["precision"])
            return ((params, aux.spectral, opt_state, number + 1), after), loss

        order = batch_indices(config.seed, moving[3] // steps, about["num_train"], batch_size)
        carry = moving, look(moving[3], order[0])
        (moving, _), losses = jax.lax.scan(step, carry, jnp.roll(order, -1, axis=0))
        return (moving, fixed), jnp.mean(losses)

    return Loop(init, epoch, steps, interval(config, steps))


def forward(config: Any, about: dict[str, Any]) -> Loop:
    """Spectral normalisation, encode and decode of every batch of an epoch; no loss, no gradient.

    Args:
      config: a whole configuration, valid.
      about: what `run.build` wants to know of the data.
    """
    model, program = build(config, about)

    def init() -> Any:
        state = program.init()
        return state.params["atlas"], state.spectral, state.step

    def epoch(carry: Any, data: Batch) -> tuple[Any, Array]:
        params, spectral, number = carry

        def look(spectral: Any, index: Array) -> tuple[Any, Array]:
            weights, spectral = model.normalise(params, spectral)
            out = jax.tree.leaves(model(weights, data.image[index]))
            # Sums of everything: XLA leaves out what nobody reads.
            return spectral, jnp.sum(jnp.stack([jnp.sum(leaf.astype(jnp.float32)) for leaf in out]))

        order = batch_indices(config.seed, number, about["num_train"], config.train.batch_size)
        spectral, sums = jax.lax.scan(look, spectral, order)
        return (params, spectral, number + 1), jnp.mean(sums)

    return Loop(init, epoch, program.steps_per_epoch, interval(config, program.steps_per_epoch))
