"""Topology of covers whose answer is known: cells of points on surfaces, and signs on graphs."""

import numpy as np
import pytest

from topojax.analysis.cover import components, distances_to_cells, holes_in, make_cover, make_graph
from topojax.analysis.gluing import Charted
from topojax.analysis.orientation import Nerve, cohomology, decode
from topojax.analysis.topology import EPSILONS, nerve_of, plateau
from topojax.data import manifolds


def cells(points, charts, seed=0):
    """Cells of the nearest of some points spread over the surface, and its chart: the tangent plane, or its mirror."""
    rng = np.random.default_rng(seed)
    seeds = [points[rng.integers(len(points))]]
    for _ in range(charts - 1):  # farthest first
        far = np.min([np.linalg.norm(points - s, axis=1) for s in seeds], axis=0)
        seeds.append(points[far.argmax()])
    chart = np.argmin([np.linalg.norm(points - s, axis=1) for s in seeds], axis=0)
    local, planes = np.zeros((len(points), charts, 2), np.float32), []
    for k in range(charts):
        mine = points[chart == k]
        axes = np.linalg.svd(mine - mine.mean(axis=0), full_matrices=False)[2][:2]
        axes = axes[:: rng.choice([-1, 1])]
        local[:, k] = (points - mine.mean(axis=0)) @ axes.T
        planes.append(axes)
    return chart, local, np.array(planes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "euler", "orientable"),
    [
        ("sphere_3d", 2, True),
        ("torus_3d", 0, None),  # so few tangent planes fold over its tube; a torus without folds is below
        ("moebius_3d", 0, False),
        ("klein_4d", 0, None),
        ("projective_plane_4d", 1, False),
    ],
)
def test_known_surfaces(name, euler, orientable):
    points = manifolds.make(name, 5000, noise=0.0, seed=0)[0].astype(np.float64)
    graph = make_graph(points)
    chart, local, planes = cells(points, 20)
    distance = distances_to_cells(graph, chart, 20)
    covers = [make_cover(graph, distance, local, size) for size in EPSILONS]
    assert plateau([cover.euler for cover in covers])[0] == euler
    if orientable is None:
        return
    near = graph.points[graph.neighbours] - graph.points[:, None]
    frame = np.linalg.svd(near, full_matrices=False)[2][:, :2].transpose(0, 2, 1)
    turns = np.linalg.det(np.einsum("ndx,pxe->pnde", planes, frame))
    found = Charted(chart, np.eye(20)[chart], local, turns, frame)
    for cover in covers[1:4]:
        nerve, signs, sure = nerve_of(cover, found)
        assert decode(nerve, signs, 2 * sure - 1).orientable is orientable


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


def band(charts, twist):
    """A ring of charts without an inside, so that its one hole may be gone around; and its signs."""
    edges = np.array([[i, (i + 1) % charts] for i in range(charts)])
    signs = np.ones(charts)
    signs[0] = -1 if twist else 1
    return Nerve(charts, edges, np.zeros((0, 3), int)), signs


@pytest.mark.parametrize("twist", [False, True])
def test_a_band_is_oriented_unless_it_is_twisted(twist):
    nerve, signs = band(12, twist)
    said = decode(nerve, signs, np.ones(12))
    assert (said.orientable, said.classes) == (not twist, 2)
    mirrored = signs * np.where((nerve.edges == 5).any(axis=1), -1, 1)  # a chart turned over changes nothing
    assert decode(nerve, mirrored, np.ones(12)) == said
    assert said.unexplained == (1 / 12 if twist else 0)


def test_a_hole_that_is_filled_has_no_class_and_wrong_signs_do_not_make_one():
    ring, signs = band(3, True)
    assert len(cohomology(ring)) == 1
    disc = ring._replace(triangles=np.array([[0, 1, 2]]))
    assert cohomology(disc) == []
    assert decode(disc, signs, np.ones(3)).orientable is None  # a third of the signs is wrong: nothing is said
    assert decode(disc, signs, np.array([0.1, 5.0, 5.0])).orientable is True  # one that nobody trusts


def closed(n, *, twisted):
    """A square grid with its diagonals, closed to a torus or a Klein bottle, and the signs of its edges."""

    def vertex(i, j):  # across the seam a Klein bottle is turned over
        turned = twisted and not 0 <= i < n
        return (i % n) * n + (-j if turned else j) % n

    sides = ((1, 0), (0, 1), (1, 1))
    edges, signs, at = [], [], {}
    for i in range(n):
        for j in range(n):
            for k, (a, b) in enumerate(sides):
                at[i, j, k] = len(edges)
                edges.append((vertex(i, j), vertex(i + a, j + b)))
                signs.append(-1 if twisted and i + a == n else 1)

    def edge(i, j, k):
        if not (twisted and i == n):
            return at[i % n, j % n, k]
        return at[0, (-j - 1) % n, k]  # the only sides that are asked for there go along the seam

    triangles = []
    for i in range(n):
        for j in range(n):
            triangles.append([at[i, j, 0], edge(i + 1, j, 1), at[i, j, 2]])
            triangles.append([at[i, j, 1], at[i, (j + 1) % n, 0], at[i, j, 2]])
    return Nerve(n * n, np.array(edges), np.array(triangles)), np.array(signs)


@pytest.mark.parametrize("twisted", [False, True])
def test_a_torus_is_told_from_a_klein_bottle_though_signs_are_wrong(twisted):
    nerve, signs = closed(6, twisted=twisted)
    assert len(cohomology(nerve)) == 2
    rng = np.random.default_rng(0)
    signs = signs * np.prod(np.where(rng.uniform(size=36) < 0.5, -1, 1)[nerve.edges], axis=1)  # charts turned over
    said = decode(nerve, signs, np.ones(len(signs)))
    assert said.orientable is not twisted
    assert min(said.unexplained, said.twisted) == 0
    wrong = rng.choice(len(signs), 3, replace=False)
    signs[wrong] *= -1
    assert decode(nerve, signs, np.ones(len(signs))).orientable is not twisted


def test_two_overlaps_of_the_same_charts():
    twice = Nerve(2, np.array([[0, 1], [0, 1]]), np.zeros((0, 3), int))
    assert decode(twice, np.array([1, -1]), np.ones(2)).orientable is False
    assert decode(twice, np.array([-1, -1]), np.ones(2)).orientable is True


def test_a_plateau_is_the_longest_run_and_has_no_rival():
    assert plateau([-9, -1, 0, 0, 0, -1, -1])[0] == 0
    assert plateau([0, 0, 0, 2, 2, 2])[0] is None
    assert plateau([1, 2, 1, 2])[0] is None
    assert plateau([3, 2, 2, 2, 2])[0] == 2
