"""The optimizer without its rate: clipped gradients to directions; the rate is the governor's, or a rule's of optax."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from topojax.atlas.greedy import greedy
from topojax.atlas.hierarchy import GROUPS
from topojax.control.base import is_off
from topojax.types import Array, Params

RATES = ("governor", "constant", "reduce_on_plateau", "greedy_lr", "prodigy", "schedule_free")
"""What `optim.rate` may be. All but the governor hold `learning_rate` fixed, under the schedule and the caps."""
GREEDY_PATIENCE = 3
"""Epochs in a row before GreedyLR moves its rate."""
KEEPS_ADAM = ("governor", "constant", "reduce_on_plateau", "greedy_lr")
"""Rates whose direction is Adam's, with moments that a revival can reset."""


def make_optimizer(config: Any, *, steps_per_epoch: int) -> optax.GradientTransformationExtraArgs:
    """Directions u of clipped gradients, to be descended by θ ← θ − η u; the detached readout apart.

    The readout is trained with labels even where the atlas is not; sharing one global norm would let labels scale
    the atlas's gradient.

      governor, constant  Adam's direction
      reduce_on_plateau   Adam's, × plateau_factor where the epoch's loss has not improved for plateau_patience
      greedy_lr           Adam's, × what `greedy` makes of the epoch's loss
      prodigy             Prodigy's update at rate 1: `learning_rate` is then a factor, 1 by its authors' advice
      schedule_free       schedule-free AdamW's at `learning_rate`; evaluation reads its average (`eval_params`)

    Args:
      config: `config.optim`.
      steps_per_epoch: steps, over which reduce_on_plateau averages the loss.

    Returns:
      A transform whose update wants the keyword `value`: the unweighted loss of the step.
    """
    adam = {"b1": config.b1, "b2": config.b2, "eps": config.eps}

    def rule() -> optax.GradientTransformation:
        if config.rate == "prodigy":
            betas = (config.b1, config.b2)
            update = optax.contrib.prodigy(1.0, betas, eps=config.eps, safeguard_warmup=True)
            return optax.chain(update, optax.scale(-1.0))
        if config.rate == "schedule_free":
            warmup = max(1, steps_per_epoch * config.warmup_epochs)
            update = optax.contrib.schedule_free_adamw(config.learning_rate, warmup, **adam)
            return optax.chain(update, optax.scale(-1.0 / config.learning_rate))
        if config.rate == "reduce_on_plateau":
            plateau = optax.contrib.reduce_on_plateau(
                config.plateau_factor,
                config.plateau_patience,
                rtol=1e-3,
                accumulation_size=steps_per_epoch,
                min_scale=config.learning_rate_min / config.learning_rate,
            )
            return optax.chain(optax.scale_by_adam(**adam), plateau)
        if config.rate == "greedy_lr":
            low, high = config.learning_rate_min / config.learning_rate, config.learning_rate_max / config.learning_rate
            follows = greedy(config.plateau_factor, GREEDY_PATIENCE, steps_per_epoch, least=low, most=high)
            return optax.chain(optax.scale_by_adam(**adam), follows)
        return optax.scale_by_adam(**adam)

    def direction() -> optax.GradientTransformation:
        # On one flat vector: forty leaves would be forty small kernels for every line of Adam.
        return optax.flatten(optax.chain(clipping(config), rule()))

    return optax.partition({"atlas": direction(), "readout": direction()}, labels)


def clipping(config: Any) -> optax.GradientTransformation:
    """By global norm; nothing where `config.optim.grad_clip` is 0."""
    return optax.identity() if is_off(config.grad_clip) else optax.clip_by_global_norm(config.grad_clip)


def labels(params: Params) -> Params:
    """`readout` for the detached head, `atlas` for everything else, in the tree of the params."""

    def label(path: tuple, _: Array) -> str:
        return "readout" if any(getattr(key, "key", None) == "readout" for key in path) else "atlas"

    return jax.tree_util.tree_map_with_path(label, params)


def average(config: Any, averaged: Params, params: Params, step: Array) -> Params:
    """The running average of the params, θ̄ ← θ̄ + (a + 1)/(t + a) (θ − θ̄) after step t; schedule-free has its own.

    The weight of step s is about s^a (Shamir and Zhang 2013): the mean age is t/(a + 2), however long the run is.

    Args:
      config: `config.optim`.
      averaged: θ̄; ignored at the start, where it is empty.
      params: θ after the step.
      step: optimizer steps made before it.
    """
    if is_off(config.average) or config.rate == "schedule_free":
        return {}
    if not averaged:
        return jax.tree.map(jnp.copy, params)
    rate = (config.average + 1.0) / (step + 1.0 + config.average)
    return optax.incremental_update(params, averaged, rate)


def eval_params(config: Any, state: Any) -> Params:
    """The parameters to evaluate.

    The running average where there is one; schedule-free's, x = (y − (1 − b1) z) / b1; otherwise those of training.

    Args:
      config: `config.optim`.
      state: TrainState.
    """
    if state.average:
        return state.average
    params, opt_state = state.params, state.opt_state
    if config.rate != "schedule_free":
        return params
    of, (leaves, structure) = jax.tree.leaves(labels(params)), jax.tree.flatten(params)
    out = list(leaves)
    for label, state in opt_state.inner_states.items():
        (found,) = (
            node
            for node in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, optax.contrib.ScheduleFreeState))
            if isinstance(node, optax.contrib.ScheduleFreeState)
        )
        start = 0
        for i, leaf in enumerate(leaves):
            if of[i] == label:
                z = found.z[start : start + leaf.size].reshape(leaf.shape)
                out[i] = (leaf - (1.0 - config.b1) * z) / config.b1
                start += leaf.size
    return jax.tree.unflatten(structure, out)


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


def all_finite(tree: Any) -> Array:
    """Whether every number of a tree is finite; integers, flags and keys always are."""
    leaves = [leaf.reshape(-1) for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    # As one vector: a hundred leaves would be a hundred kernels to compile.
    return jnp.all(jnp.isfinite(jnp.concatenate(leaves))) if leaves else jnp.bool_(True)


def norm(params: Params) -> Array:
    """Global norm of a tree of params, gradients or directions, the readout left out."""
    parts = {**params, "atlas": {k: v for k, v in params["atlas"].items() if k != "readout"}}
    return jnp.linalg.norm(jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(parts)]))


def schedule(config: Any, *, steps_per_epoch: int, epochs: int):
    """The cap over time, step → rate: a warm-up and cosine from the maximum to 1 % of it, or none (theory 1.5);
    `ending` is no function of time.

    Args:
      config: `config.optim`.
      steps_per_epoch: steps.
      epochs: length of the run.
    """
    if config.schedule != "cosine":
        return lambda step: jnp.full((), jnp.inf, jnp.float32)
    # Of optax's schedule, whose numbers are Python's, this is the formula.
    high = jnp.float32(config.learning_rate_max)
    low = 0.01 * high
    total = jnp.maximum(steps_per_epoch * epochs, 2)
    warmup = jnp.minimum(steps_per_epoch * config.warmup_epochs, total - 1)

    def cap(step: Array) -> Array:
        rising = low + (high - low) * step / jnp.maximum(warmup, 1)
        share = jnp.clip((step - warmup) / (total - warmup), 0.0, 1.0)
        falling = low + (high - low) * 0.5 * (1.0 + jnp.cos(jnp.pi * share))
        return jnp.where(step < warmup, rising, falling)

    return cap
