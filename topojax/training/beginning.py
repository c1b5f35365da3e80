"""How a run that is new begins: in the middle of its charts, or with another run's parameters."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas.centred import centred
from topojax.atlas.model import Model
from topojax.data.order import probe_indices
from topojax.step.state import TrainState
from topojax.training.inherited import begun
from topojax.types import Array, Batch


@functools.lru_cache(1)  # members of a population share it; that of a former run is let go
def _centring(model: Model) -> Callable[[TrainState, Array | np.ndarray], TrainState]:
    """The state with centred parameters, and their average with them: one program, not a copy of each leaf."""

    @jax.jit
    def centring(state: TrainState, images: Array | np.ndarray) -> TrainState:
        params = {**state.params, "atlas": centred(model, state.params["atlas"], state.spectral, jnp.asarray(images))}
        average = jax.tree.map(jnp.copy, params) if state.average else state.average
        return dataclasses.replace(state, params=params, average=average)

    return centring


def looked_at(config: Any, split: Batch) -> np.ndarray:
    """The images that a run's first state is centred on, those of its probe batch: shape=(B, X)."""
    index = np.asarray(probe_indices(config.seed, len(split.label), config.probe.size))
    return np.asarray(split.image[index], np.float32)


def beginning(config: Any, model: Model, state: TrainState, images: np.ndarray) -> tuple[TrainState, str | None]:
    """The state before the first step.

    Args:
      config: whole.
      model: of it.
      state: of `Program.init`, which knows no data.
      images: `looked_at`.

    Returns:
      The state, and what was taken over from `config.init_from` in words.

    Raises:
      UserError: see `begun`.
    """
    if config.model.discs:
        state = _centring(model)(state, images)
    if config.init_from is None:
        return state, None
    state, words = begun(state, config.init_from, control=config.init_control)
    # A copy that nothing else holds: its buffers are about to be donated.
    return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))(state), words
