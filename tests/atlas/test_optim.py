"""The optimizer: which part of the model a leaf is, each part's share of the rate, and the rules beside Adam."""

import collections
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from topojax.atlas import optim
from topojax.atlas.hierarchy import GROUPS
from topojax.atlas.model import make_model
from topojax.config.defaults import default_config

RATES = dict(zip(GROUPS, (1.0, 2.0, 3.0, 4.0, 5.0), strict=True))
ONES = jnp.ones(len(GROUPS))


def real_params(**model):
    """Shapes of the parameters of an atlas, precisions included."""
    config = default_config().model
    config.update(model)
    atlas = make_model(config.to_dict(), input_dim=9, num_classes=3)
    params, _ = jax.eval_shape(atlas.init, jax.random.key(0))
    return {"atlas": params, "precision": {"recon": jax.ShapeDtypeStruct((), jnp.float32)}}


def by_name(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): v
        for path, v in jax.tree_util.tree_leaves_with_path(tree)
    }


def at(params, opt_state=None, average=None):
    """What of a TrainState is asked for the parameters to evaluate."""
    return types.SimpleNamespace(params=params, opt_state=opt_state, average=average or {})


# One leaf of each part that a group is made of.
EXPECTED = {
    "atlas/encoder/features_0/kernel": "encoder",
    "atlas/encoder/value/kernel": "encoder",
    "atlas/encoder/values/kernel": "encoder",
    "atlas/encoder/gate_1/beta": "encoder",
    "atlas/encoder/router/query_z/kernel": "router",
    "atlas/encoder/router/transport/kernel": "router",
    "atlas/encoder/chart_keys/kernel": "router",
    "atlas/encoder/centers": "codes",
    "atlas/encoder/codebook": "codes",
    "atlas/decoder/render_0/kernel": "decoder",
    "atlas/decoder/router/query_z/kernel": "decoder",
    "atlas/decoder/log_readout_gain": "decoder",
    "atlas/jump/c": "decoder",
    "atlas/readout/logits": "heads",
    "atlas/supervised/table": "heads",
    "precision/recon": "heads",
}


def test_every_leaf_of_a_real_model_has_its_group():
    params = real_params()
    named = optim.groups(params)
    assert jax.tree.structure(named) == jax.tree.structure(params)
    found = by_name(named)
    assert {name: found[name] for name in EXPECTED} == EXPECTED
    assert set(found.values()) == set(GROUPS)
    # The first parts of a name decide, but within the encoder.
    parts = collections.defaultdict(set)
    for name, group in found.items():
        parts["/".join(name.split("/")[:2])].add(group)
    assert parts["atlas/encoder"] == {"encoder", "router", "codes"}
    assert all(len(groups) == 1 for part, groups in parts.items() if part != "atlas/encoder")


def test_a_router_of_dot_products_has_no_leaf_of_its_own():
    """Its keys are the chart centres, which are codes."""
    found = by_name(optim.groups(real_params(covariant=False)))
    assert set(found.values()) == set(GROUPS) - {"router"}
    assert found["atlas/encoder/centers"] == "codes"


def test_each_group_moves_by_its_rate_times_its_factor():
    params = real_params()
    direction = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 2.0), params)
    factors = jnp.array([1.0, 0.5, 0.25, 0.0, 1.0])
    moved = by_name(jax.jit(lambda u, f: optim.scaled(u, RATES, f))(direction, factors))
    # 2 · rate · factor
    expected = {"encoder": 2.0, "router": 2.0, "codes": 1.5, "decoder": 0.0, "heads": 10.0}
    for name, group in by_name(optim.groups(params)).items():
        np.testing.assert_array_equal(moved[name], np.full(moved[name].shape, expected[group]), name)
    same = by_name(optim.scaled(direction, dict.fromkeys(GROUPS, 1.0), ONES))
    assert all(np.array_equal(same[name], leaf) for name, leaf in by_name(direction).items())


def test_the_readout_alone_is_apart():
    named = by_name(optim.labels(real_params()))
    assert {name for name, label in named.items() if label == "readout"} == {
        name for name in named if name.startswith("atlas/readout/")
    }
    assert set(named.values()) == {"atlas", "readout"}


