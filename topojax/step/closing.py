"""The end of an epoch: probe, decide, revive."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from topojax.atlas import optim, revival
from topojax.atlas.fixed_batch import Probed, Prober, probe_metrics
from topojax.atlas.system import Control
from topojax.step.state import TrainState
from topojax.step.update import Record, revives
from topojax.types import Array, Batch, Metrics


@dataclasses.dataclass(frozen=True, eq=False)
class Closing:
    """What the end of an epoch is closed over.

    Attributes:
      config: of the run.
      system: its controllers.
      prober: around its probe batch.
      steps_per_epoch: steps.
    """

    config: Any
    system: Control
    prober: Prober
    steps_per_epoch: int

    def after(self, old: TrainState, new: TrainState, probe: Batch, record: Record) -> tuple[TrainState, Metrics]:
        """Close the epoch if the update was its last step; within an epoch the metrics are zeros.

        Args:
          old: before the update.
          new: after it.
          probe: the probe batch.
          record: of the update.
        """
        ends = new.step % self.steps_per_epoch == 0
        return jax.lax.cond(ends, self._close, self._go_on, old, new, probe, record.weights, record.rate.value)

    @functools.cached_property
    def _close(self) -> Callable[..., tuple[TrainState, Metrics]]:
        return jax.jit(self.close)  # so that asking for the shapes of its metrics does not trace it twice

    def close(
        self, old: TrainState, state: TrainState, probe: Batch, weights: dict[str, Array], rate: Array
    ) -> tuple[TrainState, Metrics]:
        """Probe the epoch's last update, let the controllers decide, revive what is dead.

        Args:
          old: before the last update.
          state: after it.
          probe: the probe batch.
          weights: λ_k of the last update.
          rate: η of it.
        """
        epoch = state.step // self.steps_per_epoch  # closed ones, this included
        probing = (epoch - 1) % max(1, round(self.config.probe.every_steps / self.steps_per_epoch)) == 0

        def measure(probed: Probed) -> Probed:
            before, after = (old.params, old.spectral), (state.params, state.spectral)
            return self.prober.measure(probed, state.control, state.usage, before, after, probe, rate)

        probed = jax.lax.cond(probing, measure, lambda probed: probed, state.probed)
        told = self.prober.signals(probed, weights)
        control, metrics = self.system.end_epoch(state.control, told, probed=probing)
        state, revived = self.revive(dataclasses.replace(state, control=control, probed=probed), epoch)
        return state, metrics | probe_metrics(probed) | revived | {"guard/unsound": ~state.sound()}

    def revive(self, state: TrainState, epoch: Array) -> tuple[TrainState, Metrics]:
        """Every few epochs, give dead codes and charts a second life."""
        r = self.config.revival
        if not revives(self.config):
            return state, {}

        def act(state: TrainState) -> tuple[TrainState, revival.Revived]:
            params, opt_state, revived = revival.revive(
                state.params, state.opt_state, state.liveness, dead_code=r.dead_code, dead_chart=r.dead_chart
            )
            fresh = empty_liveness(self.config)
            # Half-way between a dead code and its new place is no place: the average starts again.
            restarts = revived.codes + revived.charts > 0
            average = optim.masked(restarts, params, state.average) if state.average else {}
            new = dataclasses.replace(state, params=params, average=average, opt_state=opt_state, liveness=fresh)
            return new, revived

        def wait(state: TrainState) -> tuple[TrainState, revival.Revived]:
            return state, revival.Revived(jnp.int32(0), jnp.int32(0))

        state, revived = jax.lax.cond(epoch % r.every_epochs == 0, act, wait, state)
        return state, {"revived/codes": revived.codes, "revived/charts": revived.charts}

    def _go_on(
        self, old: TrainState, state: TrainState, probe: Batch, weights: dict[str, Array], rate: Array
    ) -> tuple[TrainState, Metrics]:
        """Within an epoch: nothing but the books."""
        shapes = jax.eval_shape(self._close, old, state, probe, weights, rate)[1]
        return state, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def empty_liveness(config: Any) -> revival.Liveness:
    """Nothing observed yet, for the charts and codes of a run."""
    return revival.empty(config.model.num_charts, config.model.codes_per_chart, config.model.latent_dim)
