"""What the training examples say of views and of the ball."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from topojax.data import augment, measured


def grid(side, step, dimensions):
    """A cubic grid, of which every point has a neighbour a step away."""
    axes = np.meshgrid(*[np.arange(side) * step] * dimensions, indexing="ij")
    return np.stack([axis.ravel() for axis in axes], axis=-1).astype(np.float32)


@pytest.mark.parametrize("dimensions, step", [(2, 0.1), (3, 0.25), (4, 0.02)])
def test_noise_is_the_nearest_distance_over_the_root_of_the_number_of_inputs(dimensions, step):
    points = grid(5, step, dimensions)
    assert measured.nearest(points) == pytest.approx(step, rel=1e-4)
    found = measured.ranges(points, None)
    assert found.noise_std == pytest.approx(step / dimensions**0.5, rel=1e-4)
    # Noise of this deviation moves a point by about the distance: E‖ξ‖² = X σ² = step².
    assert found[:3] == (0.0, 0.0, 0.0)  # points are neither turned, moved nor enlarged


def test_one_example_alone_has_no_neighbour():
    assert measured.ranges(np.ones((1, 3)), None) == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("largest", (0.3, 2.0))
def test_the_spread_of_a_gaussian_is_its_largest_deviation(largest):
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    deviations = largest * np.array([1.0, 0.5, 0.3, 0.2, 0.1, 0.05])
    points = rng.normal(size=(2000, 6)) * deviations @ turn.T + 7.0
    assert measured.spread(points) == pytest.approx(largest, rel=0.05)
    # By the whole decomposition, of these points:
    values = np.linalg.eigvalsh(np.cov(points.T, bias=True))
    assert measured.spread(points) == pytest.approx(values[-1] ** 0.5, rel=1e-4)
    assert measured.spread(3 * points) == pytest.approx(3 * measured.spread(points))


def test_constant_inputs_do_not_spread():
    for value in (0.0, 0.7, 1.0):
        assert measured.spread(np.full((10, 4), value)) == 0.0
        assert measured.spread(np.full((10, 4), value, np.float32)) == 0.0


def smooth(n, shape, seed=0):
    """Pictures of a few broad spots."""
    rng = np.random.default_rng(seed)
    row, column = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    out = np.zeros((n, *shape), np.float32)
    for i in range(n):
        for channel in range(shape[2]):
            y, x = rng.uniform(0.3, 0.7, 2) * shape[:2]
            out[i, ..., channel] = np.exp(-((row - y) ** 2 + (column - x) ** 2) / 6)
    return out


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 6, 3)])
@pytest.mark.parametrize(
    "strengths", [{"rotation": 0.4}, {"shift": 1.3}, {"scale": 0.25}, {"rotation": -0.2, "shift": 0.7, "scale": 0.1}]
)
def test_pictures_are_moved_as_views_move_them(shape, strengths):
    pictures = np.random.default_rng(0).uniform(size=(3, *shape)).astype(np.float32)
    ours = measured.moved(pictures, **strengths)
    angle, shift, scale = (strengths.get(name, 0.0) for name in ("rotation", "shift", "scale"))
    theirs = augment.warp(
        jnp.asarray(pictures.reshape(3, -1)),
        shape,
        jnp.full(3, angle),
        jnp.full(3, 1.0 + scale),
        jnp.full((3, 2), shift / 2**0.5),  # as far along both axes, `shift` in all
    )
    np.testing.assert_allclose(ours.reshape(3, -1), theirs, atol=1e-4)


def test_a_range_moves_pictures_as_far_as_to_the_nearest_one_and_no_farther():
    pictures = smooth(40, (10, 10, 1))
    images = pictures.reshape(40, -1)
    found = measured.ranges(images, (10, 10, 1))
    # By all distances, of each to the nearest other.
    distances = np.linalg.norm(images[:, None] - images[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    reach = np.median(distances.min(axis=1))
    assert measured.nearest(images) == pytest.approx(reach, rel=1e-4)
    assert found.noise_std == pytest.approx(reach / 10, rel=1e-4)
    most = {"rotation": 0.6, "shift": 2.5, "scale": 0.4}
    for kind, limit in most.items():

        def change(strength, kind=kind):
            difference = measured.moved(pictures, **{kind: strength}) - pictures
            return np.median(np.linalg.norm(difference.reshape(40, -1), axis=1))

        strength, step = getattr(found, kind), limit / measured.STEPS
        assert 0 < strength <= limit
        assert change(strength) <= reach
        assert strength == pytest.approx(limit) or change(strength + step) > reach
    assert found.shift < 2.5  # spots a few pixels apart: to shift all the way is too far


def test_pictures_of_which_there_are_two_of_each_may_not_be_moved_at_all():
    pictures = smooth(20, (8, 8, 1)).reshape(20, -1)
    assert measured.ranges(np.concatenate([pictures, pictures]), (8, 8, 1)) == pytest.approx((0, 0, 0, 0), abs=1e-4)


def test_as_many_neighbours_as_the_log_of_the_examples_where_none_is_everybodys():
    chance = np.random.default_rng(0)
    plane = chance.uniform(size=(500, 2))
    assert measured.neighbours(plane) == round(math.log(500))
    assert measured.neighbours(np.tile(plane, (20, 1))) == round(math.log(10_000))
    # Distances between Gaussian points in many dimensions say little, and those near the mean are near to everybody.
    assert measured.neighbours(chance.normal(size=(500, 40))) == 0


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_few_examples_have_few_neighbours(n):
    assert measured.neighbours(np.arange(3.0 * n).reshape(n, 3)) <= max(n - 1, 0)


def test_neighbours_are_surprised_as_often_as_they_are_wrong():
    points = np.concatenate([grid(10, 1.0, 2), grid(10, 1.0, 2) + 100])
    labels = np.repeat([0, 1], 100)
    e = 1 / 202
    known = -e * math.log(e) - (1 - e) * math.log(1 - e)
    assert measured.surprise(points, labels) == pytest.approx(known)
    wrong = labels.copy()
    wrong[5] = 1  # alone among others
    assert measured.surprise(points, wrong) > known
    # A label that is not known counts for nothing, and the more classes there are the less is known of them by chance.
    wrong[5] = -1
    assert measured.surprise(points, wrong) == pytest.approx(known, rel=0.02)
    chance = np.random.default_rng(0)
    assert measured.surprise(points, chance.integers(0, 10, 200)) == pytest.approx(math.log(10), rel=0.05)
    assert measured.surprise(points[:2], labels[:2]) == math.log(2)