def small(atlas, readout):
    return {"atlas": {"encoder": {"kernel": jnp.asarray(atlas)}, "readout": {"bias": jnp.asarray(readout)}}}


def optimizer(rate="governor", *, steps_per_epoch=1, **fields):
    config = default_config().optim
    config.update(fields)
    config.rate = rate
    return optim.make_optimizer(config, steps_per_epoch=steps_per_epoch), config


MEMORYLESS = {"b1": 0.0, "b2": 0.0, "eps": 1.0}  # Adam's direction is g/(|g| + 1)


def test_a_label_does_not_scale_the_gradient_of_the_atlas():
    """Clipping is by two norms: of the atlas's gradient and of the readout's."""
    adam, _ = optimizer(grad_clip=1.0, **MEMORYLESS)
    params = small([0.0, 0.0], [0.0])
    for readout in (1e-3, 1e6):
        direction, _ = adam.update(small([3.0, 4.0], [readout]), adam.init(params), params, value=0.0)
        # (3, 4) clipped to norm 1 is (0.6, 0.8)
        np.testing.assert_allclose(direction["atlas"]["encoder"]["kernel"], [0.375, 0.8 / 1.8], rtol=1e-5)
    np.testing.assert_allclose(direction["atlas"]["readout"]["bias"], [0.5], rtol=1e-5)  # 1e6 clipped to 1


def descend(rate, steps, **fields):
    """Parameters before and after some steps on ½‖θ‖², and the optimizer's state."""
    rule, config = optimizer(rate, **{"learning_rate": 0.01, **fields})
    first = small([0.5, -0.25], [1.0])

    def step(carry, _):
        params, state = carry
        direction, state = rule.update(params, state, params, value=jnp.float32(1.0))
        return (jax.tree.map(lambda p, u: p - config.learning_rate * u, params, direction), state), None

    (params, state), _ = jax.jit(lambda: jax.lax.scan(step, (first, rule.init(first)), length=steps))()
    return first, params, state, config


@pytest.mark.parametrize("rate", optim.RATES)
def test_every_rate_descends(rate):
    # Prodigy finds its own scale from a tiny start: the rate is a factor on it, 1 by its authors' advice.
    first, params, state, config = descend(rate, 300, learning_rate=1.0 if rate == "prodigy" else 0.01)
    read = optim.eval_params(config, at(params, state))
    for before, after in zip(jax.tree.leaves(first), jax.tree.leaves(read), strict=True):
        assert np.isfinite(after).all()
        assert np.all(np.abs(after) < np.abs(before))


@pytest.mark.parametrize("rate", ["governor", "constant"])
def test_adam_is_evaluated_where_it_stands(rate):
    _, params, state, config = descend(rate, 3)
    assert optim.eval_params(config, at(params, state)) is params


def test_a_running_average_is_what_is_evaluated():
    config = default_config().optim
    config.average = 0.5
    thetas = [small([value], [2.0 * value]) for value in (1.0, 2.0, 4.0)]
    averaged = optim.average(config, {}, thetas[0], jnp.int32(0))
    for step, params in enumerate(thetas[1:], start=1):
        averaged = optim.average(config, averaged, params, jnp.int32(step))
    # (a + 1)/(t + a) after the second and third step: 1.5/2.5 = 3/5, 1.5/3.5 = 3/7; 2/5 · 1 + 3/5 · 2 = 8/5;
    # 4/7 · 8/5 + 3/7 · 4 = 92/35
    np.testing.assert_allclose(averaged["atlas"]["encoder"]["kernel"], [92 / 35], rtol=1e-6)
    np.testing.assert_allclose(averaged["atlas"]["readout"]["bias"], [184 / 35], rtol=1e-6)
    assert optim.eval_params(config, at(thetas[-1], None, averaged)) is averaged
    config.average = 0.0
    assert optim.average(config, averaged, thetas[0], jnp.int32(3)) == {}


