"""Topology of covers whose answer is known: cells of points on surfaces, and signs on graphs."""

import numpy as np
import pytest

from topojax.analysis.cover import components, distances_to_cells, holes_in, make_cover, make_graph
from topojax.analysis.topology import EPSILONS, orientation, plateau
from topojax.data import manifolds


def cells(points, charts, seed=0):
    """Cells of the nearest of some points spread over the surface, and a chart of each: its tangent plane."""
    rng = np.random.default_rng(seed)
    seeds = [points[rng.integers(len(points))]]
    for _ in range(charts - 1):  # farthest first
        far = np.min([np.linalg.norm(points - s, axis=1) for s in seeds], axis=0)
        seeds.append(points[far.argmax()])
    chart = np.argmin([np.linalg.norm(points - s, axis=1) for s in seeds], axis=0)
    local = np.zeros((len(points), charts, 2), np.float32)
    for k in range(charts):
        mine = points[chart == k]
        axes = np.linalg.svd(mine - mine.mean(axis=0), full_matrices=False)[2][:2]
        local[:, k] = (points - mine.mean(axis=0)) @ axes.T
    return chart, local


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, euler",
    [("sphere_3d", 2), ("torus_3d", 0), ("moebius_3d", 0), ("klein_4d", 0), ("projective_plane_4d", 1)],
)
def test_the_euler_characteristic_of_known_surfaces(name, euler):
    points = manifolds.make(name, 5000, noise=0.0, seed=0)[0].astype(np.float64)
    graph = make_graph(points)
    chart, local = cells(points, 20)
    distance = distances_to_cells(graph, chart, 20)
    assert plateau([make_cover(graph, distance, local, size).euler for size in EPSILONS])[0] == euler


def test_a_ring_of_three_cells_has_no_inside():
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 1500)
    radius = np.random.default_rng(1).uniform(0.8, 1.0, 1500)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    graph = make_graph(points)
    chart = (angle // (2 * np.pi / 3)).astype(int)
    local = np.repeat(points[:, None], 3, axis=1).astype(np.float32)
    cover = make_cover(graph, distances_to_cells(graph, chart, 3), local, 3.0)
    assert (cover.euler, cover.counts()) == (0, [3, 3])
    # One cell alone is the ring itself, and its hole is seen in its chart.
    whole = make_cover(graph, distances_to_cells(graph, 0 * chart, 1), local[:, :1], 3.0)
    assert (whole.euler, whole.holes[(0,)]) == (0, 1)


def test_holes_are_counted_in_the_plane():
    rng = np.random.default_rng(0)
    square = rng.uniform(-1, 1, size=(3000, 2))
    assert holes_in(square) == 0
    assert holes_in(square[np.linalg.norm(square, axis=1) > 0.4]) == 1
    two = np.minimum(*(np.linalg.norm(square - c, axis=1) for c in ([0.5, 0.5], [-0.5, -0.5])))
    assert holes_in(square[two > 0.25]) == 2


def test_components_are_those_of_near_points():
    points = np.concatenate(
        [np.random.default_rng(0).normal(size=(60, 2)), np.array([[40.0, 0.0]]) + np.eye(2).repeat(15, 0)]
    )
    parts = components(make_graph(points), np.arange(90))
    assert sorted(map(len, parts)) == [30, 60]


def test_a_cycle_of_an_odd_number_of_turns_cannot_be_oriented():
    ring = [("a", "b", 1), ("b", "c", -1), ("c", "a", -1)]
    assert orientation(ring) == []
    assert len(orientation([*ring[:2], ("c", "a", 1)])) == 1
    assert orientation([("a", "b", -1), ("c", "d", -1)]) == []
    # Two overlaps of the same charts, one turned: a band with a twist.
    assert len(orientation([("a", "b", 1), ("a", "b", -1)])) == 1


def test_a_plateau_is_the_longest_run_and_has_no_rival():
    assert plateau([-9, -1, 0, 0, 0, -1, -1])[0] == 0
    assert plateau([0, 0, 0, 2, 2, 2])[0] is None
    assert plateau([1, 2, 1, 2])[0] is None
    assert plateau([3, 2, 2, 2, 2])[0] == 2
