"""The optimizer without its rate: clipped gradients to Adam directions; the rate is the governor's."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from topojax.control.hierarchy import GROUPS
from topojax.types import Array, Params


def make_optimizer(config: Any) -> optax.GradientTransformation:
    """Adam directions of clipped gradients, the detached readout apart.

    The readout is trained with labels even where the atlas is not; sharing one global norm would let labels scale
    the atlas's gradient.

    Args:
      config: `config.optim`.
    """

    def direction() -> optax.GradientTransformation:
        # On one flat vector: forty leaves would be forty small kernels for every line of Adam.
        return optax.flatten(
            optax.chain(
                optax.clip_by_global_norm(config.grad_clip),
                optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
            )
        )

    return optax.partition({"atlas": direction(), "readout": direction()}, labels)


def labels(params: Params) -> Params:
    """`readout` for the detached head, `atlas` for everything else, in the tree of the params."""

    def label(path: tuple, _: Array) -> str:
        return "readout" if any(getattr(key, "key", None) == "readout" for key in path) else "atlas"

    return jax.tree_util.tree_map_with_path(label, params)


def groups(params: Params) -> Params:
    """`hierarchy.GROUPS`' name of every leaf: which part of the model it is, in the tree of the params."""

    def group(path: tuple, _: Array) -> str:
        keys = [str(getattr(key, "key", "")) for key in path]
        if "encoder" in keys:
            own = set(keys)
            if own & {"centers", "codebook"}:
                return "codes"
            return "router" if own & {"router", "chart_keys"} else "encoder"
        return "decoder" if {"decoder", "jump"} & set(keys) else "heads"

    return jax.tree_util.tree_map_with_path(group, params)


def scaled(direction: Params, rates: Mapping[str, float], factors: Array) -> Params:
    """The direction with each group's share of the rate.

    Args:
      direction: Adam's, a tree of the params.
      rates: group → static factor (`optim.group_rates`).
      factors: shape=(5,), of the drift hierarchy, in `GROUPS`' order.
    """
    share = {group: rates[group] * factors[i] for i, group in enumerate(GROUPS)}
    return jax.tree.map(lambda u, group: share[group] * u, direction, groups(direction))


def masked(finite: Array, new: Any, old: Any) -> Any:
    """The new state after a finite step, the old one bit for bit after another."""
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)


def norm(params: Params) -> Array:
    """Global norm of a tree of params, gradients or directions, the readout left out."""
    parts = {**params, "atlas": {k: v for k, v in params["atlas"].items() if k != "readout"}}
    return jnp.linalg.norm(jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(parts)]))


def schedule(config: Any, *, steps_per_epoch: int, epochs: int):
    """The cap over time, step → rate: a warm-up and cosine from the maximum to 1 % of it, or none (theory 1.5).

    Args:
      config: `config.optim`.
      steps_per_epoch: steps.
      epochs: length of the run.
    """
    if config.schedule == "none":
        return lambda step: jnp.full((), jnp.inf, jnp.float32)
    total = max(steps_per_epoch * epochs, 2)
    warmup = min(steps_per_epoch * config.warmup_epochs, total - 1)
    return optax.warmup_cosine_decay_schedule(
        0.01 * config.learning_rate_max if warmup else config.learning_rate_max,
        config.learning_rate_max,
        warmup,
        total,
        0.01 * config.learning_rate_max,
    )
