"""One step: where model, losses and controllers meet.

λ = weights(control)                             losses and their weights, no gradient to control
g = ∇_θ L_task + Σ_k λ_k ∇_θ C_k                  one backward pass
u = Adam(clip g),   η = min(governor, caps)
θ ← θ − η r u                                     r: each group's share of the rate (report §1)
control ← update(control, signals)
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas import optim, revival, signals
from topojax.atlas.baselines import Baselines, make_baselines, params_of
from topojax.atlas.controllers import Rows, make_control
from topojax.atlas.measure import Probed, make_measure, make_prober, make_settings
from topojax.atlas.model import Model
from topojax.atlas.objective import INVARIANCES, Lazy, Settings, make_objective, task
from topojax.atlas.system import ControlState
from topojax.control import caps, precision
from topojax.data.augment import Views, make_views
from topojax.data.neighbours import partners
from topojax.data.sets import batch_indices, shuffled
from topojax.step.metrics import expanded, pack, reduce_epoch
from topojax.step.predict import make_evaluate
from topojax.step.state import TrainState
from topojax.types import Array, Batch, Metrics, Spectral


class Program(NamedTuple):
    """Everything jittable of one run; all functions are pure and un-jitted.

    Attributes:
      steps_per_epoch: steps.
      rows: the contracts of the run.
      metric_names: () → names of the metrics, in the order of `epoch`'s vector.
      init: () → TrainState.
      probe_of: data → the probe batch, the same for the whole run.
      train_step: (state, batch, probe) → (state, metrics of scalars).
      epoch: (state, data) → (state, metrics): a scan of `train_step` in the order of (seed, epoch); losses, signals
        and norms are means over the epoch's finite steps, weights and rates its last values; one vector, since a
        hundred scalars would be a hundred buffers (`named` gives them their names back).
      evaluate: (state, batch) → per-example arrays, in evaluation mode (`predict.make_evaluate`).
      temperature: state → T of P(y|k).
      baselines: what is trained beside the atlas, to compare it with.
    """

    steps_per_epoch: int
    rows: Rows
    metric_names: Callable[[], tuple[str, ...]]
    init: Callable[[], TrainState]
    probe_of: Callable[[Batch], Batch]
    train_step: Callable[[TrainState, Batch, Batch], tuple[TrainState, Metrics]]
    epoch: Callable[[TrainState, Batch], tuple[TrainState, Array]]
    evaluate: Callable[[TrainState, Batch], dict[str, Array]]
    temperature: Callable[[TrainState], Array]
    baselines: Baselines

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
    """
    batch_size = config.train.batch_size
    steps_per_epoch = num_train // batch_size
    dt = 1.0 / steps_per_epoch
    charts, codes, latent = config.model.num_charts, config.model.codes_per_chart, config.model.latent_dim
    system, rows = make_control(config, num_classes=num_classes)
    objective = make_objective(config, model, rows)
    optimizer = optim.make_optimizer(config.optim, steps_per_epoch=steps_per_epoch)
    schedule = optim.schedule(config.optim, steps_per_epoch=steps_per_epoch, epochs=config.train.epochs)
    baselines = make_baselines(config, model, input_dim=input_dim, num_classes=num_classes, schedule=schedule)
    wants_second = any(row.name in INVARIANCES for row in rows)
    views_of = make_views(config, image_shape, second=wants_second)
    revives = bool(config.revival.dead_code or config.revival.dead_chart)
    set_by_targets = make_settings(config, rows)
    measure = make_measure(config, rows)

    def settings_of(control: ControlState, probed: Probed) -> Settings:
        targets = system.targets(control)
        return set_by_targets(targets, control.coupling.epsilon, probed.geometry.length, system.weights(control))

    prober = make_prober(
        config,
        model,
        rows,
        system=system,
        objective=objective,
        settings_of=settings_of,
        measure=measure,
        image_shape=image_shape,
    )

    def joint(both: tuple, spectral: Spectral, lambdas: Metrics, settings: Settings, batch: Batch, view: Array):
        """The atlas's loss and the baselines', of disjoint parameters: one backward pass for all."""
        loss, aux = objective.loss(both[0], spectral, lambdas, settings, batch, view)
        other, compared = baselines.loss(both[1], batch)
        return loss + other, (loss, aux, compared)

    gradient = jax.value_and_grad(joint, has_aux=True)

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
            average=optim.average(config.optim, {}, params, jnp.int32(0)),
            spectral=spectral,
            opt_state=optimizer.init(params),
            control=system.init(),
            usage=signals.no_usage(charts, codes),
            liveness=revival.empty(charts, codes, latent),
            probed=prober.init(),
            key=jax.random.fold_in(key, 1),
            isotropy=jnp.zeros((), jnp.float32),
            baselines=baselines.init(jax.random.fold_in(key, 2)),
        )

    def train_step(state: TrainState, batch: Batch, probe: Batch) -> tuple[TrainState, Metrics]:
        return descend(state, views_of(jax.random.fold_in(state.key, state.step), batch), probe)

    def descend(state: TrainState, views: Views, probe: Batch) -> tuple[TrainState, Metrics]:
        batch, view = views
        lambdas, settings = system.weights(state.control), settings_of(state.control, state.probed)
        settings = settings._replace(singular=Lazy(state.step % config.losses.orthogonality_every == 0, state.isotropy))
        both = (state.params, params_of(state.baselines))
        (_, (loss, aux, compared)), (grads, others) = gradient(both, state.spectral, lambdas, settings, batch, view)
        direction, opt_state = optimizer.update(grads, state.opt_state, state.params, value=task(aux.terms))
        direction = optim.scaled(direction, config.optim.group_rates, state.control.hierarchy.factors)
        norms = {
            "gradient": optim.norm(grads),
            "direction": optim.norm(direction),
            "params": optim.norm(state.params),
        }
        ratio = caps.update_ratio_cap(norms["direction"], norms["params"], config.optim.update_ratio or jnp.inf)
        # The order of the bounds is events.CAPS'.
        rate, cap = caps.active_cap(state.control.governor.rate, schedule(state.step), ratio, state.probed.speed_cap)
        # A step that is not finite moves nothing: masked, not repaired.
        finite = jnp.isfinite(loss) & jnp.isfinite(norms["gradient"])
        params = jax.tree.map(lambda p, u: p - rate * jnp.where(finite, u, 0.0), state.params, direction)
        params["atlas"] = model.project(params["atlas"])
        if config.precision.enabled:
            params["precision"] = precision.project(params["precision"])
        averaged = optim.average(config.optim, state.average, params, state.step)

        encoding = aux.outputs.encoding
        counted = signals.count(state.usage, encoding.router, encoding.codes, config.monitor.usage_decay)
        usage = optim.masked(finite, counted, state.usage)
        seen = measure(aux, usage, settings) | {"update_ratio": state.control.governor.rate / ratio}
        heard = seen | prober.signals(state.probed, lambdas)
        controlled, parts = system.update(state.control, heard, dt=dt, finite=finite)
        new = TrainState(
            step=state.step + 1,
            params=params,
            average=optim.masked(finite, averaged, state.average),
            spectral=aux.spectral,
            opt_state=optim.masked(finite, opt_state, state.opt_state),
            control=controlled,
            usage=usage,
            liveness=observed(state, encoding, finite),
            probed=state.probed,
            key=state.key,
            isotropy=optim.masked(finite, aux.terms.get("orthogonality", state.isotropy), state.isotropy),
            baselines=baselines.update(state.baselines, others, state.step),
        )
        ends = new.step % steps_per_epoch == 0
        new, epoch_metrics = jax.lax.cond(ends, close_epoch, go_on, state, new, probe, lambdas, rate)
        return new, {
            **{f"loss/{name}": jnp.mean(value) for name, value in aux.terms.items()},
            **{f"signal/{name}": jnp.mean(value) for name, value in seen.items()},
            **{f"weight/{name}": jnp.mean(value) for name, value in lambdas.items()},
            **{f"norm/{name}": value for name, value in norms.items()},
            **compared,
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

    def observed(state: TrainState, encoding: Any, finite: Array) -> revival.Liveness:
        if not revives:
            return state.liveness
        codebook = state.params["atlas"]["encoder"]["codebook"]
        return optim.masked(finite, revival.observe(state.liveness, encoding, codebook), state.liveness)

    @jax.jit  # so that asking for the shapes of its metrics does not trace it twice
    def close_epoch(
        old: TrainState, state: TrainState, probe: Batch, lambdas: dict[str, Array], rate: Array
    ) -> tuple[TrainState, Metrics]:
        """At the end of an epoch: probe, decide, revive."""
        epoch = state.step // steps_per_epoch  # closed ones, this included
        probing = (epoch - 1) % max(1, round(config.probe.every_steps / steps_per_epoch)) == 0

        def look(probed: Probed) -> Probed:
            before, after = (old.params, old.spectral), (state.params, state.spectral)
            return prober.measure(probed, state.control, state.usage, before, after, probe, rate)

        probed = jax.lax.cond(probing, look, lambda probed: probed, state.probed)
        control, metrics = system.end_epoch(state.control, prober.signals(probed, lambdas), probed=probing)
        state = dataclasses.replace(state, control=control, probed=probed)
        state, revived = revive(state, epoch)
        return state, metrics | probe_metrics(probed) | revived

    def go_on(
        old: TrainState, state: TrainState, probe: Batch, lambdas: dict[str, Array], rate: Array
    ) -> tuple[TrainState, Metrics]:
        """Within an epoch: nothing but the books."""
        shapes = jax.eval_shape(close_epoch, old, state, probe, lambdas, rate)[1]
        return state, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def revive(state: TrainState, epoch: Array) -> tuple[TrainState, Metrics]:
        if not revives:
            return state, {}
        r = config.revival

        def act(state: TrainState) -> tuple[TrainState, revival.Revived]:
            params, opt_state, revived = revival.revive(
                state.params, state.opt_state, state.liveness, dead_code=r.dead_code, dead_chart=r.dead_chart
            )
            fresh = revival.empty(charts, codes, latent)
            # Half-way between a dead code and its new place is no place: the average starts again.
            restarts = revived.codes + revived.charts > 0
            average = optim.masked(restarts, params, state.average) if state.average else {}
            new = dataclasses.replace(state, params=params, average=average, opt_state=opt_state, liveness=fresh)
            return new, revived

        def wait(state: TrainState) -> tuple[TrainState, revival.Revived]:
            return state, revival.Revived(jnp.int32(0), jnp.int32(0))

        state, revived = jax.lax.cond(epoch % r.every_epochs == 0, act, wait, state)
        return state, {"revived/codes": revived.codes, "revived/charts": revived.charts}

    def probe_of(data: Batch) -> Batch:
        index = shuffled(jax.random.key(config.seed), num_train)[: config.probe.size]
        return Batch(data.image[index], data.label[index])

    def epoch(state: TrainState, data: Batch) -> tuple[TrainState, Array]:
        order = batch_indices(config.seed, state.step // steps_per_epoch, num_train, batch_size)
        probe = probe_of(data)
        names: set[str] = set()  # known once the body is traced

        def views(step: Array, index: Array) -> Views:
            batch = Batch(data.image[index], data.label[index])
            if wants_second and config.data.neighbours:
                batch = batch._replace(partner=partners(state.key, step, data, index))
            return views_of(jax.random.fold_in(state.key, step), batch)

        # Each step prepares the next one's batch: a carry is written to memory once, where XLA would otherwise sample
        # every pixel again in each of its uses (a third of an MNIST step on a CPU).
        def body(carry: tuple[TrainState, Views], following: Array) -> tuple[tuple[TrainState, Views], Array]:
            state, now = carry
            after = views(state.step + 1, following)
            state, metrics = descend(state, now, probe)
            names.update(metrics)
            return (state, after), pack(metrics)

        first = views(state.step, order[0])
        (state, _), metrics = jax.lax.scan(body, (state, first), jnp.roll(order, -1, axis=0))
        traced.append(expanded(names, rows))
        return state, reduce_epoch(traced[-1], metrics)

    def temperature(state: TrainState) -> Array:
        return settings_of(state.control, state.probed).temperature

    traced: list[tuple[str, ...]] = []  # by tracing `epoch`: to ask again would trace the step once more

    def metric_names() -> tuple[str, ...]:
        if traced:
            return traced[-1]

        def step(data: Batch) -> Metrics:
            head = Batch(data.image[:batch_size], data.label[:batch_size])
            return train_step(init(), head, probe_of(data))[1]

        data = Batch(jnp.zeros((num_train, input_dim)), jnp.zeros(num_train, jnp.int32))
        traced.append(expanded(jax.eval_shape(step, data), rows))
        return traced[-1]

    evaluate = make_evaluate(config, model, temperature, baselines)
    return Program(
        steps_per_epoch, rows, metric_names, init, probe_of, train_step, epoch, evaluate, temperature, baselines
    )


def probe_metrics(probed: Probed) -> Metrics:
    """What the last probe saw, named."""
    return {
        **{f"probe/{name}": value for name, value in probed.drift._asdict().items()},
        "probe/V_L": probed.lyapunov,
        "probe/V_L_rise": probed.lyapunov_rise,
        "probe/I_XK": probed.information,
        "probe/H_K": probed.usage_entropy,
        "probe/vq_ratio": probed.vq_ratio,
        "probe/route_ratio": probed.route_ratio,
        "probe/speed_cap": probed.speed_cap,
        "geometry/length": probed.geometry.length,
        "geometry/measured": probed.geometry.measured,
    }
