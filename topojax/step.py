"""One step: where model, losses and controllers meet.

λ = weights(control)                             losses and their weights, no gradient to control
g = ∇_θ Σ L + Σ_k λ_k C_k                         one backward pass
u = Adam(clip g),   η = min(governor, caps)
θ ← θ − η u                                       (report §1)
control ← update(control, signals)
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax import losses, optim, signals
from topojax.augment import augment
from topojax.control import caps, contracts, precision
from topojax.control.bank import bank
from topojax.control.governor import governor
from topojax.control.protocol import gate
from topojax.control.system import Control, control
from topojax.data import batch_indices
from topojax.model import Model
from topojax.objective import LIKELIHOODS, Aux, make_objective
from topojax.state import TrainState
from topojax.types import Array, Batch, Metrics

CAPS = ("governor", "schedule", "update_ratio")
"""Names of the codes in the metric `lr_cap`: what set the rate in force."""


class Program(NamedTuple):
    """Everything jittable of one run; all functions are pure and un-jitted.

    Attributes:
      steps_per_epoch: steps.
      rows: the contracts of the run.
      metric_names: () → names of the metrics, in the order of `epoch`'s vector.
      init: () → TrainState.
      train_step: (state, batch) → (state, metrics of scalars).
      epoch: (state, data) → (state, metrics): a scan of `train_step` in the order of (seed, epoch); losses, signals
        and norms are means over the epoch's finite steps, weights and rates its last values; one vector, since a
        hundred scalars would be a hundred buffers (`named` gives them their names back).
      evaluate: (state, batch) → per-example arrays, in evaluation mode.
    """

    steps_per_epoch: int
    rows: tuple[contracts.Contract, ...]
    metric_names: Callable[[], tuple[str, ...]]
    init: Callable[[], TrainState]
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    epoch: Callable[[TrainState, Batch], tuple[TrainState, Array]]
    evaluate: Callable[[TrainState, Batch], dict[str, Array]]

    def named(self, metrics: np.ndarray) -> dict[str, np.ndarray]:
        """An epoch's vector of metrics as name → number."""
        return dict(zip(self.metric_names(), metrics, strict=True))


