"""The rules of the governor: what makes an epoch healthy, and which cause may change the rate by which factor.

Per epoch at most one change, η ← clip(factor · η, minimum, maximum), of the first cause that holds:

  non_finite   × shrink   the loss is NaN or ±inf, `unstable_patience` epochs in a row
  spike        × shrink   loss > EMA + tolerance |EMA|, `unstable_patience` epochs in a row
  barrier      × shrink   each measurement behind the barrier, `freeze_limit` times; then ignored until it clears, so
                          that a stuck measurement cannot own the rate
  grounding    × shrink   EMA of information < target, which it had reached: at once, then every `unstable_patience`
                          epochs, `freeze_limit` times in all; then ignored until it is back
  over_mixing  × shrink   as grounding, with which it shares its count
  oversized    ÷ ratio    update_ratio > 1, `unstable_patience` epochs in a row: down to what is allowed
  plateau      × shrink   no new best for `plateau_patience` epochs in a row, if > 0
  recover      × recover  `stable_patience` healthy epochs, rate < recovery_threshold · maximum, and update_ratio <
                          recovery_threshold, if there is one: by no more than brings it there, or than `grow`
  grow         × grow     `stable_patience` healthy epochs, update_ratio < 1

While grounding is lost or mixing is excessive, and cuts are left, the rate does not go up. What was never grounded has
lost nothing: it is the rate that has to find it.

Patience n: the reaction comes at the end of the n-th such epoch in a row, and counting starts anew after each cut.
Spikes, oversized updates and non-finite losses share one count. An epoch is healthy if nothing of the above but a
plateau speaks against it. Behind a barrier, an epoch without a new measurement is evidence of nothing: it neither
counts as healthy nor lets the rate grow. A rate that is already at its bound does not change and makes no event. With
grow = shrink = 1 the rate is constant, bit for bit.

The EMA is compared before it is updated, starts at the first finite loss, and takes in an unconfirmed spike only up to
twice its size, so one outlier neither becomes the new normal nor hides the next; a lasting change of level is absorbed
at the EMA's own pace. Comparisons are plain and relative: right for losses of either sign.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax.control.base import checked, is_known, require_positive
from topojax.control.governor_state import CAUSES, GovernorState, in_a_row, moving_average
from topojax.types import Array


class Measured(NamedTuple):
    """What an epoch measured, as `Governor.update_epoch` describes it; every field has shape=()."""

    loss: Array  # float32
    information: Array  # float32, nats
    grounding_target: Array  # float32, nats
    update_ratio: Array  # float32
    over_mixing: Array  # bool
    barrier: Array  # bool
    barrier_measured: Array  # bool
    hold: Array  # bool


class Health(NamedTuple):
    """What that says of the model, with the counts it leads to; every field has shape=()."""

    finite: Array  # bool: the loss is
    spike: Array  # bool: the loss stands above its EMA by more than the tolerance
    oversized: Array  # bool: the update asked for more than is allowed
    below: Array  # bool: the average of information is below its target
    lost: Array  # bool: so it is, and it was not once
    barred: Array  # bool: the barrier was measured, holds, and has cuts left
    unproven: Array  # bool: the barrier held when last measured, and was not measured now
    confirmed: Array  # bool: one of the first three has held for its patience
    information_ema: Array  # float32, nats
    information_seen: Array  # bool
    grounded: Array  # bool: information has reached its target, now or before
    stable: Array  # int32
    unstable: Array  # int32
    ungrounded: Array  # int32
    frozen: Array  # int32


class Memory(NamedTuple):
    """The loss, remembered; every field has shape=()."""

    loss_ema: Array  # float32
    loss_best: Array  # float32
    plateau: Array  # int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """Bounds, factors and patience of a governor, and the rules above; a pytree whose leaves are these numbers.

    Attributes:
      initial: η before the first epoch.
      minimum: hard lower bound of η, > 0.
      maximum: hard upper bound of η.
      grow: factor ≥ 1.
      shrink: factor in (0, 1].
      recover: factor ≥ 1; None: grow².
      recovery_threshold: fraction of `maximum`, and of what caps allow, below which a healthy run grows by `recover`.
      stable_patience: epochs, ≥ 1.
      unstable_patience: epochs, ≥ 1.
      spike_tolerance: relative rise of the loss over its EMA that makes a spike.
      loss_decay: decay of the loss's EMA per epoch, in [0, 1).
      grounding_decay: decay of information's EMA per epoch, in [0, 1).
      grounding_warmup: epochs in which grounding and over-mixing are ignored; nothing else is muted.
      plateau_patience: epochs; 0 turns the rule off. With growth on, it ratchets the rate down: choose one.
      plateau_tolerance: relative improvement that makes a new best.
      freeze_limit: cuts that one uninterrupted barrier or loss of grounding may cause.
    """

    initial: float
    minimum: float
    maximum: float
    grow: float = 1.05
    shrink: float = 0.5
    recover: float | None = None
    recovery_threshold: float = 0.1
    stable_patience: int = 5
    unstable_patience: int = 3
    spike_tolerance: float = 0.05
    loss_decay: float = 0.9
    grounding_decay: float = 0.9
    grounding_warmup: int = 0
    plateau_patience: int = 0
    plateau_tolerance: float = 1e-3
    freeze_limit: int = 5

    def check(self) -> None:
        """Look at the numbers whose values are known.

        Raises:
          ValueError: a value out of its range; the message holds it.
        """
        values = dataclasses.asdict(self) | {"recover": self.recovery}
        checked(**values)
        positive = ("minimum", "shrink", "stable_patience", "unstable_patience")
        require_positive(**{name: values[name] for name in positive})
        intervals = {"grow": (1, np.inf), "recover": (1, np.inf), "shrink": (0, 1)}
        intervals |= dict.fromkeys(("loss_decay", "grounding_decay"), (0, 1 - 1e-9))
        for name, (low, high) in intervals.items():
            if is_known(values[name]) and not low <= values[name] <= high:
                raise ValueError(f"{name} must lie in [{low}, {high:g}], got {values[name]}")

    @property
    def recovery(self) -> float:
        """The factor of the cause `recover`."""
        return self.grow**2 if self.recover is None else self.recover

    def health(self, state: GovernorState, measured: Measured) -> Health:
        """What an epoch says, held against what the governor remembers."""
        loss, information, target = measured.loss, measured.information, measured.grounding_target
        finite = jnp.isfinite(loss)
        margin = self.spike_tolerance * jnp.abs(state.loss_ema)
        spike = state.loss_seen & finite & (loss > state.loss_ema + margin)
        oversized = jnp.isfinite(measured.update_ratio) & (measured.update_ratio > 1)
        average = moving_average(state.information_ema, information, self.grounding_decay, state.information_seen)
        information_seen = state.information_seen | jnp.isfinite(information)
        below = information_seen & jnp.isfinite(target) & (average < target)
        lost = below & state.grounded
        muted = (state.epoch < self.grounding_warmup) | ~state.grounded
        bad = spike | oversized | ~finite
        unstable = in_a_row(state.unstable, bad)
        ungrounded = in_a_row(state.ungrounded, (lost | measured.over_mixing) & ~muted)
        frozen = jnp.where(measured.barrier_measured, in_a_row(state.frozen, measured.barrier), state.frozen)
        barred = measured.barrier & measured.barrier_measured & (frozen <= self.freeze_limit)
        dry = (ungrounded > 0) & (ungrounded <= self.freeze_limit * self.unstable_patience)
        unproven = measured.barrier & ~measured.barrier_measured
        healthy = ~(bad | barred | dry)
        return Health(
            finite=finite,
            spike=spike,
            oversized=oversized,
            below=below,
            lost=lost,
            barred=barred,
            unproven=unproven,
            confirmed=unstable >= self.unstable_patience,
            information_ema=average,
            information_seen=information_seen,
            grounded=state.grounded | (information_seen & ~below),
            stable=jnp.where(healthy & unproven, state.stable, in_a_row(state.stable, healthy)),
            unstable=unstable,
            ungrounded=ungrounded,
            frozen=frozen,
        )

    def memory(self, state: GovernorState, loss: Array, health: Health) -> Memory:
        """The loss's average, its best and the epochs since."""
        twice = jnp.minimum(loss, state.loss_ema + jnp.abs(state.loss_ema))
        tamed = jnp.where(health.spike & ~health.confirmed, twice, loss)
        average = moving_average(state.loss_ema, tamed, self.loss_decay, state.loss_seen)
        better = average < state.loss_best - self.plateau_tolerance * jnp.abs(state.loss_best)
        improved = health.finite & (~state.loss_seen | better)
        return Memory(
            loss_ema=average,
            loss_best=jnp.where(improved, average, state.loss_best),
            plateau=jnp.where(improved, 0, state.plateau + health.finite),
        )

    def choose(
        self, state: GovernorState, measured: Measured, health: Health, plateau: Array
    ) -> tuple[Array, Array, Array]:
        """The first rule that holds: its cause (int32 index), its factor (float32), and whether it is a cut (bool)."""
        turn = (health.ungrounded > 0) & ((health.ungrounded - 1) % self.unstable_patience == 0)
        turn &= health.ungrounded <= self.freeze_limit * self.unstable_patience
        grows = (health.stable >= self.stable_patience) & ~measured.hold & ~health.unproven
        ratio = jnp.where(jnp.isfinite(measured.update_ratio), measured.update_ratio, 0.0)
        far = (state.rate < self.recovery_threshold * jnp.float32(self.maximum)) & (ratio < self.recovery_threshold)
        near = jnp.where(ratio > 0, self.recovery_threshold / jnp.where(ratio > 0, ratio, 1.0), self.recovery)
        rules = (
            ("non_finite", health.confirmed & ~health.finite, self.shrink),
            ("spike", health.confirmed & health.spike, self.shrink),
            ("barrier", health.barred, self.shrink),
            ("grounding", turn & health.lost, self.shrink),
            ("over_mixing", turn, self.shrink),
            ("oversized", health.confirmed & health.oversized, 1.0 / jnp.maximum(ratio, 1.0)),
            ("plateau", (plateau >= self.plateau_patience) & (self.plateau_patience > 0), self.shrink),
            ("recover", grows & far, jnp.clip(near, self.grow, self.recovery)),
            ("grow", grows & (ratio < 1.0), self.grow),
        )
        holds = [condition for _, condition, _ in rules]
        cause = jnp.select(holds, [jnp.int32(CAUSES.index(name)) for name, _, _ in rules], jnp.int32(0))
        factor = jnp.select(holds, [jnp.float32(factor) for *_, factor in rules], jnp.float32(1))
        return cause, factor, jnp.any(jnp.stack(holds[:-2]))

    def exhausted(self, health: Health) -> Array:
        """Whether the cuts of lost grounding, or of the barrier, are used up."""
        return (health.ungrounded > self.freeze_limit * self.unstable_patience) | (health.frozen > self.freeze_limit)
