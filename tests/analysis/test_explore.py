"""Perturbations and ways through charts, on a restored run: what is asked for is what is done."""

import numpy as np
import pytest

import topojax
from topojax.analysis import explore
from topojax.data import sets
from topojax.errors import UserError
from topojax.scoring.split import evaluate_run
from topojax.types import Batch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(digits_run):
    return topojax.restore(digits_run)


@pytest.fixture(scope="module")
def split(run):
    return sets.load(run.config.data, seed=run.config.seed).test


@pytest.fixture(scope="module")
def points(points_run):
    return topojax.restore(points_run)


def test_a_look_is_what_the_run_and_its_evaluation_say(run, split):
    view = explore.look(run, split.image)
    seen = evaluate_run(run, split).predictions
    np.testing.assert_array_equal(view.chart, seen["chart"])
    np.testing.assert_array_equal(view.code, seen["code"])
    np.testing.assert_allclose(view.probabilities, seen["class_probability"], atol=1e-5)
    error = np.mean((view.reconstruction - view.image) ** 2, axis=1)
    np.testing.assert_allclose(error, seen["squared_error"], rtol=1e-4)


@pytest.mark.slow
def test_without_labels_in_training_probabilities_are_the_readout_s(points):
    x = sets.load(points.config.data, seed=points.config.seed).test.image[:5]
    seen = evaluate_run(points, Batch(x, np.zeros(5, np.int32))).predictions
    np.testing.assert_allclose(explore.look(points, x).probabilities, seen["readout_probability"], atol=1e-5)


