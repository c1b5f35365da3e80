"""The rate as an optax transform: what it finds, what it survives, and what it works inside of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from topojax.control.rate import bound, cause, keep_finite, scale_by_governor

CURVATURE = jnp.logspace(-1, 2, 10)


def noisy(params, key):
    """A quadratic whose gradient is noisy; its least value is 0."""
    noise = 0.1 * jax.random.normal(key, params.shape)
    return 0.5 * jnp.sum(CURVATURE * (params - noise) ** 2)


def chained(initial, **numbers):
    return optax.chain(keep_finite(optax.scale_by_adam()), scale_by_governor(initial, **{"window": 10, **numbers}))


def governed(state):
    return next(part for part in state if hasattr(part, "search"))


def train(tx, loss=noisy, *, steps=1000, params=None, seed=0):
    """Parameters and state after training, and (value, rate in force, cause) of each step."""
    params = jnp.ones(10) if params is None else params

    def step(carry, k):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, jax.random.fold_in(jax.random.key(seed), k))
        updates, state = tx.update(grads, state, params, value=value)
        tree_get = functools.partial(optax.tree_utils.tree_get, state)
        return (optax.apply_updates(params, updates), state), (value, tree_get("in_force"), tree_get("cause"))

    return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(steps))


# What it finds.


def test_it_ends_well_from_any_initial_rate_with_and_without_a_horizon():
    rates = jnp.logspace(-5, 2, 8)

    def final(initial, horizon):
        (params, _), _ = train(chained(initial, horizon=horizon))
        return 0.5 * jnp.sum(CURVATURE * params**2)

    annealed, free = jax.jit(jax.vmap(jax.vmap(final, (0, None)), (None, 0)))(rates, jnp.float32([1000, np.inf]))
    start = 0.5 * float(jnp.sum(CURVATURE))
    assert float(annealed.max()) < 1e-3 * start
    assert float(free.max()) < 1e-2 * start
    adam = [
        0.5 * jnp.sum(CURVATURE * train(optax.with_extra_args_support(optax.adam(rate)), zero_rate)[0][0] ** 2)
        for rate, zero_rate in ()
    ]
    assert not adam


def test_the_horizon_brings_the_rate_to_zero_and_says_so():
    (_, state), (_, rates, _) = jax.jit(lambda: train(chained(1e-2, horizon=1000)))()
    assert float(rates[-1]) == pytest.approx(float(governed(state).search.rate) * 2 / 1000, rel=1e-3)
    assert cause(state) == "horizon"
    assert bound(state) == "horizon"
