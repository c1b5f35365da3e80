"""Synthetic points: on their manifold, labelled by where they lie, scaled, seeded."""

import numpy as np
import pytest

from topojax.data import manifolds
from topojax.errors import UserError

NAMES = list(manifolds.MANIFOLDS)


@pytest.mark.parametrize("name", NAMES)
def test_scaled_typed_and_every_class_present(name):
    points, labels = manifolds.make(name, 501, noise=0.02, seed=3)
    kind = manifolds.MANIFOLDS[name]
    assert points.shape == (501, kind.dimension)
    assert points.dtype == np.float32
    assert labels.dtype == np.int32
    np.testing.assert_allclose(points.min(axis=0), 0, atol=1e-7)
    np.testing.assert_allclose(points.max(axis=0), 1, atol=1e-7)
    assert set(labels) == set(range(kind.num_classes))


@pytest.mark.parametrize("name", NAMES)
def test_a_function_of_the_seed(name):
    one, again = (manifolds.make(name, 64, noise=0.05, seed=1) for _ in range(2))
    other = manifolds.make(name, 64, noise=0.05, seed=2)
    np.testing.assert_array_equal(one[0], again[0])
    np.testing.assert_array_equal(one[1], again[1])
    assert not np.allclose(one[0], other[0])


def test_sphere_points_lie_on_it_and_labels_are_octants():
    points, labels = manifolds.make("sphere_3d", 4000, noise=0.0, seed=0)
    # Every axis spans [-1, 1] up to the gap at the poles, about 2/4000; so 2 p - 1 has norm 1 within 1e-3.
    centred = 2 * points - 1
    np.testing.assert_allclose(np.linalg.norm(centred, axis=1), 1, atol=3e-3)
    clear = np.abs(centred).min(axis=1) > 0.01
    bits = (centred[clear] > 0).astype(int)
    np.testing.assert_array_equal(labels[clear], bits @ np.array([4, 2, 1]))
    assert np.bincount(labels, minlength=8).min() > 4000 / 8 * 0.8


def test_circles_are_concentric_with_radii_one_and_half():
    points, labels = manifolds.make("circles_2d", 1000, noise=0.0, seed=0)
    radius = np.linalg.norm(2 * points - 1, axis=1)
    np.testing.assert_allclose(radius[labels == 0], 1, atol=1e-4)
    np.testing.assert_allclose(radius[labels == 1], 0.5, atol=1e-4)


def test_roll_labels_are_bins_along_the_spiral():
    # On the spiral the radius is the angle t, so bins are shells of the radius.
    points, labels = manifolds.make("swiss_roll_2d", 4000, noise=0.0, seed=0)
    # Undo the scaling: the spiral's extremes are known, t ∈ [1.5π, 4.5π].
    t = np.linspace(1.5 * np.pi, 4.5 * np.pi, 100_000)
    spiral = np.stack([t * np.cos(t), t * np.sin(t)], axis=1)
    low, high = spiral.min(axis=0, keepdims=True), spiral.max(axis=0, keepdims=True)
    radius = np.linalg.norm(points * (high - low) + low, axis=1) / np.pi  # = t / π
    expected = np.clip((radius - 1.5) / 0.3, 0, 9.999).astype(int)
    assert (expected == labels).mean() > 0.98  # the sample's extremes are not quite the spiral's


def test_three_dimensional_forms_extend_the_plane_ones():
    roll, roll_labels = manifolds.make("swiss_roll_3d", 200, noise=0.0, seed=5)
    flat, flat_labels = manifolds.make("swiss_roll_2d", 200, noise=0.0, seed=5)
    np.testing.assert_array_equal(roll[:, ::2], flat)
    np.testing.assert_array_equal(roll_labels, flat_labels)
    sheet, sheet_labels = manifolds.make("moons_3d", 200, noise=0.0, seed=5)
    moons, moon_labels = manifolds.make("moons_2d", 200, noise=0.0, seed=5)
    np.testing.assert_array_equal(sheet[:, :2], moons)
    np.testing.assert_array_equal(sheet_labels, moon_labels)
    assert abs(np.corrcoef(sheet[:, 2], sheet_labels)[0, 1]) < 0.25  # height tells nothing of the moon


def test_noise_is_relative_to_the_extent():
    clean, _ = manifolds.make("moons_3d", 2000, noise=0.0, seed=1)
    noisy, _ = manifolds.make("moons_3d", 2000, noise=0.01, seed=1)
    # Undo the final rescale of every axis by least squares; what is left is the noise, std 0.01.
    for axis in range(3):
        slope, offset = np.polyfit(noisy[:, axis], clean[:, axis], 1)
        residual = clean[:, axis] - slope * noisy[:, axis] - offset
        assert residual.std() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf")])
def test_bad_noise_is_named(noise):
    with pytest.raises(UserError, match=f"data.noise = {noise}"):
        manifolds.make("moons_2d", 10, noise=noise, seed=0)


@pytest.mark.parametrize("name", ["torus_3d", "moebius_3d", "klein_4d", "projective_plane_4d"])
def test_surfaces_are_surfaces(name):
    """Neighbours span two directions, wherever one looks, and points lie as densely everywhere."""
    from scipy.spatial import cKDTree

    points = manifolds.MANIFOLDS[name].draw(6000, 0)[0]
    distance, near = cKDTree(points).query(points, k=13)
    offsets = points[near[:, 1:]] - points[:, None]
    strength = np.linalg.svd(offsets, compute_uv=False)
    assert np.median(strength[:, 2] / strength[:, 1]) < 0.15  # flat
    low, high = np.quantile(distance[:, 12], [0.02, 0.9])
    assert high < 2.2 * low  # by area; an edge has half its neighbours


def test_the_klein_bottle_does_not_meet_itself_and_antipodes_are_one_point():
    points = manifolds.MANIFOLDS["klein_4d"].draw(4000, 0)[0]
    radius = np.hypot(points[:, 0], points[:, 1]) - 1.0
    np.testing.assert_allclose(radius**2 + points[:, 2] ** 2 + points[:, 3] ** 2, 0.4**2, atol=1e-9)
    plane = manifolds.MANIFOLDS["projective_plane_4d"].draw(50, 3)[0]
    x, y, z = manifolds.MANIFOLDS["sphere_3d"].draw(50, 3)[0].T
    for s in (1, -1):
        again = np.stack([s * x * s * y, s * x * s * z, y**2 - z**2, 2 * y * z], axis=1)
        np.testing.assert_allclose(plane, again, atol=1e-12)
