"""The optimizer: which part of the model a leaf is, each part's share of the rate, and what is left out of norms."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from topojax import optim
from topojax.config import default_config
from topojax.control.hierarchy import GROUPS
from topojax.model import make_model

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


# One leaf of each part that a group is made of.
EXPECTED = {
    "atlas/encoder/features_0/kernel": "encoder",
    "atlas/encoder/value/kernel": "encoder",
    "atlas/encoder/filter_1/bias": "encoder",
    "atlas/encoder/gate_1/beta": "encoder",
    "atlas/encoder/router/query_z/kernel": "router",
    "atlas/encoder/router/transport/kernel": "router",
    "atlas/encoder/chart_keys/kernel": "router",
    "atlas/encoder/centers": "codes",
    "atlas/encoder/codebook": "codes",
    "atlas/decoder/render_0/kernel": "decoder",
    "atlas/decoder/router/query_z/kernel": "decoder",
    "atlas/decoder/texture_scale": "decoder",
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


def test_a_label_does_not_scale_the_gradient_of_the_atlas():
    """Clipping is by two norms: of the atlas's gradient and of the readout's."""
    config = ConfigDict({"grad_clip": 1.0, "b1": 0.0, "b2": 0.0, "eps": 1.0})
    optimizer = optim.make_optimizer(config)
    params = small([0.0, 0.0], [0.0])
    for readout in (1e-3, 1e6):
        direction, _ = optimizer.update(small([3.0, 4.0], [readout]), optimizer.init(params), params)
        # (3, 4) clipped to norm 1 is (0.6, 0.8); with no memory Adam makes g/(|g| + 1) of it
        np.testing.assert_allclose(direction["atlas"]["encoder"]["kernel"], [0.375, 0.8 / 1.8], rtol=1e-5)
    np.testing.assert_allclose(direction["atlas"]["readout"]["bias"], [0.5], rtol=1e-5)  # 1e6 clipped to 1


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
    config.learning_rate_max, config.warmup_epochs = 0.5, 1
    cap = optim.schedule(config, steps_per_epoch=10, epochs=11)
    # linear from 0.005 to 0.5 in 10 steps; half of the cosine's 100 steps on, the mean of its ends
    values = [float(cap(step)) for step in (0, 5, 10, 60, 110)]
    assert values == pytest.approx([0.005, 0.2525, 0.5, 0.2525, 0.005], rel=1e-5)
    config.warmup_epochs = 0
    assert float(optim.schedule(config, steps_per_epoch=10, epochs=11)(0)) == pytest.approx(0.5)
    config.schedule = "none"
    assert optim.schedule(config, steps_per_epoch=10, epochs=11)(7) == np.inf
