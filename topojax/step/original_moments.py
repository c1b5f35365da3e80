"""Adam's moments of a checkpoint of the original, in the optimizer's state of this package."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from topojax.atlas import optim
from topojax.atlas.original_names import PRECISIONS, original, trained
from topojax.config.original_checkpoint import Saved
from topojax.types import Array, Params


def with_moments(config: Any, opt_state: Any, params: Params, saved: Saved, charts: int) -> tuple[Any, bool]:
    """The optimizer's state with the file's moments, and whether there were any.

    One count of steps stands for all leaves here: a moment that has seen fewer is scaled to the bias correction that
    it would have had.

    Args:
      config: `config.optim`, of a rate that keeps Adam.
      opt_state: before the first step.
      params: of the state.
      saved: the checkpoint.
      charts: N.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    names = {
        "atlas": trained([n for n in saved.tensors if not n.startswith("classifier/")]),
        "classifier": trained([n for n in saved.tensors if n.startswith("classifier/")]),
    }
    for part, entries in saved.moments.items():
        for index, entry in entries.items():
            if index < len(names[part]):
                found[names[part][index]] = dict(entry)
    count = max((int(np.ravel(entry["step"])[0]) for entry in found.values()), default=0)
    if not count:
        return opt_state, False
    trees = {
        "mu": _moment(params, found, charts, "exp_avg", config.b1, count),
        "nu": _moment(params, found, charts, "exp_avg_sq", config.b2, count),
    }
    of = jax.tree.leaves(optim.labels(params))
    flat = {
        (label, field): jnp.concatenate(
            [leaf.reshape(-1) for leaf, its in zip(jax.tree.leaves(tree), of, strict=True) if its == label]
        )
        for label in ("atlas", "readout")
        for field, tree in trees.items()
    }

    def placed(label: str, inner: Any) -> Any:
        def adam(node: Any) -> Any:
            if not isinstance(node, optax.ScaleByAdamState):
                return node
            moments = {field: flat[label, field].reshape(node.mu.shape) for field in ("mu", "nu")}
            return node._replace(count=jnp.asarray(count, node.count.dtype), **moments)

        return jax.tree.map(adam, inner, is_leaf=lambda node: isinstance(node, optax.ScaleByAdamState))

    inner_states = {label: placed(label, inner) for label, inner in opt_state.inner_states.items()}
    return opt_state._replace(inner_states=inner_states), True


def _moment(
    params: Params, found: Mapping[str, Mapping[str, np.ndarray]], charts: int, field: str, decay: float, count: int
) -> Params:
    """A tree of the params with one of the moments; 0 where the file has none."""

    def scaled(name: str) -> np.ndarray | None:
        if name not in found or field not in found[name]:
            return None
        steps = int(np.ravel(found[name]["step"])[0])
        return found[name][field] * np.float32((1.0 - decay**count) / (1.0 - decay**steps))

    def leaf(path: tuple, here: Array) -> Array:
        name = jax.tree_util.keystr(path[1:], simple=True, separator="/")  # below `atlas` or `precision`
        if path[0].key == "precision":
            names: tuple[str, ...] = (f"precisions/{PRECISIONS[name]}",)
        else:
            try:
                names = original(name, charts)
            except KeyError:
                return jnp.zeros_like(here)
        values = [scaled(each) for each in names]
        present = [value for value in values if value is not None]
        if len(present) != len(names) or sum(value.size for value in present) != here.size:
            return jnp.zeros_like(here)
        return jnp.asarray(np.stack(present).reshape(here.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, params)
