"""Evaluation of a split: batches that lose nothing, scores against hand-computed numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topojax.scoring.scores import matched_accuracy, scores
from topojax.step.predict import predict
from topojax.types import Batch


def predictions(chart, router=None, **others):
    n = len(chart)
    chart = np.array(chart, np.int32)
    base = {
        "chart": chart,
        "code": np.zeros(n, np.int32),
        "router": np.eye(chart.max() + 1, dtype=np.float32)[chart] if router is None else np.float32(router),
        **dict.fromkeys(("squared_error", "squared_error_by_chart", "squared_error_dream"), np.zeros(n, np.float32)),
        "decoder_chart": chart,
        "consistency": np.zeros(n, np.float32),
        "readout_prediction": np.zeros(n, np.int32),
        "readout_probability": np.full((n, 4), 0.25, np.float32),
        "class_probability": np.full((n, 4), 0.25, np.float32),
        "z_geo": np.arange(2 * n, dtype=np.float32).reshape(n, 2),
    }
    return base | {name: np.array(value) for name, value in others.items()}


@given(n=st.integers(1, 12), size=st.integers(1, 8))
def test_every_example_is_seen_once_in_order_in_batches_of_one_shape(n, size):
    shapes = set()

    def spy(state, batch):
        shapes.add(batch.image.shape)
        return {"twice": state * batch.image[:, 0], "label": batch.label}

    split = Batch(np.arange(n, dtype=np.float32)[:, None], np.arange(n, dtype=np.int32))
    out = predict(spy, 2.0, split, size)
    assert out["twice"].tolist() == [2.0 * i for i in range(n)]
    assert out["label"].tolist() == list(range(n))
    assert shapes == {(min(size, n), 1)}


def test_padding_changes_no_result():
    program = jax.jit(lambda state, batch: {"y": jnp.tanh(batch.image @ state)})
    rng = np.random.default_rng(0)
    state = jnp.float32(rng.standard_normal((3, 2)))
    split = Batch(rng.standard_normal((7, 3)).astype(np.float32), np.zeros(7, np.int32))
    np.testing.assert_allclose(
        predict(program, state, split, 4)["y"],
        predict(program, state, split, 7)["y"],
        rtol=1e-6,
    )


def test_perfect_charts():
    labels = np.array([0, 0, 1, 1])
    got = scores(predictions([1, 1, 0, 0], class_prediction=[0, 0, 1, 1]), labels)
    # The partition matters, not its names; I = H(K) = log 2: every row is certain; 2 pairs, evenly used.
    assert got["test/ami"] == pytest.approx(1.0)
    assert got["test/nmi"] == pytest.approx(1.0)
    assert got["test/acc_matched"] == 1.0
    assert got["test/acc_supervised"] == 1.0
    assert got["test/acc_readout"] == 0.5
    assert got["test/I_XK"] == pytest.approx(math.log(2))
    assert got["test/H_K_given_X"] == 0.0
    assert got["test/perplexity"] == pytest.approx(2.0)


def test_information_is_of_the_whole_split():
    # Rows (1, 0) and (½, ½): mean (¾, ¼), H = 0.562335; H(K|X) = log(2)/2 = 0.346574; I = 0.215762.
    got = scores(predictions([0, 1], router=[[1, 0], [0.5, 0.5]]), np.array([0, 1]))
    assert got["test/H_K"] == pytest.approx(0.562335, abs=1e-6)
    assert got["test/H_K_given_X"] == pytest.approx(0.346574, abs=1e-6)
    assert got["test/I_XK"] == pytest.approx(0.215762, abs=1e-6)


def test_means_and_perplexity():
    given_ = predictions([0, 0, 0, 1], code=[0, 0, 1, 0], squared_error=[0, 0, 0, 2], consistency=[1, 0, 0, 0])
    got = scores(given_, np.array([0, 1, 2, 3]))
    assert got["test/mse"] == 0.5
    assert got["test/consistency"] == 0.25
    # Pairs (0,0) twice, (0,1), (1,0): H = ½ log 2 + 2 · ¼ log 4 = 1.5 log 2.
    assert got["test/perplexity"] == pytest.approx(2**1.5)


def test_without_labels_there_is_no_supervised_accuracy():
    assert "val/acc_supervised" not in scores(predictions([0, 1]), np.array([0, 1]), "val/")


@pytest.mark.parametrize(
    "chart, labels, expected",
    [
        ([0, 0, 0], [1, 1, 1], 1.0),
        # Three charts, two labels: one chart stays without a label.
        ([0, 1, 2, 2], [0, 0, 1, 1], 0.75),
        # Both classes in one chart: it can have only one of them.
        ([0, 0, 0, 0], [0, 0, 0, 1], 0.75),
        # Greedy would match chart 0 with label 0 (3 examples), and get 3 of 7; the best match gets 2 + 2.
        ([0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0, 0], 4 / 7),
    ],
)
def test_matched_accuracy(chart, labels, expected):
    assert matched_accuracy(np.array(chart), np.array(labels)) == pytest.approx(expected)