@pytest.mark.parametrize("steps", (100, 1000))
def test_the_mean_age_of_the_average_is_a_share_of_the_run(steps):
    """Of weights s^a it is t/(a + 2): of the 16th power an eighteenth."""
    config = default_config().optim

    def body(averaged, step):
        value = small([0.0], [0.0])
        value["atlas"]["encoder"]["kernel"] += step
        return optim.average(config, averaged, value, step), None

    averaged, _ = jax.lax.scan(body, small([0.0], [0.0]), jnp.arange(steps, dtype=jnp.float32))
    age = steps - float(averaged["atlas"]["encoder"]["kernel"][0])
    assert age == pytest.approx(steps / 18, rel=0.02, abs=1.0)


def test_schedule_free_keeps_no_second_average():
    config = default_config().optim
    config.rate = "schedule_free"
    assert optim.average(config, {}, small([1.0], [1.0]), jnp.int32(0)) == {}


def test_schedule_free_is_that_of_optax_and_evaluates_its_average():
    _, params, state, config = descend("schedule_free", 5, grad_clip=1e3, warmup_epochs=2)
    # The readout has a state of its own, and Adam is elementwise: one optimizer over everything goes the same way.
    free = optax.contrib.schedule_free_adamw(0.01, 2, b1=config.b1, b2=config.b2, eps=config.eps)
    y = small([0.5, -0.25], [1.0])
    memory = free.init(y)
    for _ in range(5):
        updates, memory = free.update(y, memory, y)
        y = optax.apply_updates(y, updates)
    read = optim.eval_params(config, at(params, state))
    for found, expected in ((params, y), (read, optax.contrib.schedule_free_eval_params(memory, y))):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4)
    assert not np.allclose(*(tree["atlas"]["readout"]["bias"] for tree in (read, params)), rtol=1e-4)


def test_a_plateau_halves_the_direction_after_its_patience():
    rule, _ = optimizer("reduce_on_plateau", steps_per_epoch=2, plateau_patience=2, plateau_factor=0.5, **MEMORYLESS)
    params = small([0.0], [0.0])
    gradient, state, sizes = small([1.0], [1.0]), rule.init(params), []
    for epoch_loss in (1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5):
        for loss in (epoch_loss - 0.25, epoch_loss + 0.25):  # only the mean over an epoch counts
            direction, state = rule.update(gradient, state, params, value=jnp.float32(loss))
        sizes.append(float(direction["atlas"]["encoder"]["kernel"][0]))
    # 1/(1 + 1) until two epochs brought nothing better, and again; a better one starts the count anew
    assert sizes == [0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125]


def test_norms_leave_the_readout_out():
    assert float(optim.norm(small([3.0, 4.0], [100.0]))) == pytest.approx(5.0)
    with_precision = small([3.0, 4.0], [100.0]) | {"precision": {"recon": jnp.float32(12.0)}}
    assert float(optim.norm(with_precision)) == pytest.approx(13.0)


@pytest.mark.parametrize("finite", [True, False])
def test_a_step_that_is_not_finite_leaves_every_bit(finite):
    old, new = small([-0.0, 1.0], [1.0]), small([0.0, jnp.nan], [2.0])
    kept = optim.masked(jnp.bool_(finite), new, old)
    for leaf, expected in zip(jax.tree.leaves(kept), jax.tree.leaves(new if finite else old), strict=True):
        assert np.asarray(leaf).tobytes() == np.asarray(expected).tobytes()


def test_the_cosine_cap_warms_up_and_ends_at_a_hundredth():
    config = default_config().optim
    config.schedule, config.learning_rate_max, config.warmup_epochs = "cosine", 0.5, 1
    cap = optim.schedule(config, steps_per_epoch=10, epochs=11)
    # linear from 0.005 to 0.5 in 10 steps; half of the cosine's 100 steps on, the mean of its ends
    values = [float(cap(step)) for step in (0, 5, 10, 60, 110)]
    assert values == pytest.approx([0.005, 0.2525, 0.5, 0.2525, 0.005], rel=1e-5)
    config.warmup_epochs = 0
    assert float(optim.schedule(config, steps_per_epoch=10, epochs=11)(0)) == pytest.approx(0.5)
    for schedule in ("none", "ending"):  # the run's end is no function of time
        config.schedule = schedule
        assert optim.schedule(config, steps_per_epoch=10, epochs=11)(7) == np.inf
