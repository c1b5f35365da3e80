"""Prediction sets keep their promise; abstention and strangers are scored as by hand."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

from topojax.scoring.conformal import auroc, conformal, entropy, scrambled, selective


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("skill", [0.0, 1.0, 5.0])
def test_coverage_is_what_was_promised_however_good_the_head(skill):
    """Over many draws: at least 1 − α, and no more than 1/(n + 1) above it where scores are all different."""
    rng, alpha, rates = np.random.default_rng(0), 0.2, []
    for seed in range(300):
        labels = rng.integers(0, 5, 80)
        probability = softmax(rng.normal(size=(80, 5)) + skill * np.eye(5)[labels])
        rates.append(conformal(probability, labels, alpha=alpha, seed=seed).covered.mean())
    error = np.std(rates) / np.sqrt(len(rates))
    assert 1 - alpha - 4 * error <= np.mean(rates) <= 1 - alpha + 1 / 41 + 4 * error


def test_sets_by_hand():
    labels = np.zeros(8, int)
    probability = np.stack([np.linspace(0.2, 0.9, 8), 1 - np.linspace(0.2, 0.9, 8)], axis=1)
    found = conformal(probability, labels, alpha=0.4, seed=3)
    scores = np.sort(1 - probability[found.calibrated, 0])
    assert found.threshold == pytest.approx(1 - scores[2])  # ⌈5 · 0.6⌉ = 3rd of 4
    np.testing.assert_array_equal(found.covered, probability[found.tested, 0] >= found.threshold)
    np.testing.assert_array_equal(found.size, (probability[found.tested] >= found.threshold).sum(axis=1))
    assert sorted([*found.calibrated, *found.tested]) == list(range(8))


def test_too_few_examples_promise_by_naming_every_class():
    found = conformal(np.full((6, 4), 0.25), np.arange(6) % 4, alpha=0.1)
    assert found.covered.all()
    assert (found.size == 4).all()


def test_coverage_by_group_and_its_holes():
    labels = np.arange(40) % 2
    found = conformal(np.eye(2)[labels], labels, alpha=0.3)
    table = found.by_group(np.where(np.arange(40) < 20, 0, 2), 3)
    assert table[:, 0].sum() == len(found.tested)
    assert np.isnan(table[1, 1:]).all()
    np.testing.assert_array_equal(table[[0, 2], 1], [1, 1])


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="alpha"):
        conformal(np.ones((4, 1)), np.zeros(4, int), alpha=1.0)
    with pytest.raises(ValueError, match="examples"):
        conformal(np.ones((1, 1)), np.zeros(1, int))


@hypothesis.given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30))
def test_selective_accuracy(pairs):
    confidence, correct = (np.array(column) for column in zip(*pairs, strict=True))
    share, accuracy = selective(confidence, correct)
    assert share[-1] == 1
    assert accuracy[-1] == pytest.approx(correct.mean())
    assert accuracy[0] == correct[np.argmax(confidence)]


@hypothesis.given(*[hnp.arrays(np.int8, st.integers(1, 12), elements=st.integers(0, 4))] * 2)
def test_auroc_is_the_share_of_pairs(known, strange):
    pairs = np.sign(strange[:, None].astype(int) - known[None].astype(int))
    assert auroc(known, strange) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def test_strangers_have_the_numbers_of_the_data_in_another_order():
    image = np.random.default_rng(0).uniform(size=(5, 9))
    strange = scrambled(image)
    np.testing.assert_array_equal(np.sort(strange), np.sort(image))
    assert (strange != image).any()
    assert entropy(np.array([[0.5, 0.5], [1.0, 0.0]])) == pytest.approx([np.log(2), 0.0], abs=1e-9)
