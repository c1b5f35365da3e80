"""One update: the governor's equation, a line of it at a time (report §1).

  θ_{t+1} = θ_t − η_t r (G⁻¹ ∇L_task + Σ_k λ_k ∇C_k)

λ_k are read from the controllers' state and carry no gradient; G is the optimizer's preconditioner, which the gradients
of the contracts pass too; η_t is the least of the governor's rate, the schedule and the caps; r is each group's share
of the rate. What the update measured moves the controllers to their next state.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from topojax.atlas import optim, revival, signals
from topojax.atlas.baselines import Baselines, params_of
from topojax.atlas.fixed_batch import Probed, Prober
from topojax.atlas.model import Model
from topojax.atlas.objective import Aux, Objective, task
from topojax.atlas.system import Control, ControlState
from topojax.atlas.terms import Lazy, Settings
from topojax.control import caps, precision
from topojax.control.base import is_off
from topojax.data.augment import Views
from topojax.step.accumulate import accumulated
from topojax.step.state import TrainState
from topojax.types import Array, Encoding, Metrics, Params, Spectral


class Losses(NamedTuple):
    """What one forward pass computed."""

    total: Array  # shape=(): L_task + Σ_k λ_k C_k, and the detached readout's
    aux: Aux  # its terms, outputs and power-iteration vectors
    baselines: Metrics  # the baselines' losses, by the names of the log


class Gradients(NamedTuple):
    """Of disjoint parameters, from one backward pass."""

    params: Params
    baselines: dict[str, Params]


class Rate(NamedTuple):
    """η and what set it; scalars."""

    value: Array  # η
    cap: Array  # int32: 0 the governor, k the k-th of `tracking.events.CAPS`
    allowed: Array  # by the caps of the update ratio and of the latent speed
    asked: Array  # what the governor and the schedule would have it


class Record(NamedTuple):
    """What an update leaves for its metrics (`metrics.of_step`)."""

    losses: Losses
    weights: dict[str, Array]  # λ_k
    signals: dict[str, Array]  # of this step's pass
    norms: Metrics
    rate: Rate
    finite: Array
    ramp: Array  # of the window's gate, before the update
    control: Metrics  # what the controllers say of their own


@dataclasses.dataclass(frozen=True, eq=False)
class Update:
    """The parts that an update is closed over; `descend` is the update.

    Attributes:
      config, model: of the run.
      system: its controllers.
      objective: its losses.
      optimizer: gradients → directions (`optim.make_optimizer`).
      schedule: step → cap of the rate (`optim.schedule`).
      baselines: trained beside the atlas.
      measure: (Aux, Usage, Settings) → signals (`measure.make_measure`).
      prober: what the last probe tells controllers.
      settings_of: (control, Probed) → Settings.
      dt: 1 / steps in an epoch: the controllers' time is in epochs.
    """

    config: Any
    model: Model
    system: Control
    objective: Objective
    optimizer: optax.GradientTransformationExtraArgs
    schedule: Callable[[Array], Array]
    baselines: Baselines
    measure: Callable[..., dict[str, Array]]
    prober: Prober
    settings_of: Callable[[ControlState, Probed], Settings]
    dt: float

    def descend(self, state: TrainState, views: Views) -> tuple[TrainState, Record]:
        """One update of parameters and controllers; a step that is not finite is masked, not repaired.

        Of such a step nothing stays but its count, the governor's cut and what the log says of it.
        """
        weights = self.system.weights(state.control)  # λ_k
        settings = self.settings(state)
        losses, gradients = self.gradient(state, weights, settings, views)  # ∇(L_task + Σ_k λ_k C_k)
        direction, opt_state = self.direction(state, gradients.params, losses.aux)  # r G⁻¹ ∇
        norms = {
            "gradient": optim.norm(gradients.params),
            "direction": optim.norm(direction),
            "params": optim.norm(state.params),
        }
        rate = self.rate(state, norms)  # η
        left = self.left(state)
        baselines, sound = self.baselines.update(state.baselines, gradients.baselines, state.step, left)
        params = self.moved(state.params, direction, rate.value)  # θ − η r G⁻¹ ∇
        average = optim.average(self.config.optim, state.average, params, state.step)

        encoding = losses.aux.outputs.encoding
        usage = signals.count(state.usage, encoding.router, encoding.codes, self.config.monitor.usage_decay)
        measured = self.measure(losses.aux, usage, settings)
        measured |= {"update_ratio": rate.asked / rate.allowed}
        summed = (measured.get(name, jnp.float32(0.0)) for name in self.system.summed())
        readout = optax.tree.norm(direction["atlas"].get("readout", {}))
        checked = [losses.total, *losses.baselines.values(), norms["gradient"], norms["direction"], readout, *summed]
        finite = sound & jnp.all(jnp.isfinite(jnp.stack(checked)))
        told = measured | self.prober.signals(state.probed, weights)
        control, control_metrics = self.system.update(state.control, told, dt=self.dt, finite=finite)
        new = TrainState(
            step=state.step + 1,
            params=optim.masked(finite, params, state.params),
            average=optim.masked(finite, average, state.average),
            spectral=optim.masked(finite, losses.aux.spectral, state.spectral),
            opt_state=optim.masked(finite, opt_state, state.opt_state),
            control=control,
            usage=optim.masked(finite, usage, state.usage),
            liveness=self.observed(state, encoding, finite),
            probed=state.probed,
            key=state.key,
            isotropy=optim.masked(finite, losses.aux.terms.get("orthogonality", state.isotropy), state.isotropy),
            baselines=optim.masked(finite, baselines, state.baselines),
        )
        ramp = state.control.window.ramp
        return new, Record(losses, weights, measured, norms, rate, finite, ramp, control_metrics)

    def settings(self, state: TrainState) -> Settings:
        """Margins, targets and temperature of the losses, and whether this step takes singular values."""
        settings = self.settings_of(state.control, state.probed)
        now = state.step % self.config.losses.orthogonality_every == 0
        return settings._replace(singular=Lazy(now, state.isotropy))

    def gradient(
        self, state: TrainState, weights: dict[str, Array], settings: Settings, views: Views
    ) -> tuple[Losses, Gradients]:
        """∇(L_task + Σ_k λ_k C_k), and the baselines' in the same backward pass: their parameters are disjoint."""

        def joint(both: tuple, spectral: Spectral, views: Views) -> tuple[Array, Losses]:
            params, others = both
            loss, aux = self.objective.loss(params, spectral, weights, settings, views.batch, views.second)
            other, metrics = self.baselines.loss(others, views.batch)
            return loss + other, Losses(loss, aux, metrics)

        both = (state.params, params_of(state.baselines))

        def of(views: Views) -> tuple[Losses, Gradients]:
            (_, losses), gradients = jax.value_and_grad(joint, has_aux=True)(both, state.spectral, views)
            return losses, Gradients(*gradients)

        parts = self.config.train.accumulate
        if parts == 1:
            return of(views)
        return accumulated(of, views, parts, Gradients(*jax.tree.map(jnp.zeros_like, both)))

    def direction(self, state: TrainState, gradient: Params, aux: Aux) -> tuple[Params, Any]:
        """R G⁻¹ ∇: the optimizer's direction at each group's share of the rate, and the optimizer's next state."""
        direction, opt_state = self.optimizer.update(gradient, state.opt_state, state.params, value=task(aux.terms))
        return optim.scaled(direction, self.config.optim.group_rates, state.control.hierarchy.factors), opt_state

    def rate(self, state: TrainState, norms: Metrics) -> Rate:
        """η: the least of the governor's rate, the schedule, the update ratio's cap and the latent speed's."""
        ratio = self.config.optim.update_ratio
        ratio = jnp.inf if is_off(ratio) else ratio
        allowed = caps.update_ratio_cap(norms["direction"], norms["params"], ratio)
        rate, left = state.control.governor.rate, self.left(state)
        # The order of the bounds is tracking.events.CAPS'.
        bounds = (rate, jnp.minimum(self.schedule(state.step), jnp.where(left < 1, left * rate, jnp.inf)))
        limits = (allowed, state.probed.speed_cap)
        (asked, _), (granted, _) = caps.active_cap(*bounds), caps.active_cap(*limits)
        value, cap = caps.active_cap(*bounds, *(left * limit for limit in limits))
        return Rate(value, cap, granted, asked)

    def left(self, state: TrainState) -> Array:
        """The share of the rate that the run's end leaves, and of its caps: what they let through falls as well."""
        if self.config.optim.schedule != "ending":
            return jnp.float32(1.0)
        return self.system.ending.factor(state.control.ending, state.step * self.dt)

    def moved(self, params: Params, direction: Params, rate: Array) -> Params:
        """θ − η u, back within the model's bounds."""
        params = jax.tree.map(lambda p, u: p - rate * u, params, direction)
        params["atlas"] = self.model.project(params["atlas"])
        if self.config.precision.enabled:
            params["precision"] = precision.project(params["precision"])
        return params

    def observed(self, state: TrainState, encoding: Encoding, finite: Array) -> revival.Liveness:
        """What a revival will want to know, with this batch; where nothing is ever revived, nothing."""
        if not revives(self.config):
            return state.liveness
        codebook = state.params["atlas"]["encoder"]["codebook"]
        return optim.masked(finite, revival.observe(state.liveness, encoding, codebook), state.liveness)


def revives(config: Any) -> bool:
    """Whether a run revives dead codes or charts."""
    return not (is_off(config.revival.dead_code) and is_off(config.revival.dead_chart))
