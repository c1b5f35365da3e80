"""A new run that begins with another's parameters: `config.init_from`."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from topojax.errors import UserError
from topojax.scoring.run import restore
from topojax.step.state import TrainState
from topojax.types import Array

CONTROL = ("fresh", "kept")
_NAMED = 3


def begun(state: TrainState, workdir: str | pathlib.Path, *, control: str) -> tuple[TrainState, str]:
    """A fresh state with the parameters of another run wherever theirs have the same place and shape.

    Steps, moments, seed and usage are the new run's; heads for other classes, charts for another number begin anew.

    Args:
      state: fresh, of the new run.
      workdir: of the other run; its last checkpoint counts.
      control: of `CONTROL`: whether weights, rate and gates begin anew or go on as they were.

    Returns:
      The state, and what was taken over in words.

    Raises:
      UserError: no run there, nothing that fits, or controllers of other contracts.
    """
    other = restore(workdir)
    taken: list[str] = []
    left: list[str] = []

    def merged(new: Any, old: Any, count: bool) -> Any:
        there = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(old)}

        def leaf(path: tuple, value: Array) -> Array:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            found = there.get(jax.tree_util.keystr(path))
            fits = found is not None and found.shape == value.shape
            if count:
                (taken if fits else left).append(name)
            return jnp.asarray(found) if fits else value

        return jax.tree_util.tree_map_with_path(leaf, new)

    params = merged(state.params, other.state.params, True)
    if not any(name.startswith("atlas.encoder") for name in taken):
        raise UserError(f"config.init_from = {str(workdir)!r}: none of that run's parameters fit this model")
    average = merged(params, other.state.average, False) if state.average else {}
    spectral = merged(state.spectral, other.state.spectral, False)
    new = dataclasses.replace(state, params=params, average=average, spectral=spectral)
    if control == "kept":
        ours, theirs = (
            jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (state.control, other.state.control)
        )
        if ours != theirs:
            raise UserError("config.init_control = 'kept': the controllers there are of other contracts: use fresh")
        new = dataclasses.replace(new, control=other.state.control, probed=other.state.probed)
    fresh = f"; fresh are {', '.join(left[:_NAMED])}" if left else ""
    more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
    words = (
        f"begins with {len(taken)} of {len(taken) + len(left)} arrays of {workdir}, epoch {other.epoch}{fresh}{more}"
    )
    return new, f"{words}; controllers {control}"
