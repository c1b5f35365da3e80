"""From the tensors of a checkpoint of the original to a training state of this package, and what is lost on the way."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas.controllers import make_control
from topojax.atlas.original_names import PRECISIONS, filled, unknown
from topojax.config.original_checkpoint import WEIGHTS, WITHOUT_GRADIENT, Saved
from topojax.errors import shown
from topojax.step.original_control import controlled
from topojax.step.original_moments import with_moments
from topojax.step.program import Program
from topojax.step.state import TrainState
from topojax.types import Params

_SHOWN = 5
_JUMP = 1e-9
"""Scale of the kernel of a jump that had rank zero: nothing in float32 beside its point, and no saddle of training."""


def imported(
    config: Any, program: Program, saved: Saved, *, num_classes: int, fresh: bool = False
) -> tuple[TrainState, list[str]]:
    """The state that goes on where the original stopped, and a line for each thing that is not carried over.

    Args:
      config: of `original_checkpoint.config_of`.
      program: built with it.
      saved: the checkpoint.
      num_classes: C.
      fresh: the controllers begin anew.

    Raises:
      ValueError: a tensor of another size than its place; the message names both. A weight of the encoder or decoder
        that the file lacks: heads and power-iteration vectors alone may begin anew.
    """
    state = jax.jit(program.init)()
    charts = config.model.num_charts
    of_rank_zero = not saved.config.get("jump_global_rank")
    tensors = {name: value for name, value in saved.tensors.items() if not (of_rank_zero and name.startswith("jump/"))}
    atlas, missing = filled(state.params["atlas"], tensors, charts)
    spectral, without = filled(state.spectral, tensors, charts)
    absent = [name for name in missing + without if not (of_rank_zero and name.startswith("jump/"))]
    if needed := [name for name in missing if name.startswith(("encoder/", "decoder/"))]:
        raise ValueError(f"the file lacks {len(needed)} weights of the atlas: {', '.join(needed[:_SHOWN])}")
    lines = [f"not in the file, so fresh: {', '.join(absent)}"] if absent else []
    if others := unknown(saved.tensors, (state.params["atlas"], state.spectral), charts):
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        lines.append(f"in the file, and without a place here: {', '.join(map(shown, others[:_SHOWN]))}{more}")
    if of_rank_zero:
        atlas = {**atlas, "jump": _of_rank_zero(state.params["atlas"]["jump"], saved.tensors)}
        lines.append("jumps had rank 0, points d_j: kept to 1e-9, and given the full rank that training may use")
    params = {**state.params, "atlas": atlas}
    if "precision" in params:
        params["precision"], begun = _precisions(params["precision"], saved.tensors)
        if begun:
            lines.append(f"not in the file, so 0 at first: precisions of {', '.join(begun)}")
    opt_state, control = state.opt_state, state.control
    if fresh:
        lines.append("losses, contracts, rate and Adam are those of this program, and begin anew")
    else:
        opt_state, counted = with_moments(config.optim, opt_state, params, saved, charts)
        if not counted:
            lines.append("no moments of Adam in the file: they start at 0")
        system, _ = make_control(config, num_classes=num_classes)
        control = controlled(system, control, saved, config, 1.0 / program.steps_per_epoch)
        states = {name: saved.weights[WEIGHTS[name]] for name in WITHOUT_GRADIENT if WEIGHTS[name] in saved.weights}
        if states:
            told = ", ".join(f"{name} {its['value']:.3g}" for name, its in states.items())
            lines.append(f"weights of terms that had no gradient there, off here: {told} (config.contracts)")
        lines.extend(outweighed(config))
    steps = saved.epoch * program.steps_per_epoch
    new = dataclasses.replace(
        state,
        step=jnp.asarray(steps, jnp.int32),
        params=params,
        average=jax.tree.map(jnp.copy, params) if config.optim.average else {},
        spectral=spectral,
        opt_state=opt_state,
        control=control,
    )
    return new, lines + list(_LOST)


def outweighed(config: Any) -> list[str]:
    """A line where the radial prior that was reached raises the task loss, none elsewhere.

    The prior w (D − E)² pulls the energy E of a residual up with 2 w D at E = 0, the codes pull it down with the slope
    of (1 + β) E / D: above w = (1 + β) / 2 D² the latent spreads further than the codes follow.

    Args:
      config: of the run, with the weights of the file.
    """
    contracts, size = config.contracts, config.model.latent_dim
    limit = (1.0 + contracts.commitment.initial) / (2.0 * size**2)
    weight = max(contracts[name].initial * contracts[name].enabled for name in ("prior_n", "prior_tex"))
    if weight <= limit:
        return []
    return [
        f"prior_n and prior_tex weigh {weight:.3g}, above {limit:.2g}: they spread the latent further than its codes "
        "follow, and the task loss rises at first, there as here; --controllers=fresh, or training without, lowers it"
    ]


_LOST = (
    "not carried over: random state; the order of examples is this program's",
    "not carried over: averages of the weighted loss, which is another here: loss_ema and its best start anew",
    "not carried over: usage counts, probes and drift scales, which are measured anew within an epoch",
)


def _precisions(begun: Params, tensors: Mapping[str, np.ndarray]) -> tuple[Params, list[str]]:
    """The learned precisions of the file, and the names of those that it lacks."""
    out, missing = dict(begun), []
    for name in begun:
        value = tensors.get(f"precisions/{PRECISIONS[name]}")
        if value is None:
            missing.append(name)
        elif value.size != 1:
            raise ValueError(f"precisions/{PRECISIONS[name]} has shape {list(value.shape)}, it is one number")
        else:
            out[name] = jnp.float32(value.item())
    return out, missing


def _of_rank_zero(jump: Params, tensors: Mapping[str, np.ndarray]) -> Params:
    """L(z) = d_j: a fresh jump whose kernel that draws is scaled to nothing, with the points of the file."""
    d = jnp.asarray(tensors["jump/d"], jnp.float32) if "jump/d" in tensors else jump["d"]
    return {**jump, "down": {**jump["down"], "kernel": _JUMP * jump["down"]["kernel"]}, "d": d}
