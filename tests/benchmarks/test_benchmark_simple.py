"""What an atlas must beat: reconstructions with known errors, and the numbers of MNIST that others report."""

import numpy as np
import pytest

from topojax.benchmarks import simple
from topojax.config.defaults import default_config
from topojax.data import sets


def test_reconstructions_with_known_errors():
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((50, 2)) @ rng.standard_normal((2, 5)) + 3.0
    found = simple.reconstruction(plane[:40], plane[40:], components=2, centers=3, seed=0)
    assert found["mean"] == pytest.approx(np.mean((plane[40:] - plane[:40].mean(axis=0)) ** 2))
    assert found["pca-2"] == pytest.approx(0.0, abs=1e-20)
    # Three heaps far apart, of standard deviation 1: what is left is their own variance.
    heap = np.arange(600) % 3
    points = 100.0 * np.eye(5)[heap] + rng.standard_normal((600, 5))
    found = simple.reconstruction(points[:300], points[300:], components=2, centers=3, seed=0)
    assert found["k-means-3"] == pytest.approx(1.0, abs=0.1)


def test_clusters_that_are_the_classes_agree():
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, 90)
    points = 100.0 * np.eye(3)[label] + rng.standard_normal((90, 3))
    found = simple.agreement(points[:60], points[60:], label[60:], clusters=3)
    assert len(found) == simple.STARTS
    assert max(one["ami"] for one in found) == pytest.approx(1.0)


@pytest.mark.tf
@pytest.mark.campaign
def test_mnist_s_official_test_split(monkeypatch):
    """The mean image has error 0.0675; k-means of the pixels ends, by its start, at AMI 0.44 to 0.53."""
    c = default_config()
    c.data.name = "mnist"
    try:
        dataset = sets.load(c.data, seed=0)
    except sets.UserError:
        pytest.skip("MNIST is not prepared here")
    train, test = np.asarray(dataset.train.image), np.asarray(dataset.test.image)
    assert np.mean((test - train.mean(axis=0)) ** 2) == pytest.approx(0.0675, abs=5e-5)
    monkeypatch.setattr(simple, "STARTS", 3)
    for found in simple.agreement(train, test, np.asarray(dataset.test.label), clusters=10):
        assert 0.44 < found["ami"] < 0.54
        assert found["nmi"] == pytest.approx(found["ami"], abs=0.002)  # 10,000 points: chance is worth little
