"""Trustworthiness and continuity against scikit-learn's, by hand where it has none."""

import numpy as np
import pytest
from sklearn.manifold import trustworthiness

from topojax.scoring.map_quality import map_quality


@pytest.mark.parametrize("k", [5, 12])
def test_as_scikit_learn_has_it_and_the_other_way_round(k):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(700, 6))  # more than one chunk
    z = x[:, :2] + 0.3 * rng.normal(size=(700, 2))
    found = map_quality(x, z, rng.integers(0, 3, size=700), k)
    assert found["trustworthiness"] == pytest.approx(trustworthiness(x, z, n_neighbors=k), abs=1e-4)
    assert found["continuity"] == pytest.approx(trustworthiness(z, x, n_neighbors=k), abs=1e-4)


def test_a_map_onto_itself_is_whole_and_its_neighbours_vote():
    line = np.arange(40.0)[:, None]
    label = (line[:, 0] >= 20).astype(int)
    found = map_quality(line, line, label, k=2)
    assert found["trustworthiness"] == found["continuity"] == 1.0
    # Only at the border is a neighbour of the other class, one of two: ties go to the least class.
    assert found["hit"] == pytest.approx(1 - 2 * 0.5 / 40)
    assert found["knn5"] == pytest.approx(39 / 40)


def test_a_torn_map_loses_continuity_and_an_overlaid_one_trust():
    ring = np.stack([np.cos(np.linspace(0, 2 * np.pi, 200)), np.sin(np.linspace(0, 2 * np.pi, 200))], axis=1)
    folded = np.abs(ring[:, :1])  # both halves over each other
    found = map_quality(ring, folded, None)
    assert found["trustworthiness"] < 0.9 < found["continuity"]
    assert np.isnan(found["knn5"])


def test_too_few_points_have_no_quality():
    assert all(np.isnan(v) for v in map_quality(np.eye(5), np.eye(5), np.arange(5)).values())
