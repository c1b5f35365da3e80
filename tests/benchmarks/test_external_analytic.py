"""Problems whose solution is known, what a run on them is worth, and work that goes on where it was stopped."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topojax.benchmarks.external import analytic, overhead
from topojax.benchmarks.external.analytic_ours import ours
from topojax.benchmarks.external.analytic_problems import problems
from topojax.benchmarks.external.analytic_scores import rank, score
from topojax.benchmarks.external.jobs import Job, work
from topojax.errors import UserError

PROBLEMS = problems()


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_solution_satisfies_the_conditions_of_karush_kuhn_and_tucker(name):
    problem = PROBLEMS[name]
    x, multipliers = jnp.asarray(problem.solution, jnp.float32), jnp.asarray(problem.multipliers, jnp.float32)
    slope = jax.grad(lambda x: problem.loss(jnp, x) + multipliers @ problem.violation(jnp, x))(x)
    violation = problem.violation(jnp, x)
    assert jnp.abs(slope).max() < 1e-5
    if problem.equality:
        assert jnp.abs(violation).max() < 1e-5
    else:
        assert violation.max() < 1e-5
        assert multipliers.min() >= 0
        assert jnp.abs(multipliers * violation).max() < 1e-5


def test_the_die_is_the_tutorial_s():
    np.testing.assert_allclose(
        np.exp(PROBLEMS["die"].solution), [0.05435, 0.07877, 0.1142, 0.1654, 0.2398, 0.3475], atol=5e-5
    )


@pytest.mark.parametrize("mechanism", ["default", "nupi", "augmented"])
def test_our_mechanisms_reach_the_multipliers(mechanism):
    problem = PROBLEMS["plane"]
    gains = {"default": (), "nupi": (0.01, 10.0, 0.0), "augmented": (1.0, 0.03)}[mechanism]
    multipliers, x = ours(problem, mechanism, np.array([gains, gains], np.float32).reshape(2, -1))
    assert multipliers.shape == (2, problem.steps, 2)
    found = score(multipliers[0], x[0], problem.multipliers, problem.solution)
    assert found.multiplier < 1e-3
    assert found.overshoot <= 0.2


@pytest.mark.skipif(importlib.util.find_spec("cooper") is None, reason="needs the extra 'external'")
@pytest.mark.parametrize("mechanism", ["simultaneous", "alternating"])
def test_cooper_s_plain_ascent_is_ours_step_for_step(mechanism):
    from topojax.benchmarks.external.analytic_peers import cooper

    problem = PROBLEMS["equal"]
    theirs, x = cooper(problem, mechanism, (0.01,))
    mine, own = ours(problem, mechanism, np.array([[0.01]], np.float32))
    np.testing.assert_allclose(mine[0], theirs, atol=1e-4)
    np.testing.assert_allclose(own[0], x, atol=1e-4)


def test_a_score_says_how_far_beyond_and_how_soon():
    path = np.array([[0.0, 0.0], [2.4, 0.0], [2.2, -1.0], [1.97, -1.0], [2.0005, -1.0004]])
    found = score(path, np.array([0.5]), np.array([2.0, -1.0]), np.array([0.4]))
    assert found.multiplier == pytest.approx(5e-4)
    assert found.solution == pytest.approx(0.1)
    assert found.overshoot == pytest.approx(0.2)
    assert (found.settled, found.reached) == (4, 5)
    never = score(path[:3], np.array([0.5]), np.array([2.0, -1.0]), np.array([0.4]))
    assert never.settled == 4  # one more than there are
    bad = score(np.array([[np.inf]]), np.array([0.0]), np.array([1.0]), np.array([0.0]))
    assert not np.isfinite(bad.multiplier)
    assert rank(found) < rank(bad)


def test_a_miss_is_named():
    base = {"gains": [], "steps": 9, "multiplier": 1e-4, "solution": 0.0, "overshoot": 0.1, "settled": 5, "reached": 5}
    records = {"p/topojax/nupi": base, "p/cooper/nupi": base | {"settled": 2}}
    assert analytic.misses(records) == ["p, ν-PI: settled after 5 steps, cooper after 2"]
    records["p/cooper/nupi"] = base | {"settled": 3}
    assert analytic.misses(records) == []
    records["p/topojax/pi"] = base | {"multiplier": 2e-3, "overshoot": 0.25}
    assert len(analytic.misses(records)) == 2


def test_every_gain_of_a_mechanism_is_one_choice():
    for mechanism, gains in analytic.GAINS.items():
        assert len(set(gains)) == len(gains), mechanism
    asked = [key for job in analytic.jobs({}) for key in job.keys]
    assert len(set(asked)) == len(asked)


def test_work_that_was_stopped_goes_on(tmp_path):
    path, ran = tmp_path / "deep" / "part.jsonl", []

    def jobs(records):
        for name in ("a", "b", "c"):
            yield Job((name,), lambda name=name: [{"value": ran.append(name) or len(ran)}])

    done, whole = work(jobs, path, seconds=-1.0)
    assert (done, whole, ran) == ({}, False, [])
    path.write_text(json.dumps({"key": "b", "value": 7}) + "\n")
    done, whole = work(jobs, path, seconds=60.0)
    assert whole
    assert ran == ["a", "c"]
    assert done["b"]["value"] == 7
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["b", "a", "c"]
    work(jobs, path, seconds=60.0)
    assert ran == ["a", "c"]


def test_what_is_not_installed_is_left_out_with_one_line(tmp_path, capsys):
    def lacking():
        raise UserError("a comparison needs the extra 'external'")

    def jobs(records):
        yield Job(("a",), lacking)
        yield Job(("b",), lacking)
        yield Job(("c",), lambda: [{"value": 1}])

    done, whole = work(jobs, tmp_path / "part.jsonl", seconds=60.0)
    assert whole
    assert set(done) == {"c"}
    assert capsys.readouterr().err == "left out: a comparison needs the extra 'external'\n"


def test_overhead_is_measured_with_and_without_multipliers():
    found = overhead.measure(3, rounds=1, calls=2)
    assert found["topojax"]["step"] > found["topojax in a scan"]["step"] > 0
    assert set(found) <= set(overhead.LIBRARIES)


@pytest.mark.parametrize("scanned, words", [(0.01, "kept"), (0.011, "missed")])
def test_the_overhead_s_bar_is_a_tenth_of_cooper_s(scanned, words):
    times = {"topojax": 0.02, "topojax in a scan": scanned, "cooper": 0.1}
    record = {name: {"step": 0.3, "overhead": overhead_ms} for name, overhead_ms in times.items()}
    assert overhead.markdown({"1000": record}).endswith(f"from Python missed, in a scan {words}.")


def test_others_are_tried_near_what_was_picked():
    gains = [(0.1, 1.0), (0.1, 10.0), (0.3, 1.0), (0.3, 10.0), (1.0, 1.0), (1.0, 10.0)]
    assert analytic.near(gains, (0.1, 1.0)) == gains[:4]
    assert analytic.near(gains, (0.3, 10.0)) == gains
    assert analytic.near([(0.1,), (0.2,), (0.3,)], (0.3,)) == [(0.2,), (0.3,)]


def test_the_page_says_how_much_of_cooper_it_has():
    row = {"gains": [1.0], "steps": 9, "multiplier": 0.0, "solution": 0.0, "overshoot": 0.0, "settled": 1, "reached": 1}
    assert "Cooper was run to the end in 1 of 36 rows" in analytic.markdown({"die/cooper/simultaneous": row})
