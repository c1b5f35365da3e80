"""Singular values are dear: their contract takes them every n steps, with n times the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_config import get_config

from topojax.atlas.terms import Lazy, lazily, orthogonality
from topojax.data import sets
from topojax.scoring.run import build


def square(params):
    return jnp.sum(params**2)


@pytest.mark.parametrize("now", [True, False])
def test_a_lazy_term_keeps_its_last_value_and_counts_n_times_when_taken(now):
    params = jnp.array([1.0, 2.0])
    value, gradient = jax.jit(jax.value_and_grad(lambda p: lazily(square, p, Lazy(now, jnp.float32(7.0)), 4)))(params)
    # taken: 1 + 4 = 5 and 4 · 2θ; otherwise the last value and nothing
    assert value == (5.0 if now else 7.0)
    np.testing.assert_allclose(gradient, [8.0, 16.0] if now else [0.0, 0.0])


def test_with_n_of_one_it_is_the_term_itself():
    value, gradient = jax.value_and_grad(lambda p: lazily(square, p, Lazy(False, jnp.float32(7.0)), 1))(jnp.ones(2))
    assert value == 2.0
    np.testing.assert_allclose(gradient, [2.0, 2.0])


@pytest.mark.slow
def test_a_run_takes_them_in_every_third_step_and_descends():
    config = get_config()
    config.losses.orthogonality_every = 3
    config.contracts.orthogonality.update(enabled=True, initial=1.0, target=0.01)
    dataset = sets.load(config.data, seed=0)
    _, program = build(config, dataset.sizes())
    train = jax.tree.map(jnp.asarray, dataset.train)
    step, state, probe = jax.jit(program.train_step), jax.jit(program.init)(), program.probe_of(train)
    batch = jax.tree.map(lambda x: x[: config.train.batch_size], train)
    measured = []
    for _ in range(9):
        before = orthogonality(state.params["atlas"])
        taken = state.step % 3 == 0
        state, metrics = step(state, batch, probe)
        measured.append(float(metrics["loss/orthogonality"]))
        if taken:
            np.testing.assert_allclose(measured[-1], before, rtol=1e-4)
        assert state.isotropy == measured[-1]
    assert len(set(measured)) == 3
    assert measured[::3] == measured[2::3]