def make_control(config: Any, *, num_classes: int) -> tuple[Control, tuple[contracts.Contract, ...], dict[str, float]]:
    """The controllers of a run, its contracts, and their targets in the units of the signals."""
    rows = contracts.select(config.contracts.to_dict(), labels=config.supervised.enabled)
    charts = config.model.num_charts
    units = contracts.unit_values(charts=charts, codes=config.model.codes_per_chart, classes=num_classes)
    # Of all rows: a hinge or the governor may need the target of a contract that is off.
    targets = {row.name: config.contracts[row.name].target * units[row.unit] for row in contracts.TABLE}
    g = config.governor.to_dict()
    if config.optim.rate == "constant":
        g |= {"grow": 1.0, "shrink": 1.0, "recover": 1.0}
    system = control(
        bank(rows, units, charts=charts),
        governor(
            initial=config.optim.learning_rate,
            minimum=config.optim.learning_rate_min,
            maximum=config.optim.learning_rate_max,
            **g,
        ),
        gate(config.gates.hold_epochs, config.gates.ramp_epochs),
        log_charts=units["log_charts"],
        grounding=targets["window"],
        over_mixing=(config.monitor.over_mixing_high, config.monitor.over_mixing_low),
    )
    return system, rows, targets


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
    """
    batch_size = config.train.batch_size
    steps_per_epoch = num_train // batch_size
    dt = 1.0 / steps_per_epoch
    system, rows, targets = make_control(config, num_classes=num_classes)
    objective = make_objective(config, model, rows, targets)
    gradient = jax.value_and_grad(objective, has_aux=True)
    optimizer = optim.make_optimizer(config.optim)
    schedule = optim.schedule(config.optim, steps_per_epoch=steps_per_epoch, epochs=config.train.epochs)
    needs_view = any(row.name in ("orbit", "vicreg_inv") for row in rows)

    def init() -> TrainState:
        key = jax.random.key(config.seed)
        atlas, spectral = model.init(jax.random.fold_in(key, 0))
        params = {"atlas": atlas}
        if config.precision.enabled:
            names = ("recon", "vq", "route") if config.supervised.enabled else ("recon", "vq")
            params["precision"] = precision.init(names)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            spectral=spectral,
            opt_state=optimizer.init(params),
            control=system.init(),
            usage=jnp.zeros((config.model.num_charts, config.model.codes_per_chart), jnp.float32),
            key=jax.random.fold_in(key, 1),
        )

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key, view_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        batch = batch._replace(image=augment(key, batch.image, image_shape, **config.augment.to_dict()))
        view = batch.image
        if needs_view:
            view = augment(view_key, batch.image, image_shape, **config.view.to_dict())

        lambdas = system.weights(state.control)
        (loss, aux), grads = gradient(state.params, state.spectral, lambdas, batch, view)
        direction, opt_state = optimizer.update(grads, state.opt_state, state.params)
        norms = {
            "gradient": optim.norm(grads),
            "direction": optim.norm(direction),
            "params": optim.norm(state.params),
        }
        ratio = caps.update_ratio_cap(norms["direction"], norms["params"], config.optim.update_ratio or jnp.inf)
        rate, cap = caps.active_cap(state.control.governor.rate, schedule(state.step), ratio)
        # A step that is not finite moves nothing: masked, not repaired.
        finite = jnp.isfinite(loss) & jnp.isfinite(norms["gradient"])
        params = jax.tree.map(lambda p, u: p - rate * jnp.where(finite, u, 0.0), state.params, direction)
        if config.precision.enabled:
            params["precision"] = precision.project(params["precision"])

        encoding = aux.outputs.encoding
        usage = signals.count_codes(state.usage, encoding.router, encoding.codes, config.monitor.usage_decay)
        usage = jnp.where(finite, usage, state.usage)
        seen = measure(aux, usage) | {"update_ratio": state.control.governor.rate / ratio}
        controlled, parts = system.update(state.control, seen, dt=dt, finite=finite)
        new, epoch_metrics = close_epoch(
            TrainState(
                step=state.step + 1,
                params=params,
                spectral=aux.spectral,
                opt_state=optim.masked(finite, opt_state, state.opt_state),
                control=controlled,
                usage=usage,
                key=state.key,
            )
        )
        return new, {
            **{f"loss/{name}": jnp.mean(value) for name, value in aux.terms.items()},
            **{f"signal/{name}": jnp.mean(value) for name, value in seen.items()},
            **{f"weight/{name}": jnp.mean(value) for name, value in lambdas.items()},
            **{f"norm/{name}": value for name, value in norms.items()},
            "norm/update": jnp.where(finite, rate * norms["direction"], 0.0),
            "lr": rate,
            "lr_governor": new.control.governor.rate,
            "lr_cap": cap,
            "gate/window": state.control.window.ramp,
            "guard/skipped": ~finite,
            "guard/failures": new.control.governor.failures,
            **parts,
            **epoch_metrics,
        }

    def measure(aux: Aux, usage: Array) -> dict[str, Array]:
        """Everything a contract may hold, gradients stopped; only what the run's terms have computed."""
        e, terms = aux.outputs.encoding, aux.terms
        out = {
            **signals.routing(e.router),
            **signals.code_entropies(usage),
            "energy": losses.energy(e.z_geo),
            "energy_n": losses.energy(e.z_n),
            "energy_tex": losses.energy(e.z_tex),
            "loss": jnp.sum(jnp.stack([terms[name] for name in LIKELIHOODS if name in terms])),
        }
        renamed = {"sup_purity": "class_entropy", "sup_balance": "balance"}
        scaled = {
            "separation": 1.0 / config.losses.separation_margin,
            "chart_center_sep": 1.0 / config.losses.center_margin,
        }
        for row in rows:
            if row.signal not in out:
                out[renamed.get(row.name, row.name)] = terms[row.name] * scaled.get(row.name, 1.0)
        return jax.lax.stop_gradient(out)

    def close_epoch(state: TrainState) -> tuple[TrainState, Metrics]:
        def close(control_state):
            return system.end_epoch(control_state)

        def go_on(control_state):
            return control_state, system.quiet(control_state)

        last = state.step % steps_per_epoch == 0
        controlled, metrics = jax.lax.cond(last, close, go_on, state.control)
        return dataclasses.replace(state, control=controlled), metrics

    def epoch(state: TrainState, data: Batch) -> tuple[TrainState, Array]:
        order = batch_indices(config.seed, state.step // steps_per_epoch, num_train, batch_size)

        names: set[str] = set()  # known once the body is traced

        def body(state: TrainState, index: Array) -> tuple[TrainState, Array]:
            state, metrics = train_step(state, Batch(data.image[index], data.label[index]))
            names.update(metrics)
            return state, pack(metrics)

        state, metrics = jax.lax.scan(body, state, order)
        return state, reduce_epoch(expanded(names, rows), metrics)

    def evaluate(state: TrainState, batch: Batch) -> dict[str, Array]:
        atlas = state.params["atlas"]
        weights, _ = model.normalise(atlas, state.spectral)
        encoding, decoding = model(weights, batch.image)
        w = encoding.router
        out = {
            "chart": encoding.chart,
            "code": encoding.code,
            "router": w,
            "z_geo": encoding.z_geo,
            "squared_error": jnp.mean((decoding.x_hat - batch.image) ** 2, axis=-1),
            "consistency": jax.vmap(lambda a, b: losses.consistency(a[None], b[None]))(w, decoding.router),
            "readout_prediction": jnp.argmax(model.readout(weights, w, encoding.z_geo), axis=-1),
        }
        if config.supervised.enabled:
            table = model.class_table(weights, jnp.float32(config.supervised.temperature))
            out["class_prediction"] = jnp.argmax(w @ table, axis=-1)
        return out

    @functools.cache
    def metric_names() -> tuple[str, ...]:
        def step(image: Array, label: Array) -> Metrics:
            return train_step(init(), Batch(image, label))[1]

        image, label = jnp.zeros((batch_size, input_dim)), jnp.zeros(batch_size, jnp.int32)
        return expanded(jax.eval_shape(step, image, label), rows)

    return Program(steps_per_epoch, rows, metric_names, init, train_step, epoch, evaluate)


def pack(metrics: Metrics) -> Array:
    """Metrics as one float32 vector, in the order of their sorted names."""
    return jnp.concatenate([metrics[name].astype(jnp.float32).reshape(-1) for name in sorted(metrics)])


def expanded(names: Iterable[str], rows: Iterable[contracts.Contract]) -> tuple[str, ...]:
    """The names behind `pack`'s vector: a `*` stands for each contract in turn."""
    rows = tuple(rows)
    out: list[str] = []
    for name in sorted(names):
        out += [name.replace("*", row.name) for row in rows] if "*" in name else [name]
    return tuple(out)


_LAST = ("weight/", "lr", "gate/", "governor/", "window/", "guard/failures", "contract/")
_PARTS = ("/p", "/i", "/d")


def reduce_epoch(names: tuple[str, ...], metrics: Array) -> Array:
    """One number a metric from the steps of an epoch: last value of states, sum of counts, mean of the rest.

    Means and sums skip the steps that were not finite, so that one NaN does not hide an epoch.

    Args:
      names: of the columns.
      metrics: shape=(steps, len(names)).

    Returns:
      shape=(len(names),).
    """
    skipped = metrics[:, names.index("guard/skipped")]
    finite = (skipped == 0)[:, None]
    total = jnp.sum(jnp.where(finite, metrics, 0.0), axis=0)
    mean = total / jnp.maximum(jnp.sum(finite), 1)
    added = np.array([name.startswith("contract/") and name.endswith(_PARTS) for name in names])
    last = np.array([name.startswith(_LAST) for name in names]) & ~added
    out = jnp.where(last, metrics[-1], jnp.where(added, total, mean))
    return out.at[names.index("guard/skipped")].set(jnp.sum(skipped))
