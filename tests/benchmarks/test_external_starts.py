"""Tasks from 36 initial rates: DeepOBS' problem as it defines it, GreedyLR's rule by hand, and what misses a bar."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topojax.benchmarks.external import mnist_vae, quadratic_deep, starts


def test_the_quadratic_is_the_published_one():
    """Spectrum and least losses of DeepOBS' draws; its tuned Adam ends at 87.112, just above the best there is."""
    eigenvalues = np.linalg.eigvalsh(quadratic_deep.hessian())
    assert ((eigenvalues > 0) & (eigenvalues < 1)).sum() == 90
    assert ((eigenvalues > 30) & (eigenvalues < 60)).sum() == 10
    task = quadratic_deep.task()
    assert task.steps == 700
    anew = [np.linalg.eigvalsh(quadratic_deep.hessian(seed)) for seed in (142, 142, 242)]
    np.testing.assert_array_equal(anew[0], anew[1])
    assert not np.allclose(anew[0], anew[2])
    assert all(((one > 30) & (one < 60)).sum() == 10 for one in anew)
    assert float(task.judge(jnp.asarray(quadratic_deep.examples(42).mean(axis=0)))) == pytest.approx(87.046, abs=1e-3)


def test_a_batch_of_the_quadratic_has_the_loss_of_its_examples():
    task, q, data = quadratic_deep.task(), quadratic_deep.hessian(), quadratic_deep.examples(42)
    order = np.asarray(jax.random.permutation(jax.random.fold_in(jax.random.key(3), 1), 1000))[128:256]
    away = 0.7 - data[order]
    expected = 0.5 * np.mean(np.sum(away @ q * away, axis=1))
    assert float(task.loss(jnp.full(100, 0.7), jnp.int32(3), jnp.int32(8))) == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_an_autoencoder_that_knows_nothing():
    # weights 0: μ = 0 and σ = 1 cost nothing, the image is ½ everywhere: Σ (½ − x)²
    layers = jax.tree.map(jnp.zeros_like, mnist_vae.begin(jnp.int32(0)))
    images = jnp.linspace(0, 1, 2 * 784).reshape(2, 784)
    expected = float(jnp.mean(jnp.sum((0.5 - images) ** 2, axis=1)))
    assert float(mnist_vae.loss(layers, images, jax.random.key(0), 0.2)) == pytest.approx(expected, rel=1e-6)


def test_the_greedy_rule_by_hand():
    tx = starts.scale_greedily(1.0, window=2)
    state, rates = tx.init(None), []
    for value in (4.0, 2.0, 1.0, 3.0, 5.0, 5.0, 2.5, 1.0):  # means 3, 2, 5, 1.75: better, better, worse, better
        updates, state = tx.update(jnp.ones(1), state, value=jnp.float32(value))
        rates.append(-float(updates[0]))
    assert rates == [1, 1, 2, 2, 4, 4, 2, 2]
    assert float(state.rate) == 4.0


@pytest.mark.parametrize("name", starts.ARMS)
def test_every_arm_descends(name):
    """From a rate that suits all of them, on a problem of three dimensions."""
    curvature = jnp.float32([1.0, 3.0, 10.0])
    task = starts.Task(
        steps=150,
        begin=lambda seed: jnp.ones(3),
        loss=lambda x, seed, k: 0.5 * jnp.sum(curvature * x**2),
        judge=lambda x: 0.5 * jnp.sum(curvature * x**2),
    )
    found = starts.ends(task, starts.ARMS[name], jnp.float32([0.03]), jnp.arange(1))
    assert found.shape == (1, 1)
    assert found[0, 0] < 2.0  # of 7


def test_a_run_that_diverges_is_kept_as_such():
    task = starts.Task(
        steps=50,
        begin=lambda seed: jnp.ones(1),
        loss=lambda x, seed, k: jnp.sum(x**2) * jnp.where(x[0] > 0.5, 1.0, jnp.nan),
        judge=lambda x: jnp.sum(x**2),
    )
    first = next(starts.jobs(lambda: task, {}, 1, 1))
    (record,) = first.run()
    assert first.keys == ("adam",)
    assert json.loads(json.dumps(record, allow_nan=False))["ends"][-1] == [None]
    found = starts.means(record)
    assert found[-1] == np.inf
    assert np.isfinite(found[0])


def test_what_misses_the_bar_is_printed():
    ends = np.ones((36, 2)).tolist()
    ends[5], ends[7] = [3.0, 4.0], [None, 1.0]
    records = {name: {"ends": ends} for name in starts.ARMS}
    records[starts.TUNED] = {"rate": 0.1, "ends": [[1.0, 1.1, 1.2]]}
    text = starts.markdown(records, 2.0)
    assert f"missed from {starts.RATES[5]:.1e}: 3.500, {starts.RATES[7]:.1e}: inf" in text
    assert "34 of 36" in text
    assert "published, 2.000" in text
    kept = starts.markdown(records | {"governor": {"ends": np.ones((36, 2)).tolist()}}, None)
    assert "from that, 1.300: kept" in kept
