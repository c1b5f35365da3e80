"""Leaves that came or went between versions."""

import jax.numpy as jnp
import numpy as np

from topojax.storage import layouts


def test_a_baseline_without_an_average_begins_one_at_its_parameters():
    saved = {"step": "int32[]", "baselines.ae.params.body.kernel": "float32[2]"}
    wanted = saved | {"baselines.ae.average.body.kernel": "float32[2]"}
    assert layouts.differences(saved, wanted) == []
    assert layouts.differences(wanted, saved) == [
        "baselines.ae.average.body.kernel: saved float32[2], wanted nothing",
    ]
    lacking = {"step": "int32[]"}
    assert len(layouts.differences(lacking, wanted)) == 2
    leaves = {"baselines.ae.params.body.kernel": jnp.array([1.0, 2.0])}
    leaf = layouts.begun("baselines.ae.average.body.kernel", jnp.zeros(2), leaves)
    np.testing.assert_array_equal(leaf, [1.0, 2.0])
