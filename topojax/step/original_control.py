"""What the controllers of the original had reached, in the state of those of this package."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from topojax.atlas.system import Control, ControlState
from topojax.config.original_checkpoint import TARGETS, Saved
from topojax.control.pid import PidState

_INTEGRALS = {"entropy": -1.0, "diversity": 1.0, "code_entropy": 1.0, "per_chart_code_entropy": 1.0}
"""Contracts of the original's PI controllers, with the sign of its error here: entropy is held from above here."""


def controlled(system: Control, state: ControlState, saved: Saved, config: Any, dt: float) -> ControlState:
    """Integrals, averages of the warm-up, targets, counts of the governor and the jump's ramp.

    Weights and rate are there already: a run starts with those of its configuration.

    Args:
      system: of the run.
      state: before its first step.
      saved: the checkpoint.
      config: of the run.
      dt: 1 / steps in an epoch.
    """
    bank, rate = state.bank, saved.rate
    integral = _integrals(system, saved, dt)
    groups = tuple(
        group._replace(integral=jnp.asarray(integral[made.where])) if isinstance(group, PidState) else group
        for group, made in zip(bank.groups, system.bank.groups, strict=True)
    )
    baseline, warmed, target = (np.array(leaf) for leaf in (bank.baseline, bank.warmed, bank.target))
    epochs = min(saved.epoch, config.targets.warmup_epochs)
    for row in system.bank.rows:
        average = saved.targets.get(TARGETS.get(row.name, ""))
        if average is None:
            continue
        place = system.bank.slices[row.name]
        if row.name.startswith("prior_"):  # there one term, the sum of both
            average *= 0.5
        if row.name == "variance":  # there relu(σ²D − energy) with σ = 1, here the energy
            average = config.model.latent_dim - average
        baseline[place], warmed[place] = average, epochs
        if saved.epoch >= config.targets.warmup_epochs:
            target[place] = max(row.ratio * average, config.targets.warmup_minimum)
    ramp = _ramp(saved)
    information = rate.get("ixk_ema")
    return state._replace(
        bank=bank._replace(
            groups=groups,
            baseline=jnp.asarray(baseline),
            warmed=jnp.asarray(warmed),
            target=jnp.asarray(target),
            epoch=jnp.asarray(saved.epoch, jnp.int32),
        ),
        governor=state.governor._replace(
            information_ema=jnp.float32(0.0 if information is None else information),
            information_seen=jnp.asarray(information is not None),
            stable=jnp.int32(rate.get("stable_steps", 0)),
            unstable=jnp.int32(rate.get("unstable_steps", 0)),
            plateau=jnp.int32(rate.get("plateau_steps", 0)),
            epoch=jnp.int32(saved.epoch),
        ),
        window=state.window._replace(opened=jnp.asarray(ramp > 0), ramp=jnp.float32(ramp)),
    )


def _integrals(system: Control, saved: Saved, dt: float) -> np.ndarray:
    """K_i ∫e of PI rows in the contract's unit and epochs: the form `report` reads it, the others leave it alone."""
    out = np.zeros(len(system.bank.columns.target), np.float32)
    for row in system.bank.rows:
        state = saved.weights.get(f"{row.name}_weight")
        if row.name in _INTEGRALS and state is not None:
            place = system.bank.slices[row.name]
            unit = system.bank.columns.unit[place]
            width = row.maximum - row.minimum
            out[place] = np.clip(_INTEGRALS[row.name] * row.ki * dt * state["integral"] / unit, -width, width)
    return out


def _ramp(saved: Saved) -> float:
    """How far the jump's weight had risen: linear between two epochs there."""
    start, end = (int(saved.config.get(f"jump_{name}", 0)) for name in ("warmup", "ramp_end"))
    return float(np.clip((saved.epoch - start) / max(end - start, 1), 0.0, 1.0))
