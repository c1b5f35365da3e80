"""The governor: the learning rate as a controlled variable, decided once per epoch, guarded at every step.

It grows the rate while training is stable and cuts it when the loss jumps, when the charts lose their
grounding in the data, when updates are oversized or outrun the signal. Every change carries its cause.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from topojax.control.base import require_positive, static, typed
from topojax.types import Array

CAUSES = (
    "none",
    "grow",
    "recover",
    "spike",
    "grounding",
    "over_mixing",
    "oversized",
    "barrier",
    "plateau",
    "non_finite",
)
"""Names of the int32 codes in `GovernorState.cause` and `Decision.cause`."""
_CODE = {name: code for code, name in enumerate(CAUSES)}


class GovernorState(NamedTuple):
    """State of the governor; every leaf has shape=()."""

    rate: Array  # float32, in [minimum, maximum]: η before caps and schedules
    loss_ema: Array  # float32
    loss_best: Array  # float32, least loss_ema so far
    information_ema: Array  # float32, nats: I(X;K)
    loss_seen: Array  # bool: loss_ema and loss_best hold a value
    information_seen: Array  # bool: information_ema holds a value
    stable: Array  # int32, healthy epochs in a row since the last cut
    unstable: Array  # int32, epochs in a row with spike, oversize or non-finite loss, since the last cut
    plateau: Array  # int32, epochs without a new best since the last cut
    ungrounded: Array  # int32, epochs in a row without grounding or over-mixed
    frozen: Array  # int32, epochs in a row behind the barrier
    failures: Array  # int32, non-finite steps in a row
    failures_total: Array  # int32, non-finite steps
    epoch: Array  # int32, epochs decided
    changes: Array  # int32, changes of the rate
    changed_at: Array  # int32, value of `epoch` at the last change
    cause: Array  # int32, code of the last change


class Decision(NamedTuple):
    """What one update did, for logs; every field has shape=()."""

    cause: Array  # int32, code of this change; 0 if the rate is what it was
    previous: Array  # float32, the rate before
    spike: Array  # bool: the loss stands above its EMA by more than the tolerance
    grounded: Array  # bool: I(X;K) has reached its target (or is not measured) and nothing is over-mixed
    exhausted: Array  # bool: grounding or barrier has used up its cuts and is still violated: report it


class Governor(NamedTuple):
    """The three pure functions of a governor.

    Attributes:
      init: `init() -> GovernorState`.
      update_epoch: `update_epoch(state, *, loss, ...) -> (state, Decision)`, at the end of each epoch; the
        signals are described in `governor`.
      update_step: `update_step(state, finite) -> (state, Decision)`, at each step; `finite` is a bool,
        shape=().
    """

    init: Callable[[], GovernorState]
    update_epoch: Callable[..., tuple[GovernorState, Decision]]
    update_step: Callable[[GovernorState, ArrayLike], tuple[GovernorState, Decision]]


def governor(
    *,
    initial: float,
    minimum: float,
    maximum: float,
    grow: float = 1.05,
    shrink: float = 0.5,
    recover: float | None = None,
    recovery_threshold: float = 0.1,
    stable_patience: int = 5,
    unstable_patience: int = 3,
    spike_tolerance: float = 0.05,
    loss_decay: float = 0.9,
    grounding_decay: float = 0.9,
    grounding_warmup: int = 0,
    plateau_patience: int = 0,
    plateau_tolerance: float = 1e-3,
    freeze_limit: int = 5,
) -> Governor:
    """Learning rate controlled by measured health.

    Per epoch at most one change, η ← clip(factor · η, minimum, maximum), of the first cause that holds:

      non_finite   × shrink   the loss is NaN or ±inf, `unstable_patience` epochs in a row
      spike        × shrink   loss > EMA + tolerance |EMA|, `unstable_patience` epochs in a row
      barrier      × shrink   β > α: each measurement, `freeze_limit` times; then ignored until it clears, so that
                              a stuck measurement cannot own the rate
      grounding    × shrink   EMA of I(X;K) < target: at once, then every `unstable_patience` epochs,
                              `freeze_limit` times in all; then the rate is held
      over_mixing  × shrink   H(K) high and I(X;K) low: as grounding, with which it shares its count
      oversized    × shrink   update_ratio > 1, `unstable_patience` epochs in a row
      plateau      × shrink   no new best for `plateau_patience` epochs in a row, if > 0
      recover      × recover  `stable_patience` healthy epochs, rate < recovery_threshold · maximum
      grow         × grow     `stable_patience` healthy epochs

    While grounding is lost or mixing is excessive the rate never goes up.

    Patience n: the reaction comes at the end of the n-th such epoch in a row, and counting starts anew after
    each cut. Spikes, oversized updates and non-finite losses share one count. An epoch is healthy if nothing
    of the above but a plateau speaks against it. A rate that is already at its bound does not change and
    makes no event. With grow = shrink = 1 the rate is constant, bit for bit.

    The EMA is compared before it is updated, starts at the first finite loss, and takes in an unconfirmed
    spike only up to twice its size, so one outlier neither becomes the new normal nor hides the next; a
    lasting change of level is absorbed at the EMA's own pace. Comparisons are plain and relative: right
    for losses of either sign.

    Args:
      initial: η before the first epoch.
      minimum: hard lower bound of η, > 0.
      maximum: hard upper bound of η.
      grow: factor ≥ 1.
      shrink: factor in (0, 1].
      recover: factor ≥ 1; None: grow².
      recovery_threshold: fraction of `maximum` below which a healthy run grows by `recover`.
      stable_patience: epochs, ≥ 1.
      unstable_patience: epochs, ≥ 1.
      spike_tolerance: relative rise of the loss over its EMA that makes a spike.
      loss_decay: decay of the loss's EMA per epoch, in [0, 1).
      grounding_decay: decay of I(X;K)'s EMA per epoch, in [0, 1).
      grounding_warmup: epochs in which grounding and over-mixing are ignored; nothing else is muted.
      plateau_patience: epochs; 0 turns the rule off. With growth on, it ratchets the rate down: choose one.
      plateau_tolerance: relative improvement that makes a new best.
      freeze_limit: cuts that one uninterrupted barrier or loss of grounding may cause.

    Returns:
      A `Governor`. The keywords of `update_epoch` are scalars, each of which may be non-finite (= not
      measured):
      loss: mean over the epoch of the *unweighted* signal (recon + vq + route, or V_L); moving λ_i would
        look like spikes.
      information: I(X;K), nats; default not measured.
      grounding_target: ε_ground, nats; default none.
      over_mixing: bool, H(K) near its ceiling and I(X;K) low.
      update_ratio: ‖Δθ‖ that the uncapped rate would make, over the allowed ρ‖θ‖: rate /
        `caps.update_ratio_cap`.
      barrier: bool, BarrierTypeII (`caps.barrier_latch`).
      barrier_measured: bool, the barrier is new, not what the last probe said.
      hold: bool, no growth this epoch (a contract that cannot be satisfied, if the policy is to freeze).

      `update_step` cuts at the first non-finite step of a run (a longer run says nothing more about the
      rate, since masked steps leave the parameters as they were) and counts them all: a trainer stops at
      some `failures`.

    Raises:
      ValueError: a value out of its range; the message holds it.

    References:
      report §1, §5; theory 1.1, 1.4, 1.5. Departs from the original at theory A5 (grounding lowers the
      rate), A12, B17 (no logarithms), B14 (EMA alone), B15 (warm-up) and B16 (growth each stable epoch).
    """
    recover = grow**2 if recover is None else recover
    v = static(minimum=minimum, maximum=maximum, initial=initial, grow=grow, shrink=shrink, recover=recover)
    static(
        recovery_threshold=recovery_threshold,
        spike_tolerance=spike_tolerance,
        plateau_tolerance=plateau_tolerance,
    )
    static(grounding_warmup=grounding_warmup, plateau_patience=plateau_patience, freeze_limit=freeze_limit)
    require_positive(
        minimum=minimum, shrink=shrink, stable_patience=stable_patience, unstable_patience=unstable_patience
    )
    for name, value, low, high in (
        ("grow", grow, 1, np.inf),
        ("recover", recover, 1, np.inf),
        ("shrink", shrink, 0, 1),
        ("loss_decay", loss_decay, 0, 1 - 1e-9),
        ("grounding_decay", grounding_decay, 0, 1 - 1e-9),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name} must lie in [{low}, {high:g}], got {value}")

    def init() -> GovernorState:
        zeros = {name: typed(0, _DTYPES.get(name, jnp.int32)) for name in GovernorState._fields}
        return GovernorState(**zeros)._replace(rate=typed(v["initial"]))

    def change(state: GovernorState, cause: Array, factor: Array) -> tuple[GovernorState, Array]:
        """Apply a factor; a change that a bound swallows is none."""
        rate = jnp.clip(state.rate * factor, v["minimum"], v["maximum"])
        changed = rate != state.rate
        cause = jnp.where(changed, cause, _CODE["none"]).astype(jnp.int32)
        new = state._replace(
            rate=rate,
            changes=state.changes + changed,
            changed_at=jnp.where(changed, state.epoch, state.changed_at),
            cause=jnp.where(changed, cause, state.cause),
        )
        return new, cause

    def update_epoch(
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
        loss, information, target, ratio = (
            jax.lax.stop_gradient(jnp.asarray(x, jnp.float32))
            for x in (loss, information, grounding_target, update_ratio)
        )
        over_mixing, barrier, fresh, hold = (
            jnp.asarray(x, bool) for x in (over_mixing, barrier, barrier_measured, hold)
        )

        # What the epoch says.
        finite = jnp.isfinite(loss)
        margin = spike_tolerance * jnp.abs(state.loss_ema)
        spike = state.loss_seen & finite & (loss > state.loss_ema + margin)
        oversized = jnp.isfinite(ratio) & (ratio > 1)
        information_ema = _ema(state.information_ema, information, grounding_decay, state.information_seen)
        information_seen = state.information_seen | jnp.isfinite(information)
        lost = information_seen & jnp.isfinite(target) & (information_ema < target)
        muted = state.epoch < grounding_warmup
        bad = spike | oversized | ~finite
        unstable = _count(state.unstable, bad)
        ungrounded = _count(state.ungrounded, (lost | over_mixing) & ~muted)
        frozen = jnp.where(fresh, _count(state.frozen, barrier), state.frozen)
        barred = barrier & fresh & (frozen <= freeze_limit)
        healthy = ~(bad | barred | (ungrounded > 0))
        stable = _count(state.stable, healthy)
        confirmed = unstable >= unstable_patience

        # The memory of the loss.
        tamed = jnp.where(spike & ~confirmed, jnp.minimum(loss, state.loss_ema + jnp.abs(state.loss_ema)), loss)
        loss_ema = _ema(state.loss_ema, tamed, loss_decay, state.loss_seen)
        improved = finite & (
            ~state.loss_seen | (loss_ema < state.loss_best - plateau_tolerance * jnp.abs(state.loss_best))
        )
        loss_best = jnp.where(improved, loss_ema, state.loss_best)
        plateau = jnp.where(improved, 0, state.plateau + finite)

        # Who may change the rate: the first that holds.
        turn = (ungrounded > 0) & ((ungrounded - 1) % unstable_patience == 0)
        turn &= ungrounded <= freeze_limit * unstable_patience
        grows = (stable >= stable_patience) & ~hold
        far = state.rate < recovery_threshold * v["maximum"]
        rules = (
            ("non_finite", confirmed & ~finite, v["shrink"]),
            ("spike", confirmed & spike, v["shrink"]),
            ("barrier", barred, v["shrink"]),
            ("grounding", turn & lost, v["shrink"]),
            ("over_mixing", turn, v["shrink"]),
            ("oversized", confirmed & oversized, v["shrink"]),
            ("plateau", (plateau >= plateau_patience) & (plateau_patience > 0), v["shrink"]),
            ("recover", grows & far, v["recover"]),
            ("grow", grows, v["grow"]),
        )
        holds = [condition for _, condition, _ in rules]
        cause = jnp.select(holds, [jnp.int32(_CODE[name]) for name, _, _ in rules], jnp.int32(0))
        factor = jnp.select(holds, [jnp.float32(factor) for *_, factor in rules], jnp.float32(1))
        cut = jnp.any(jnp.stack(holds[:-2]))
        new, cause = change(
            state._replace(
                loss_ema=loss_ema,
                loss_best=loss_best,
                information_ema=information_ema,
                loss_seen=state.loss_seen | finite,
                information_seen=information_seen,
                stable=jnp.where(cut, 0, stable),
                unstable=jnp.where(cut, 0, unstable),
                plateau=jnp.where(cut, 0, plateau),
                ungrounded=ungrounded,
                frozen=frozen,
                epoch=state.epoch + 1,
            ),
            cause,
            factor,
        )
        exhausted = (ungrounded > freeze_limit * unstable_patience) | (frozen > freeze_limit)
        return new, Decision(cause, state.rate, spike, ~(lost | over_mixing), exhausted)

    def update_step(state: GovernorState, finite: ArrayLike) -> tuple[GovernorState, Decision]:
        failed = ~jnp.asarray(finite, bool)
        first = failed & (state.failures == 0)
        new, cause = change(
            state._replace(
                stable=jnp.where(first, 0, state.stable),
                failures=_count(state.failures, failed),
                failures_total=state.failures_total + failed,
            ),
            jnp.int32(_CODE["non_finite"]),
            jnp.where(first, v["shrink"], jnp.float32(1)),
        )
        no, yes = jnp.bool_(False), jnp.bool_(True)
        return new, Decision(cause, state.rate, spike=no, grounded=yes, exhausted=no)

    return Governor(init, update_epoch, update_step)


_DTYPES = {
    "rate": jnp.float32,
    "loss_ema": jnp.float32,
    "loss_best": jnp.float32,
    "information_ema": jnp.float32,
    "loss_seen": jnp.bool_,
    "information_seen": jnp.bool_,
}


def _ema(ema: Array, value: Array, decay: float, seen: Array) -> Array:
    """EMA that starts at its first finite value and skips the others."""
    blended = jnp.where(seen, decay * ema + (1 - decay) * value, value)
    return jnp.where(jnp.isfinite(value), blended, ema)


def _count(counter: Array, holds: Array) -> Array:
    """Epochs in a row."""
    return jnp.where(holds, counter + 1, 0)
