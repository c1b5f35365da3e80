"""What the speed benchmark compares a step with: each variant leaves out what it says, and nothing else."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config

from topojax.benchmarks import scaling, variants
from topojax.benchmarks.timed_epochs import Epochs, bare, forward, start, trained
from topojax.benchmarks.timing import Patience
from topojax.config.io import flat
from topojax.config.validate import validate
from topojax.data import sets


@pytest.fixture(scope="module")
def digits():
    """The tiny run's data: (about, training split)."""
    config = tiny_config.get_config()
    dataset = sets.load(config.data, seed=config.seed)
    return dataset.sizes(), jax.tree.map(jnp.asarray, dataset.train)


def test_variants_leave_the_configuration_alone_and_are_valid():
    config = tiny_config.get_config()
    config.revival.dead_code = 0.1
    before = dict(flat(config))
    for variant in (variants.constant_control(config), variants.recon_vq(config)):
        validate(variant)
    assert dict(flat(config)) == before


@pytest.fixture(scope="module")
def uncontrolled(digits):
    """(configuration, () → epochs from the start): constant weights, no gate closed, whatever else was asked for."""
    about, train = digits
    config = tiny_config.get_config()
    config.optim.schedule, config.hierarchy.action = "cosine", "freeze"
    config.optim.learning_rate = config.optim.learning_rate_max = 0.01
    for row in config.contracts.values():
        row.gate = "none"
    config = variants.constant_control(config)
    loop = trained(config, about)
    compiled = start(loop, train).compiled
    return config, lambda: Epochs(loop, compiled, jax.jit(loop.init)(), train)


@pytest.mark.slow
def test_constant_control_moves_nothing(uncontrolled):
    """Weights, rate and shares of groups stay, and nothing is probed after the first epoch."""
    config, restart = uncontrolled
    epochs = restart()

    def multipliers():
        return jax.device_get([jax.tree.leaves(group)[0] for group in epochs.carry[1].control.bank.groups])

    first = multipliers()
    epochs.epoch()
    probed = jax.device_get(epochs.carry[1].probed)
    for _ in range(12):
        epochs.epoch()
    jax.tree.map(np.testing.assert_array_equal, first, multipliers())
    jax.tree.map(np.testing.assert_array_equal, probed, jax.device_get(epochs.carry[1].probed))
    assert float(epochs.carry[1].control.governor.rate) == np.float32(config.optim.learning_rate)
    np.testing.assert_array_equal(epochs.carry[1].control.hierarchy.factors, 1.0)


@pytest.mark.slow
def test_the_bare_loop_trains_the_same_atlas(uncontrolled, digits):
    """After two epochs its parameters are the run's own to rounding."""
    config, restart = uncontrolled
    run, plain = restart(), start(bare(config, digits[0]), digits[1])
    initial = jax.tree.leaves(jax.device_get(run.carry[1].params))
    for epochs in (run, plain):
        epochs.epoch()
        epochs.epoch()
    (params, *_, number), _ = plain.carry
    assert int(number) == int(run.carry[1].step) == 10
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(run.carry[1].params), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
    moved = [np.max(np.abs(leaf - at)) for leaf, at in zip(jax.tree.leaves(params), initial, strict=True)]
    assert max(moved) > 0.05  # ten steps of Adam at 0.01


def test_recon_vq_is_that_alone(digits):
    about, _ = digits
    config = variants.recon_vq(tiny_config.get_config())
    assert [name for name, row in config.contracts.items() if row.enabled] == ["commitment"]
    assert not config.supervised.enabled
    assert trained(config, about).steps == 5


def test_looking_changes_no_parameter(digits):
    about, train = digits
    epochs = start(forward(tiny_config.get_config(), about), train)
    before = jax.device_get(epochs.carry[0])
    epochs.epoch()
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(epochs.carry[0]))
    assert int(epochs.carry[2]) == 1


@pytest.mark.parametrize(
    "steps, dead, every, expected",
    [
        (5, 0.0, 7, 10),  # a probe every 50 steps
        (9, 0.0, 7, 6),  # 5.56 epochs, rounded as the step rounds it
        (80, 0.0, 7, 1),
        (9, 0.1, 5, 30),  # probes every 6 epochs, revivals every 5
    ],
)
def test_an_interval_holds_a_probe_and_a_revival(steps, dead, every, expected):
    config = tiny_config.get_config()
    config.revival.dead_code, config.revival.every_epochs = dead, every
    assert variants.interval(config, steps) == expected


def test_scaling_multiplies_one_size_at_a_time(monkeypatch):
    """Sizes that cannot be are said to be skipped; ratios are of medians."""
    base = tiny_config.get_config()
    sizes = {symbol: dict(flat(base))[field] for symbol, field in scaling.SIZES.items()}
    assert sizes == {"H": 16, "N": 4, "K": 3, "D": 2, "B": 32}
    built = []

    def made(config, about):
        built.append({symbol: dict(flat(config))[field] for symbol, field in scaling.SIZES.items()})
        return SimpleNamespace(of_step=lambda times: sum(times), data=None)

    monkeypatch.setattr(scaling, "trained", made)
    monkeypatch.setattr(scaling, "start", lambda loop, data: loop)
    monkeypatch.setattr(scaling, "in_turn", lambda pair: {"step_ms": [0.006], "base_step_ms": [0.002]})
    run = SimpleNamespace(of_step=lambda times: sum(times), data=None)
    found = scaling.scaling(base, {"num_train": 100}, run, factors=(2, 4), patience=Patience(1, 1, 0.0))
    assert [(row["size"], row["value"]) for row in found] == [
        *(("H", 32), ("H", 64), ("N", 8), ("N", 16), ("K", 6), ("K", 12), ("D", 4), ("D", 8), ("B", 64), ("B", 128)),
    ]
    assert found[-1]["skipped"] == "there are 100 training examples"
    assert [sum(one[s] != sizes[s] for s in sizes) for one in built] == [1] * 9
    assert found[0]["step_ms"] == pytest.approx(6.0)
    assert found[0]["base_step_ms"] == pytest.approx(2.0)
    assert found[0]["ratio"] == pytest.approx(3.0)
    assert dict(flat(base)) == dict(flat(tiny_config.get_config()))
