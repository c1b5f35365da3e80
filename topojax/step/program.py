"""A run's program: model, losses and controllers closed over its configuration."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas import optim, signals
from topojax.atlas.baselines import Baselines, make_baselines
from topojax.atlas.controllers import Rows, make_control
from topojax.atlas.fixed_batch import Probed, make_prober
from topojax.atlas.measure import make_measure, make_settings
from topojax.atlas.model import Model
from topojax.atlas.objective import Objective
from topojax.atlas.system import ControlState
from topojax.atlas.terms import INVARIANCES, Settings
from topojax.config.batch import examples_a_step
from topojax.control import precision
from topojax.control.base import is_known
from topojax.data.augment import make_views
from topojax.data.chunks import Chunk
from topojax.step.closing import Closing, empty_liveness
from topojax.step.diagnosis import Diagnosis
from topojax.step.epoch import Epochs
from topojax.step.predict import make_evaluate
from topojax.step.state import TrainState
from topojax.step.update import Update
from topojax.types import Array, Batch, Metrics


class Program(NamedTuple):
    """Everything jittable of one run; all functions are pure and un-jitted.

    Attributes:
      num_train: training examples.
      steps_per_epoch: steps.
      rows: the contracts of the run.
      metric_names: () → names of the metrics, in the order of `epoch`'s vector.
      init: () → TrainState.
      probe_of: data → the probe batch, the same for the whole run.
      train_step: (state, batch, probe) → (state, metrics of scalars).
      epoch: (state, data) → (state, metrics): a scan of `train_step` in the order of (seed, epoch); losses, signals
        and norms are means over the epoch's finite steps, weights and rates its last values; one vector, since a
        hundred scalars would be a hundred buffers (`named` gives them their names back).
      chunk: (state, chunk) → (state, metrics of its steps): some steps of an epoch, gathered before (`data.chunks`).
      evaluate: (state, batch) → per-example arrays, in evaluation mode (`predict.make_evaluate`).
      temperature: state → T of P(y|k).
      pairs: whether a step compares an example with a neighbour of it.
      baselines: what is trained beside the atlas, to compare it with.
      diagnosis: looks for what is not finite, where a run has failed.
    """

    num_train: int
    steps_per_epoch: int
    rows: Rows
    metric_names: Callable[[], tuple[str, ...]]
    init: Callable[[], TrainState]
    probe_of: Callable[[Batch], Batch]
    train_step: Callable[[TrainState, Batch, Batch], tuple[TrainState, Metrics]]
    epoch: Callable[[TrainState, Batch], tuple[TrainState, Array]]
    chunk: Callable[[TrainState, Chunk], tuple[TrainState, Array]]
    evaluate: Callable[[TrainState, Batch], dict[str, Array]]
    temperature: Callable[[TrainState], Array]
    pairs: bool
    baselines: Baselines
    diagnosis: Diagnosis

    def named(self, metrics: np.ndarray) -> dict[str, np.ndarray]:
        """An epoch's vector of metrics as name → number."""
        return dict(zip(self.metric_names(), metrics, strict=True))


def make_program(
    config: Any,
    model: Model,
    *,
    num_train: int,
    input_dim: int,
    num_classes: int,
    image_shape: tuple[int, int, int] | None,
) -> Program:
    """Close model, losses, optimizer and controllers over a configuration.

    Args:
      config: the whole configuration, valid.
      model: the atlas.
      num_train: training examples.
      input_dim: X.
      num_classes: C.
      image_shape: (H, W, C) for spatial augmentation; None for points.

    Raises:
      ValueError: more steps than int32 counts, or what the parts refuse.
    """
    steps = num_train // examples_a_step(config)
    for field, epochs in (("train.epochs", config.train.epochs), ("optim.warmup_epochs", config.optim.warmup_epochs)):
        if is_known(epochs) and steps * epochs >= 2**31:
            raise ValueError(f"config.{field} = {epochs}: {steps} steps each are more than int32 counts")
    system, rows = make_control(config, num_classes=num_classes)
    schedule = optim.schedule(config.optim, steps_per_epoch=steps, epochs=config.train.epochs)
    objective, measure = Objective(config, model, rows), make_measure(config, rows)
    baselines = make_baselines(config, model, input_dim=input_dim, num_classes=num_classes, schedule=schedule)
    set_by_targets = make_settings(config, rows)

    def settings_of(control: ControlState, probed: Probed) -> Settings:
        targets = system.targets(control)
        return set_by_targets(targets, control.coupling.epsilon, probed.geometry.length, system.weights(control))

    def temperature(state: TrainState) -> Array:
        return settings_of(state.control, state.probed).temperature

    parts: dict[str, Any] = {"objective": objective, "settings_of": settings_of, "measure": measure}
    prober = make_prober(config, model, rows, system=system, image_shape=image_shape, **parts)
    update = Update(
        config=config,
        model=model,
        system=system,
        objective=objective,
        optimizer=optim.make_optimizer(config.optim, steps_per_epoch=steps),
        schedule=schedule,
        baselines=baselines,
        measure=measure,
        prober=prober,
        settings_of=settings_of,
        dt=1.0 / steps,
    )
    compares = any(row.name in INVARIANCES for row in rows)
    views_of = make_views(config, image_shape, second=compares)
    epochs = Epochs(config, rows, update, Closing(config, system, prober, steps), views_of, compares, num_train)
    init = functools.partial(_init, update)
    return Program(
        num_train=num_train,
        steps_per_epoch=steps,
        rows=rows,
        metric_names=lambda: epochs.metric_names(init, input_dim),
        init=init,
        probe_of=epochs.probe_of,
        train_step=epochs.train_step,
        epoch=epochs.epoch,
        chunk=epochs.chunk,
        evaluate=make_evaluate(config, model, temperature, baselines),
        temperature=temperature,
        pairs=epochs.pairs,
        baselines=baselines,
        diagnosis=Diagnosis(epochs),
    )


def _init(update: Update) -> TrainState:
    """The state before the first step; the seed alone fixes it."""
    config, model = update.config, update.model
    key = jax.random.key(config.seed)
    atlas, spectral = model.init(jax.random.fold_in(key, 0))
    params = {"atlas": atlas}
    if config.precision.enabled:
        names = ("recon", "vq", "route") if config.supervised.enabled else ("recon", "vq")
        params["precision"] = precision.init(names)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        average=optim.average(config.optim, {}, params, jnp.int32(0)),
        spectral=spectral,
        opt_state=update.optimizer.init(params),
        control=update.system.init(),
        usage=signals.no_usage(config.model.num_charts, config.model.codes_per_chart),
        liveness=empty_liveness(config),
        probed=update.prober.init(),
        key=jax.random.fold_in(key, 1),
        isotropy=jnp.zeros((), jnp.float32),
        baselines=update.baselines.init(jax.random.fold_in(key, 2)),
    )