def test_images_and_rows_are_the_same_inputs(run, split):
    rows = explore.look(run, split.image[:3])
    images = explore.look(run, np.asarray(split.image[:3]).reshape(3, 8, 8, 1))
    for a, b in zip(rows, images, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_right_angle_is_a_transposition_clockwise_and_no_angle_is_nothing(run, split):
    x = np.asarray(split.image[:2])
    change = explore.rotate(run, x, [0.0, 90.0])
    np.testing.assert_allclose(change.after.image[0], x[0], atol=1e-6)
    np.testing.assert_allclose(change.after.image[1].reshape(8, 8), np.rot90(x[1].reshape(8, 8), -1), atol=1e-5)
    np.testing.assert_array_equal(change.before.image, x)


def test_noise_has_its_standard_deviation_and_seed(run, split):
    x = np.asarray(split.image)
    change, again, other = (explore.noise(run, x, 0.3, seed=seed) for seed in (0, 0, 1))
    assert np.std(change.after.image - x) == pytest.approx(0.3, rel=0.05)
    np.testing.assert_array_equal(change.after.image, again.after.image)
    assert not np.array_equal(change.after.image, other.after.image)
    np.testing.assert_array_equal(explore.noise(run, x, 0.0).after.image, x)


@pytest.mark.parametrize(
    "top, left, size, rows, columns",
    [(2, 3, 4, (2, 6), (3, 7)), (-1, 6, 3, (0, 2), (6, 8)), (0, 0, 99, (0, 8), (0, 8))],
)
def test_a_square_is_covered_and_nothing_else(run, split, top, left, size, rows, columns):
    x = np.asarray(split.image[:2])
    expected = x.reshape(-1, 8, 8).copy()
    expected[:, slice(*rows), slice(*columns)] = 0.5
    after = explore.occlude(run, x, top=top, left=left, size=size, value=0.5).after.image
    np.testing.assert_array_equal(after.reshape(-1, 8, 8), expected)


def test_an_interpolation_ends_at_its_ends(run, split):
    a, b = split.image[0], split.image[1]
    path = explore.interpolate(run, a, b, steps=5, chart=2)
    ends = run.encode(np.stack([a, b]))
    np.testing.assert_allclose(path.z[[0, -1]], ends.z_geo, atol=1e-6)
    np.testing.assert_allclose(path.z[2], ends.z_geo.mean(axis=0), atol=1e-6)
    drawn = run.decode(ends.z_geo, ends.z_tex, chart=2).x_hat
    np.testing.assert_allclose(path.image[[0, -1]], drawn, atol=1e-5)
    assert explore.interpolate(run, a, b).chart == ends.chart[0]


def test_a_traverse_moves_along_one_axis_around_the_codes(run):
    codes = explore.codes(run, 1)
    path = explore.traverse(run, 1, axis=1, steps=5)
    middle = (codes.min(axis=0) + codes.max(axis=0)) / 2
    np.testing.assert_allclose(path.z[:, 0], middle[0], atol=1e-6)
    np.testing.assert_allclose(path.z[2], middle, atol=1e-6)
    assert path.z[0, 1] < codes[:, 1].min()
    assert path.z[-1, 1] > codes[:, 1].max()
    given = explore.traverse(run, 1, center=[0.1, 0.2], extent=0.5, steps=3)
    np.testing.assert_allclose(given.z, [[-0.4, 0.2], [0.1, 0.2], [0.6, 0.2]], atol=1e-6)


def test_a_grid_is_the_chart_decoded_where_it_says(run):
    grid = explore.grid(run, 3, size=4)
    assert grid.image.shape == (4, 4, 64)
    assert (np.diff(grid.z[..., 0], axis=1) > 0).all()  # to the right
    assert (np.diff(grid.z[..., 1], axis=0) < 0).all()  # from the top
    flat = grid.z.reshape(16, 2)
    np.testing.assert_allclose(grid.image.reshape(16, 64), run.decode(flat, chart=3).x_hat, atol=1e-6)
    np.testing.assert_array_equal(grid.own.reshape(16), run.decode(flat).router.argmax(axis=1))


def test_codes_lie_at_the_centre_and_their_offset(run):
    encoder = run.weights["encoder"]
    for chart in range(4):
        expected = np.asarray(encoder["centers"])[chart] + np.asarray(encoder["codebook"])[chart]
        np.testing.assert_allclose(explore.codes(run, chart), expected, atol=1e-6)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda run, x: explore.rotate(run, x, np.nan), "degrees must be one finite number or"),
        (lambda run, x: explore.rotate(run, x, [1.0, 2.0]), r"or \[3\] of them"),
        (lambda run, x: explore.noise(run, x, -0.1), "std = -0.1 must be"),
        (lambda run, x: explore.occlude(run, x, top=8, left=0, size=2), r"does not meet images of 8 × 8"),
        (lambda run, x: explore.occlude(run, x, top=0, left=0, size=0), "a square of 0"),
        (lambda run, x: explore.interpolate(run, x[0], x[1], steps=1), "at least 2"),
        (lambda run, x: explore.interpolate(run, x[0], x[1], chart=4), r"chart must lie in \[0, 4\)"),
        (lambda run, x: explore.traverse(run, 4), r"chart must lie in \[0, 4\)"),
        (lambda run, x: explore.traverse(run, 0, axis=2), r"axes = \(2,\) must lie in \[0, 2\)"),
        (lambda run, x: explore.traverse(run, 0, extent=-1.0), "extent = -1.0 must be"),
        (lambda run, x: explore.grid(run, 0, size=1), "size = 1"),
        (lambda run, x: explore.grid(run, 0, axes=(1, 1)), "two different axes"),
        (lambda run, x: explore.grid(run, 0, center=[0.0]), r"must be \[2\]"),
        (lambda run, x: explore.look(run, x[:, :10]), "inputs have shape"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(run, split, call, said):
    with pytest.raises(UserError, match=said):
        call(run, np.asarray(split.image[:3]))


@pytest.mark.slow
def test_points_in_space_are_no_images(points):
    x = np.full((2, 3), 0.5, np.float32)
    with pytest.raises(UserError, match="nothing to rotate"):
        explore.rotate(points, x, 10.0)
    with pytest.raises(UserError, match="nothing to occlude"):
        explore.occlude(points, x, top=0, left=0, size=1)
    assert explore.noise(points, x, 0.1).after.image.shape == (2, 3)
