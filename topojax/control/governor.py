"""The governor: the learning rate as a controlled variable, decided once per epoch, guarded at every step.

It grows the rate while training is stable and cuts it when the loss jumps, when the model loses its grounding in the
data, when updates are oversized or outrun the signal. Every change carries its cause.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from topojax.control.governor_rules import Measured, Rules
from topojax.control.governor_state import CAUSES, Decision, GovernorState, fresh, in_a_row
from topojax.types import Array

__all__ = ["CAUSES", "Decision", "Governor", "GovernorState", "governor"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Governor(Rules):
    """Learning rate controlled by measured health, by the rules and settings of `governor_rules.Rules`.

    Example:
      >>> rate = governor(initial=1e-3, minimum=1e-6, maximum=0.1)
      >>> state = rate.init()
      >>> state, decision = rate.update_epoch(state, loss=mean_loss)

    References:
      report §1, §5; theory 1.1, 1.4, 1.5. Departs from the original at theory A5 (grounding lowers the
      rate), A12, B17 (no logarithms), B14 (EMA alone), B15 (warm-up) and B16 (growth each stable epoch).
    """

    def init(self) -> GovernorState:
        """The state before the first epoch."""
        return fresh(self.initial)

    def update_epoch(
        self,
        state: GovernorState,
        *,
        loss: ArrayLike,
        information: ArrayLike = jnp.nan,
        grounding_target: ArrayLike = -jnp.inf,
        over_mixing: ArrayLike = False,
        update_ratio: ArrayLike = 0.0,
        barrier: ArrayLike = False,
        barrier_measured: ArrayLike = True,
        hold: ArrayLike = False,
    ) -> tuple[GovernorState, Decision]:
        """The rate of the next epoch, decided at the end of each.

        Args:
          state: of the last epoch, its steps included.
          loss: mean over the epoch of an *unweighted* signal; moving weights would look like spikes. This and the
            others have shape (); what is not finite counts as not measured.
          information: nats that the model keeps of its input; default not measured.
          grounding_target: least information, nats; default none.
          over_mixing: bool, the model's states are all in use, but say little of the input.
          update_ratio: ‖Δθ‖ that the uncapped rate would make, over the allowed ρ‖θ‖: rate / `caps.update_ratio_cap`.
          barrier: bool, updates outrun the signal (`caps.barrier_latch`).
          barrier_measured: bool, the barrier is new, not what the last measurement said.
          hold: bool, no growth this epoch (a contract that cannot be satisfied, if the policy is to freeze).
        """
        numbers = (loss, information, grounding_target, update_ratio)
        measured = Measured(
            *(jax.lax.stop_gradient(jnp.asarray(number, jnp.float32)) for number in numbers),
            *(jnp.asarray(flag, bool) for flag in (over_mixing, barrier, barrier_measured, hold)),
        )
        health = self.health(state, measured)
        memory = self.memory(state, measured.loss, health)
        cause, factor, cut = self.choose(state, measured, health, memory.plateau)
        new, cause = self._change(
            state._replace(
                loss_ema=memory.loss_ema,
                loss_best=memory.loss_best,
                information_ema=health.information_ema,
                loss_seen=state.loss_seen | health.finite,
                information_seen=health.information_seen,
                grounded=health.grounded,
                stable=jnp.where(cut, 0, health.stable),
                unstable=jnp.where(cut, 0, health.unstable),
                plateau=jnp.where(cut, 0, memory.plateau),
                ungrounded=health.ungrounded,
                frozen=health.frozen,
                epoch=state.epoch + 1,
            ),
            cause,
            factor,
        )
        grounded = ~(health.below | measured.over_mixing)
        return new, Decision(cause, state.rate, health.spike, grounded, self.exhausted(health))

    def update_step(self, state: GovernorState, finite: ArrayLike) -> tuple[GovernorState, Decision]:
        """The rate after one step: a cut at the first non-finite one of a run, and a count of them all.

        A longer run says nothing more about the rate, since masked steps leave the parameters as they were; a trainer
        stops at some `failures`.

        Args:
          state: of the last step.
          finite: bool, shape=(): the step was.
        """
        failed = ~jnp.asarray(finite, bool)
        first = failed & (state.failures == 0)
        new, cause = self._change(
            state._replace(
                stable=jnp.where(first, 0, state.stable),
                failures=in_a_row(state.failures, failed),
                failures_total=state.failures_total + failed,
            ),
            jnp.int32(CAUSES.index("non_finite")),
            jnp.where(first, jnp.float32(self.shrink), jnp.float32(1)),
        )
        no, yes = jnp.bool_(False), jnp.bool_(True)
        return new, Decision(cause, state.rate, spike=no, grounded=yes, exhausted=no)

    def _change(self, state: GovernorState, cause: Array, factor: Array) -> tuple[GovernorState, Array]:
        """Apply a factor; a change that a bound swallows is none."""
        rate = jnp.clip(state.rate * factor, jnp.float32(self.minimum), jnp.float32(self.maximum))
        changed = rate != state.rate
        cause = jnp.where(changed, cause, CAUSES.index("none")).astype(jnp.int32)
        new = state._replace(
            rate=rate,
            changes=state.changes + changed,
            changed_at=jnp.where(changed, state.epoch, state.changed_at),
            cause=jnp.where(changed, cause, state.cause),
        )
        return new, cause


def governor(**settings: Any) -> Governor:
    """A governor of these settings, those of `governor_rules.Rules`, each a number or traced.

    Raises:
      ValueError: a value out of its range, as far as it is known; the message holds it.
    """
    made = Governor(**settings)
    made.check()
    return made
