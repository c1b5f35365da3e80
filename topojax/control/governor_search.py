"""The search for a rate: rules over windows of steps that find it from any start, hold it and bring it down.

A window is some tens of steps; m is the mean of the loss over one, s² the variance of that mean. The level ℓ is the
least m since the last verdict. "Better" is m < ℓ by more than z standard errors of the difference, "worse" is m > ℓ
by as much; anything else is no evidence. At the end of a window η changes by the first rule that holds:

  acquit     back to η before the cut   `patience` windows after a spike without relief: the rate was not to blame, so
                                        m becomes the level and further rises are accepted for `trust` windows, twice
                                        as many at each acquittal in a row
  spike      × shrink³                  on trial, and the loss rises by more than twice what it rose before: it runs
                                        away, and is charged anew
  spike      × shrink                   worse; the rate is on trial until the loss is better than at the charge (then
                                        the rate before the cut is remembered as the unstable one) or acquitted
  spike      × shrink³, at once         a single loss is `alarm` standard deviations of single losses above the first m
  plateau    × shrink                   no better than its best for `plateau` windows: noise at this rate holds the loss
  oversized  ← mean rate in force       the cap bound in most steps: what the rate asked for beyond it means nothing
  recover    × grow²                    never better or worse yet: too small to be seen
  grow       × grow, or √grow           better, and by more than the window before; or no evidence, and then up to the
                                        cap by the size that the parameters had when the loss was last better: what
                                        noise has blown up allows no larger rate
  settle     × grow^¼                   better by less than before, or the unstable rate is known; up to `margin` of it

The memory of the unstable rate fades by `forget` per window, so that a landscape that has become smoother is used. An
unknown one is +∞. With a horizon T the rate in force is η · min(1, (1 − t/T)/`cooling`): constant, then linear to 0 at
step T; nothing grows in that last part.

Why comparisons and not sizes: they are the same for a loss of any scale, offset and sign. Why a trial: a loss that
rises because constraints tighten, data or weights change would otherwise be met by cut upon cut.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from topojax.control.base import Gain, typed
from topojax.control.governor_state import CAUSES
from topojax.types import Array

ROUND_OFF = 1e-6
"""Relative difference of two means in float32 that says nothing."""
FAR = float(np.finfo(np.float32).max) ** 0.25
"""Largest deviation that enters a variance: its square and their sum stay finite."""


class Window(NamedTuple):
    """Steps of the present window; every field has shape=()."""

    counted: Array  # int32, finite ones
    mean: Array  # float32, of the loss
    squares: Array  # float32, sum of squared deviations from the mean
    used: Array  # float32, sum of the rates in force over the annealing factor


class SearchState(NamedTuple):
    """What the search remembers; every field has shape=()."""

    rate: Array  # float32, in [minimum, maximum]: η before annealing and caps
    level: Array  # float32, ℓ
    level_variance: Array  # float32
    gain: Array  # float32, ℓ − m of the last window
    best: Array  # float32, least m by more than chance
    best_variance: Array  # float32
    charged: Array  # float32, m that the rate is on trial for
    charged_variance: Array  # float32
    before: Array  # float32, η before the cut on trial
    unstable: Array  # float32, rate that proved too large; +inf if none is known
    trial: Array  # int32, windows on trial; 0: none
    trust: Array  # int32, windows of trust that the next acquittal gives
    trusted: Array  # int32, windows of trust left
    stalled: Array  # int32, windows without a new best
    start: Array  # float32, m of the first window, or of an acquittal above it
    start_scatter: Array  # float32, variance of single losses in that window
    moved: Array  # bool: a window was better or worse once
    improved: Array  # bool: the last window was better than the best by more than chance, or its rise is accepted
    windows: Array  # int32, windows decided
    changes: Array  # int32, changes of η
    changed_at: Array  # int32, value of `windows` at the last change
    cause: Array  # int32, index into CAUSES of the last change


def open_window() -> Window:
    """No step yet."""
    zero = typed(0)
    return Window(typed(0, jnp.int32), zero, zero, zero)


def observe(window: Window, loss: Array, rate: Array, counted: Array) -> Window:
    """One step more, by Welford's recurrence, where it is counted."""
    number = window.counted + counted
    deviation = jnp.clip(loss - window.mean, -FAR, FAR)
    mean = window.mean + deviation / jnp.maximum(number, 1)
    squares = window.squares + deviation * jnp.clip(loss - mean, -FAR, FAR)
    new = Window(number, mean, squares, window.used + rate)
    return jax.tree.map(lambda after, before: jnp.where(counted, after, before), new, window)


