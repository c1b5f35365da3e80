"""Burgers' equation: the exact solution, the network's derivatives, and what an arm does in a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topojax.benchmarks.external import burgers
from topojax.benchmarks.external.burgers_arms import ARMS, Numbers, cells, layers, stepper
from topojax.benchmarks.external.burgers_network import (
    BOUNDARY,
    INITIAL,
    INSIDE,
    VISCOSITY,
    Points,
    draw,
    initial_layers,
    jet,
    value,
)
from topojax.benchmarks.external.burgers_reference import error, exact, grid

pytestmark = pytest.mark.slow


def test_the_steepest_slope_is_the_published_one():
    """Basdevant et al. (1986): |u_x| reaches 152.00516 at x = 0, at πt = 1.6037."""
    t, h = 1.6037 / np.pi, 1e-6
    slope = (exact(np.array(h), np.array(t)) - exact(np.array(-h), np.array(t))) / (2 * h)
    assert slope == pytest.approx(-152.00516, abs=2e-3)


def test_the_exact_solution_begins_as_it_should_and_solves_the_equation():
    x = np.linspace(-1, 1, 41)
    np.testing.assert_allclose(exact(x, 0.0), -np.sin(np.pi * x), atol=1e-12)
    np.testing.assert_allclose(exact(np.array([-1.0, 0.0, 1.0]), 0.7), 0, atol=1e-12)
    x, t, h = np.array([-0.6, -0.2, 0.3, 0.8]), 0.4, 1e-4
    u, left, right = exact(x, t), exact(x - h, t), exact(x + h, t)
    u_t = (exact(x, t + h) - exact(x, t - h)) / (2 * h)
    over = u_t + u * (right - left) / (2 * h) - VISCOSITY * (right - 2 * u + left) / h**2
    assert np.abs(over).max() < 1e-4


def test_the_grid_is_the_notebook_s():
    points, u = grid()
    assert points.shape == (25_600, 2)
    assert points[0] == pytest.approx([-1 + 1 / 256, 0])
    assert points[-1] == pytest.approx([1 - 1 / 256, 1])
    assert error(jax.tree.map(jnp.zeros_like, initial_layers(jax.random.key(0)))) == pytest.approx((u**2).mean())


def test_derivatives_are_those_of_nested_differentiation():
    network, points = initial_layers(jax.random.key(1)), draw(jax.random.key(0)).inside[:9]

    def u(point):
        return value(network, point[None])[0]

    slope, curvature = jax.vmap(jax.grad(u))(points), jax.vmap(jax.hessian(u))(points)
    wanted = (jax.vmap(u)(points), slope[:, 0], curvature[:, 0, 0], slope[:, 1])
    for found, want in zip(jet(network, points), wanted, strict=True):
        np.testing.assert_allclose(found, want, atol=2e-6)


def test_points_are_one_in_each_cell():
    points = draw(jax.random.key(3))
    for column, low, high in ((0, -1, 1), (1, 0, 1)):
        place = np.floor((np.asarray(points.inside[:, column]) - low) / (high - low) * INSIDE).astype(int)
        assert len(set(place.clip(0, INSIDE - 1))) >= 0.99 * INSIDE  # float32 puts a few on an edge
    index = jax.tree.map(np.asarray, cells(points))
    assert sorted(index["initial"]) == list(range(INITIAL))
    assert sorted(index["boundary"] % BOUNDARY) == list(range(BOUNDARY))
    assert (index["boundary"] >= BOUNDARY).sum() == BOUNDARY // 2
    edge = Points(points.inside, jnp.array([[1.0, 1.0]]), jnp.array([[1.0, 0.0]]))
    assert jax.tree.map(list, cells(edge)) == {"boundary": [2 * BOUNDARY - 1], "initial": [INITIAL - 1]}


@pytest.fixture(scope="module")
def steps():
    """The network after a step of each arm, from the same start."""
    numbers = Numbers(jnp.float32(1e-3), jnp.float32(1), jnp.float32(1))
    points, after = draw(jax.random.key(0)), {}
    for name in ("search", "contracts", "ratios", "contracts_governed"):
        begin, step = stepper(ARMS[name], numbers)
        start = begin(jax.random.key(2))
        after[name] = (layers(ARMS[name], start), jax.jit(step)(start, points))
    return points, after


def test_contracts_begin_as_the_plain_sum(steps):
    """Multipliers of 0 and ½ · 2 e²: the first step is that of the summed losses."""
    _, after = steps
    summed, contracts = (layers(ARMS[name], after[name][1]) for name in ("search", "contracts"))
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), summed, after["search"][0])
    assert max(jax.tree.leaves(moved)) == pytest.approx(1e-3, rel=1e-3)  # Adam's first step
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), summed, contracts)


def test_multipliers_move_by_what_the_contract_is_off(steps):
    points, after = steps
    start, state = after["contracts"]
    off = value(start, points.initial) + jnp.sin(jnp.pi * points.initial[:, 0])
    duals = state.duals.groups[1].state.dual.weight
    np.testing.assert_allclose(duals[cells(points)["initial"]], 0.01 * off, rtol=1e-4, atol=1e-7)


def test_a_governed_arm_moves_without_a_rate(steps):
    start, state = steps[1]["contracts_governed"]
    assert float(jnp.abs(state.params[0][0] - start[0][0]).max()) > 0


def _records(error_of):
    runs = [(s, seed) for s in (*burgers.SEARCHED, *burgers.GOVERNED) for seed in burgers.SEEDS]
    return {
        s.key(seed): {**s._asdict(), "seed": seed, "error": error_of(s), "errors": [error_of(s)], "device": "cpu"}
        for s, seed in runs
    }


@pytest.mark.parametrize("ours, words", [(1.4e-4, "kept, × 1.4"), (1.6e-4, "missed, × 1.6"), (6e-4, "missed, 0.0006")])
def test_the_bars_are_held_against_the_best_of_the_search(ours, words):
    def error_of(setting):
        return ours if setting.arm == "contracts_governed" else 1e-4 * (1 + setting.weight - 0.1 + setting.rate - 1e-4)

    assert words in burgers.markdown(_records(error_of))


def test_the_search_goes_on_with_its_three_best():
    records = _records(lambda s: None if s.rate == 3e-2 else 1 / (s.weight + s.rate))
    assert [s[1:] for s in burgers.found_by_hand(records)] == [(r, True, 30.0) for r in (1e-2, 3e-3, 1e-3)]
    some = {key: one for key, one in records.items() if one["seed"] == 0 or one["arm"] != "search"}
    asked = [key for job in burgers.jobs(some) for key in job.keys if key.startswith("search") and key not in some]
    assert len(asked) == 3 * 4
    assert burgers.found_by_hand({}) == []