def fresh(initial: ArrayLike) -> SearchState:
    """Nothing seen yet."""
    whole = ("trial", "trust", "trusted", "stalled", "windows", "changes", "changed_at", "cause")
    fields = {name: typed(0) for name in SearchState._fields} | {name: typed(0, jnp.int32) for name in whole}
    given = {"rate": typed(initial), "unstable": typed(np.inf), "trust": typed(1, jnp.int32)}
    return SearchState(**fields | given | {"moved": jnp.zeros((), bool), "improved": jnp.zeros((), bool)})


def _changed(state: SearchState, rate: Array, cause: Array) -> SearchState:
    changed = rate != state.rate
    return state._replace(
        rate=rate,
        changes=state.changes + changed,
        changed_at=jnp.where(changed, state.windows + 1, state.changed_at),
        cause=cause,
    )


class Search(NamedTuple):
    """Numbers of the search, each of shape (), and its rules; `learning_rate.scale_by_governor` describes them."""

    minimum: Gain
    maximum: Gain
    grow: Gain = 2.0
    shrink: Gain = 0.5
    significance: Gain = 3.0
    patience: Gain = 3
    plateau: Gain = 10
    margin: Gain = 0.7
    forget: Gain = 1.03
    alarm: Gain = 8.0

    def decide(self, state: SearchState, window: Window, *, earned: Array, cooling: Array) -> SearchState:
        """The state after a window of at least one step, by the rules of this module.

        Args:
          state: after the last window.
          window: of the steps since.
          earned: shape=(): the cap, by no more than the parameters' size when the loss was last better.
          cooling: bool, shape=(): the rate is being annealed.
        """
        count = jnp.maximum(window.counted, 1)
        scatter = window.squares / jnp.maximum(count - 1, 1)
        mean, variance = window.mean, scatter / count
        known = state.windows > 0

        def margin(other: Array) -> Array:
            return self.significance * jnp.sqrt(variance + other) + ROUND_OFF * jnp.abs(mean)

        better = known & (mean < state.level - margin(state.level_variance))
        worse = known & (mean > state.level + margin(state.level_variance))
        gain = jnp.where(known, state.level - mean, 0.0)

        on_trial = state.trial > 0
        relief = on_trial & (mean < state.charged - margin(state.charged_variance))
        rise = mean - (state.level - state.gain)  # since the last window
        again = on_trial & (rise > 2 * (state.charged - state.level) + margin(state.charged_variance))
        acquit = on_trial & ~relief & ~again & (state.trial >= self.patience)
        spike = again | (worse & ~on_trial & (state.trusted == 0))
        accepted = acquit | (state.trusted > 0)
        new_best = ~known | accepted | (mean < state.best - margin(state.best_variance))
        stalled = jnp.where(new_best | ~state.moved, 0, state.stalled + 1)
        plateau = (self.plateau > 0) & (stalled >= self.plateau) & ~on_trial & ~cooling

        in_force = jnp.maximum(window.used / count, np.finfo(np.float32).tiny)
        oversized = (state.rate > 1.5 * in_force) & ~cooling
        asked = jnp.where(oversized, in_force, state.rate)
        unstable = jnp.where(relief, state.before, state.unstable * self.forget)
        unstable = jnp.where(acquit, np.inf, jnp.where(plateau & ~spike, jnp.minimum(unstable, asked), unstable))

        slow = (better & (gain < state.gain)) | jnp.isfinite(unstable)
        free = (~on_trial | relief) & ~cooling & (state.trusted == 0)
        moved = state.moved | better | worse
        quick = jnp.where(better, self.grow, jnp.where(moved, self.grow**0.5, self.grow**2))
        allowed = jnp.minimum(self.margin * unstable, jnp.where(moved & ~better, earned, self.maximum))
        grown = jnp.minimum(asked * jnp.where(slow, self.grow**0.25, quick), jnp.maximum(allowed, asked))
        rules = (
            ("acquit", acquit, state.before),
            ("spike", again, asked * self.shrink**3),
            ("spike", spike, asked * self.shrink),
            ("plateau", plateau, asked * self.shrink),
            ("oversized", oversized, asked),
            ("settle", free & slow, grown),
            ("recover", free & ~moved, grown),
            ("grow", free, grown),
        )
        rate, cause = self._first_that_holds(rules, state, cooling)

        first = ~known | (acquit & (mean > state.start))
        lower = ~known | relief | accepted | (~on_trial & (mean < state.level))
        return _changed(state, rate, cause)._replace(
            level=jnp.where(lower, mean, state.level),
            level_variance=jnp.where(lower, variance, state.level_variance),
            gain=gain,
            best=jnp.where(new_best, mean, state.best),
            best_variance=jnp.where(new_best, variance, state.best_variance),
            charged=jnp.where(spike, mean, state.charged),
            charged_variance=jnp.where(spike, variance, state.charged_variance),
            before=jnp.where(spike & ~on_trial, asked, state.before),
            unstable=unstable,
            trial=jnp.where(spike, 1, jnp.where(on_trial & ~relief & ~acquit, state.trial + 1, 0)),
            trust=jnp.where(acquit, 2 * state.trust, jnp.where(relief, 1, state.trust)),
            trusted=jnp.where(acquit, state.trust, jnp.maximum(state.trusted - 1, 0)),
            stalled=jnp.where(plateau | spike, 0, stalled),
            start=jnp.where(first, mean, state.start),
            start_scatter=jnp.where(first, scatter, state.start_scatter),
            moved=moved,
            improved=known & new_best,
            windows=state.windows + 1,
        )

    def _first_that_holds(self, rules: tuple, state: SearchState, cooling: Array) -> tuple[Array, Array]:
        """The rate by the first of the rules (name, whether it holds, rate), and the cause that the state keeps."""
        holds = [condition for _, condition, _ in rules]
        cause = jnp.select(holds, [jnp.int32(CAUSES.index(name)) for name, *_ in rules], jnp.int32(0))
        rate = jnp.select(holds, [value for *_, value in rules], state.rate)
        rate = jnp.clip(rate, self.minimum, self.maximum)
        unchanged = jnp.where(cooling, CAUSES.index("horizon"), state.cause)
        return rate, jnp.where(rate != state.rate, cause, unchanged).astype(jnp.int32)

    def alarmed(self, state: SearchState, loss: Array) -> tuple[SearchState, Array]:
        """After one loss that no chance explains: cut and on trial at once; and whether it was (bool, shape=())."""
        beyond = loss > state.start + self.alarm * jnp.sqrt(state.start_scatter) + ROUND_OFF * jnp.abs(loss)
        alarmed = beyond & (state.windows > 0) & (state.trial == 0) & (state.trusted == 0) & jnp.isfinite(loss)
        cut = jnp.clip(state.rate * self.shrink**3, self.minimum, self.maximum)
        charged = _changed(state, cut, jnp.where(cut != state.rate, CAUSES.index("spike"), state.cause))._replace(
            charged=loss,
            charged_variance=state.start_scatter,
            before=state.rate,
            trial=jnp.ones_like(state.trial),
        )
        return jax.tree.map(lambda after, before: jnp.where(alarmed, after, before), charged, state), alarmed

    def fail(self, state: SearchState, first: Array) -> SearchState:
        """After a step that was not finite: a cut at the first of a run, and that rate was unstable."""
        cut = jnp.clip(state.rate * self.shrink, self.minimum, self.maximum)
        bounded = jnp.where(cut != state.rate, CAUSES.index("non_finite"), state.cause).astype(jnp.int32)
        new = _changed(state, cut, bounded)._replace(unstable=state.rate)
        return jax.tree.map(lambda after, before: jnp.where(first, after, before), new, state)


RULES = dict(Search._field_defaults)
"""Numbers of the rules, by name, and their defaults."""
