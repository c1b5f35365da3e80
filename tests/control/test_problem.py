"""Problems of contracts: terms and multipliers against numbers worked out by hand, and what holds of any of them."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topojax import control as tc


def line(problem, duals, name):
    return problem.report(duals)[name]


def test_signs_scales_and_terms_by_hand():
    problem = tc.contracts(
        low=tc.at_most(2.0, dual=tc.ascent(0.5), scale=4.0, initial=1.0),
        high=tc.at_least(2.0, dual=tc.ascent(0.5), initial=1.0),
        same=tc.equal(2.0, dual=tc.ascent(0.5)),
    )
    duals = problem.init()
    measured = {"low": 4.0, "high": 4.0, "same": 1.0}
    # low (4 − 2)/4 = 0.5, high 2 − 4 = −2, same 1 − 2 = −1 with a multiplier of 0
    assert float(problem.lagrangian(duals, 10.0, measured)) == pytest.approx(10 + 0.5 - 2.0)
    duals = problem.update(duals, measured, dt=0.1)
    told = problem.multipliers(duals)
    assert told["low"] == pytest.approx(1 + 0.5 * 0.1 * 0.5)
    assert told["high"] == pytest.approx(1 - 0.5 * 0.1 * 2)
    assert told["same"] == pytest.approx(-0.5 * 0.1)
    assert len(problem.groups) == 1  # one law: one vector


def test_a_band_pushes_at_the_side_that_is_violated():
    problem = tc.contracts(band=tc.between(0.1, 0.3, dual=tc.ascent(1.0)))
    duals = problem.update(problem.init(), {"band": 0.5})
    assert problem.multipliers(duals)["band"] == (0.0, pytest.approx(0.2))
    assert jax.grad(lambda m: problem.lagrangian(duals, 0.0, {"band": m}))(0.5) == pytest.approx(0.2)
    duals = problem.update(problem.init(), {"band": 0.05})
    assert problem.multipliers(duals)["band"] == (pytest.approx(0.05), 0.0)
    assert jax.grad(lambda m: problem.lagrangian(duals, 0.0, {"band": m}))(0.05) == pytest.approx(-0.05)
    assert line(problem, duals, "band").relation == ">="


def test_the_augmented_term_and_its_growth_by_hand():
    penalty = tc.augmented(2.0, growth=3.0, maximum=10.0)
    problem = tc.contracts(
        b=tc.at_most(0.0, dual=tc.ascent(0.1), penalty=penalty, initial=1.0),
        e=tc.equal(0.0, dual=tc.ascent(0.1), penalty=penalty, initial=1.0),
    )
    duals = problem.init()
    # inequality (max(0, 1 + 2·0.5)² − 1)/4, equality 0.5 + ½·2·0.25
    assert problem.lagrangian(duals, 0.0, {"b": 0.5, "e": 0.5}) == pytest.approx(0.75 + 0.75)
    # deep inside what is allowed the term is flat: (0 − 1)/4
    assert jax.grad(lambda m: problem.lagrangian(duals, 0.0, {"b": m, "e": 0.0}))(-5.0) == 0
    duals = problem.update(duals, {"b": 0.5, "e": 0.5})
    assert duals.groups[0].state.coefficient.tolist() == [2.0, 2.0]  # nothing to compare with yet
    assert problem.multipliers(duals) == {"b": pytest.approx(1.05), "e": pytest.approx(1.05)}
    duals = problem.update(duals, {"b": 0.6, "e": 0.1})
    assert duals.groups[0].state.coefficient.tolist() == [6.0, 2.0]
    # λ follows c: 0.1 · 0.5 · 6/2
    duals = problem.update(duals, {"b": 0.5, "e": 0.0})
    assert problem.multipliers(duals)["b"] == pytest.approx(1.05 + 0.06 + 0.15)
    duals = problem.update(duals, {"b": 0.6, "e": 0.0})
    assert duals.groups[0].state.coefficient.tolist() == [10.0, 2.0]


def test_a_penalty_alone_has_no_multiplier():
    problem = tc.contracts(b=tc.at_most(1.0, dual=None, penalty=tc.augmented(4.0)))
    duals = problem.update(problem.init(), {"b": 3.0})
    assert problem.multipliers(duals)["b"] == 0
    assert problem.lagrangian(duals, 0.0, {"b": 3.0}) == pytest.approx(0.5 * 4 * 4)
    with pytest.raises(ValueError, match="dual=None needs a penalty"):
        tc.at_most(1.0, dual=None)


def test_any_optax_transform_moves_a_multiplier():
    problem = tc.contracts(
        sgd=tc.at_most(1.0, dual=optax.sgd(0.5)), adam=tc.at_least(1.0, shape=(3,), dual=optax.adam(0.1))
    )
    duals = problem.update(problem.init(), {"sgd": 3.0, "adam": jnp.array([0.0, jnp.nan, 0.5])})
    told = problem.multipliers(duals)
    assert told["sgd"] == pytest.approx(1.0)
    np.testing.assert_allclose(told["adam"], [0.1, 0.0, 0.1], rtol=1e-5)
    assert line(problem, duals, "adam").frozen == 1
    before = jax.tree.leaves(duals.groups[1].state.dual)
    duals = problem.update(duals, {"sgd": 3.0, "adam": None})
    for one, other in zip(before, jax.tree.leaves(duals.groups[1].state.dual), strict=True):
        np.testing.assert_array_equal(one, other)


def test_measurements_come_in_the_structure_of_the_bound():
    bound = {"a": 1.0, "b": np.ones((2, 2))}
    problem = tc.contracts(tree=tc.at_most(bound, dual=tc.ascent(1.0), scale={"a": 2.0, "b": np.ones((2, 2))}))
    measured = {"a": 2.0, "b": jnp.array([[0.0, 2.0], [1.0, 3.0]])}
    told = problem.multipliers(problem.update(problem.init(), {"tree": measured}))["tree"]
    assert told["a"] == 0.5
    np.testing.assert_array_equal(told["b"], [[0.0, 1.0], [0.0, 2.0]])


def test_a_proxy_is_differentiated_and_the_strict_value_counts():
    problem = tc.contracts(accuracy=tc.at_least(0.9, dual=tc.ascent(1.0), initial=2.0))
    duals = problem.init()
    slope = jax.grad(lambda m: problem.lagrangian(duals, 0.0, {"accuracy": tc.Proxy(value=3 * m, strict=0.8)}))(0.1)
    assert slope == -6.0
    duals = problem.update(duals, {"accuracy": tc.Proxy(value=0.3, strict=0.8)})
    assert problem.multipliers(duals)["accuracy"] == pytest.approx(2.1)


def test_examples_have_multipliers_of_their_own():
    problem = tc.contracts(margin=tc.at_least(0.1, per_example=5, dual=tc.ascent(1.0)))
    duals, index = problem.init(), {"margin": jnp.array([3, 1, 3])}
    update = jax.jit(lambda duals, m, i: problem.update(duals, {"margin": m}, index={"margin": i}))
    duals = update(duals, jnp.array([0.0, 0.2, -0.1]), index["margin"])
    # example 3 was seen twice, with errors 0.1 and 0.2: once their mean
    np.testing.assert_allclose(problem.multipliers(duals)["margin"], [0, 0, 0, 0.15, 0], rtol=1e-6)
    loss = problem.lagrangian(duals, 0.0, {"margin": jnp.array([0.0, 0.0, 0.0])}, index=index)
    assert loss == pytest.approx((0.015 + 0.015) / 3)
    after = update(duals, jnp.array([0.0, 0.0, 0.0]), jnp.array([-1, 5, 9]))  # traced: what points nowhere is dropped
    for one, other in zip(jax.tree.leaves(duals), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(one, other)


def test_slow_measurements_are_averaged_and_missing_ones_leave_everything_alone():
    problem = tc.contracts(
        slow=tc.at_most(0.0, dual=tc.ascent(0.1), every=3), fast=tc.at_most(0.0, dual=tc.ascent(0.1))
    )
    duals = problem.init()
    for value in (1.0, 2.0):
        duals = problem.update(duals, {"slow": value, "fast": None})
    assert problem.multipliers(duals) == {"slow": 0.0, "fast": 0.0}
    duals = problem.update(duals, {"slow": 3.0, "fast": None})
    assert problem.multipliers(duals)["slow"] == pytest.approx(3 * 0.1 * 2.0)  # their mean, over three updates' time
    assert np.isnan(line(problem, duals, "fast").value)


def test_what_is_not_finite_freezes_its_multiplier_alone():
    problem = tc.contracts(a=tc.at_most(1.0, initial=1.0), b=tc.at_most(1.0, initial=1.0), c=tc.between(0.0, 1.0))
    duals = problem.init()
    for bad in (np.nan, np.inf, -np.inf):
        measured = {"a": bad, "b": 2.0, "c": 0.5}
        assert problem.lagrangian(duals, 1.0, measured) == problem.lagrangian(duals, 1.0, measured | {"a": None})
        duals = problem.update(duals, measured)
    assert problem.multipliers(duals)["a"] == 1.0
    assert problem.multipliers(duals)["b"] > 1.0
    assert line(problem, duals, "a").frozen == 3
    assert line(problem, duals, "b").frozen == 0


def test_the_verdicts_of_a_report():
    problem = tc.contracts(
        hopeless=tc.at_most(0.0, dual=tc.ascent(1.0), maximum=2.0, patience=3),
        kept=tc.at_most(5.0),
        parts=tc.at_least(1.0, shape=(3,)),
    )
    duals = problem.init()
    for _ in range(4):
        duals = problem.update(duals, {"hopeless": 1.0, "kept": 4.0, "parts": jnp.array([0.0, 2.0, 3.0])})
    hopeless, kept, parts = problem.report(duals).lines
    assert (hopeless.satisfied, hopeless.saturated, hopeless.multiplier) == (False, True, 2.0)
    assert (kept.satisfied, kept.saturated, kept.value, kept.target) == (True, False, 4.0, 5.0)
    assert (parts.satisfied, parts.holding, parts.entries, parts.value) == (False, 2, 3, 0.0)
    table = str(problem.report(duals)).splitlines()
    assert len(table) == 4
    assert table[0].split() == ["contract", "value", "target", "multiplier", "satisfied", "saturated"]


def test_precisions_and_ratios_stand_in_the_same_problem():
    problem = tc.contracts(noise=tc.likelihood(dims=4.0, lag=0.0), part=tc.balanced(0.5, lag=0.0), norm=tc.at_most(1.0))
    duals = problem.init()
    measured = {"noise": 0.5, "part": tc.Balanced(value=3.0, measured=4.0), "norm": 0.0}
    # unit variance: 2 · 0.5 + 2 · log 1; a weight of 1 on the part
    assert problem.lagrangian(duals, 0.0, measured) == pytest.approx(1.0 + 3.0)
    duals = problem.update(duals, measured)
    assert problem.multipliers(duals)["noise"] == pytest.approx(4 / (2 * 0.5))
    assert problem.multipliers(duals)["part"] == pytest.approx(2.0)
    # ½ d (1 + log L): the Gaussian's at its best variance
    assert problem.lagrangian(duals, 0.0, measured | {"part": None}) == pytest.approx(0.5 * 4 * (1 + np.log(0.5)))
    duals = problem.update(duals, measured | {"noise": jnp.nan})
    assert line(problem, duals, "noise").frozen == 1


def laws():
    return {
        "ascent": lambda rate: {"dual": tc.ascent(rate)},
        "nupi": lambda rate: {"dual": tc.nupi(0.5, rate, 0.5)},
        "pi": lambda rate: {"dual": tc.pi(0.5, rate)},
        "augmented": lambda rate: {"dual": tc.ascent(rate), "penalty": tc.augmented(1.0, growth=1.01, maximum=5.0)},
        "optax": lambda rate: {"dual": optax.inject_hyperparams(optax.sgd)(rate)},
    }


def solve(options, bound, steps=2000, rate=0.05):
    """Minimise |x|² subject to x₁ + x₂ ≥ b: x* = b/2 (1, 1), λ* = b."""
    problem = tc.contracts(sum=tc.at_least(bound, **options))

    def step(carry, _):
        x, duals = carry
        measured = lambda x: {"sum": x.sum()}  # noqa: E731
        slope = jax.grad(lambda x: problem.lagrangian(duals, x @ x, measured(x)))(x)
        return (x - rate * slope, problem.update(duals, measured(x))), None

    (x, duals), _ = jax.lax.scan(step, (jnp.zeros(2), problem.init()), None, length=steps)
    return x, problem.multipliers(duals)["sum"]


@pytest.mark.parametrize("law", laws())
def test_one_trace_serves_a_sweep_over_gains_and_bounds(law):
    traces = []

    def run(gain, bound):
        traces.append(None)
        return solve(laws()[law](gain), bound)

    gains, bounds = jnp.array([0.01, 0.05, 0.1]), jnp.array([1.0, 2.0, 0.5])
    x, multiplier = jax.jit(jax.vmap(run))(gains, bounds)
    assert len(traces) == 1
    np.testing.assert_allclose(x.sum(axis=1), bounds, rtol=1e-3)
    np.testing.assert_allclose(multiplier, bounds, rtol=1e-3)


def everything():
    problem = tc.contracts(
        a=tc.at_most(1.0, dual=optax.adam(0.1)),
        b=tc.at_least({"x": 1.0, "y": np.ones(2)}, dual=tc.nupi(1.0, 0.1, 0.5)),
        c=tc.equal(0.0, penalty=tc.augmented(1.0, growth=1.1)),
        d=tc.between(0.1, 0.3, dual=tc.pi(0.1, 0.1)),
        e=tc.at_least(0.1, per_example=7),
        f=tc.likelihood(3.0),
        g=tc.balanced(),
    )
    measured = {
        "a": 2.0,
        "b": {"x": 0.0, "y": jnp.array([0.5, 2.0])},
        "c": 0.3,
        "d": 0.5,
        "e": jnp.array([0.0, 0.3]),
        "f": 0.7,
        "g": tc.Balanced(1.0, 2.0),
    }
    return problem, jax.tree.map(jnp.float32, measured), {"e": jnp.array([2, 5])}


@pytest.mark.slow
def test_a_thousand_steps_are_one_trace_and_no_gradient_reaches_control():
    problem, measured, index = everything()
    traces = []

    @jax.jit
    def step(duals, measured):
        traces.append(None)
        return problem.update(duals, measured, index=index)

    duals = problem.init()
    for _ in range(1000):
        duals = step(duals, measured)
    assert len(traces) == 1
    slopes = jax.grad(lambda duals: problem.lagrangian(duals, 1.0, measured, index=index), allow_int=True)(duals)
    for slope in jax.tree.leaves(slopes):
        if slope.dtype == jnp.float32:
            np.testing.assert_array_equal(slope, np.zeros(slope.shape))
    slope = jax.grad(lambda m: problem.update(duals, m, index=index).work)(measured)
    assert all((np.asarray(part) == 0).all() for part in jax.tree.leaves(slope))


def test_a_checkpoint_holds_all_of_it_bit_for_bit(tmp_path):
    problem, measured, index = everything()
    duals = problem.update(problem.init(), measured, index=index)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "duals", duals)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "duals", problem.init())
    assert jax.tree.structure(restored) == jax.tree.structure(duals)
    for one, other in zip(jax.tree.leaves(duals), jax.tree.leaves(restored), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_duals_are_pickled_and_are_those_of_an_equal_problem():
    problem, measured, index = everything()
    duals = problem.update(problem.init(), measured, index=index)
    again = pickle.loads(pickle.dumps(duals))
    other = everything()[0]
    one, same = (p.update(d, measured, index=index) for p, d in ((problem, duals), (other, again)))
    assert jax.tree.structure(one) == jax.tree.structure(same)
    jax.tree.map(np.testing.assert_array_equal, one, same)


def test_a_scale_in_the_structure_of_the_bound_is_a_number_or_an_array_for_each_leaf():
    bound, scale = {"x": np.zeros(2), "y": 0.0}, {"x": 2.0, "y": 4.0}
    problem = tc.contracts(a=tc.at_most(bound, scale=scale, dual=tc.ascent(1.0)))
    duals = problem.update(problem.init(), {"a": {"x": np.ones(2), "y": 1.0}})
    multipliers = problem.multipliers(duals)["a"]
    np.testing.assert_allclose(multipliers["x"], [0.5, 0.5])
    assert multipliers["y"] == 0.25


def test_moves_of_the_multipliers_are_not_in_the_merit():
    problem, measured, index = everything()
    measured, index = measured | {"e": jnp.linspace(0.0, 0.3, 7)}, {"e": jnp.arange(7)}
    update = jax.jit(lambda duals: problem.update(duals, measured, index=index))
    merit = jax.jit(lambda duals: problem.merit(duals, 1.0, measured, index=index))
    duals, merits = problem.init(), []
    for _ in range(200):
        merits.append(float(merit(duals)))
        duals = update(duals)
    lagrangian = float(problem.lagrangian(duals, 1.0, measured, index=index))
    assert lagrangian > merits[0] + 10
    np.testing.assert_allclose(merits, merits[0], atol=1e-6 * lagrangian)  # float32's, of what was subtracted


@pytest.mark.parametrize("per_example", [0, 50])
def test_noise_alone_does_not_move_the_merit(per_example):
    """Errors of a mean of 0 and a spread of 1: charged by what moved them, moves would add K var(e) an update."""
    options = {"per_example": per_example} if per_example else {}
    problem = tc.contracts(noisy=tc.equal(0.0, dual=tc.ascent(0.01), **options))

    def step(duals, k):
        key, which = jax.random.split(jax.random.fold_in(jax.random.key(0), k))
        measured = {"noisy": jax.random.normal(key, (10,) if per_example else ())}
        index = {"noisy": jax.random.permutation(which, 50)[:10]} if per_example else None
        merit = problem.merit(duals, 0.0, measured, index=index)
        return problem.update(duals, measured, index=index), merit

    steps = 4000
    _, merits = jax.jit(lambda: jax.lax.scan(step, problem.init(), jnp.arange(steps)))()
    fallen = 0.01 * steps  # of moves charged at once
    assert abs(float(merits[-500:].mean() - merits[:500].mean())) < 0.15 * fallen


@settings(deadline=None, max_examples=25)
@given(
    errors=st.lists(st.floats(width=32), min_size=1, max_size=8),
    maximum=st.floats(0, 1e6),
    rate=st.floats(0, 1e6),
    relation=st.sampled_from([tc.at_most, tc.at_least, tc.equal]),
)
def test_no_measurement_makes_a_state_that_is_not_finite(errors, maximum, rate, relation):
    penalty = tc.augmented(1.0, growth=2.0)
    problem = tc.contracts(
        one=relation(0.0, dual=tc.ascent(rate), maximum=maximum),
        two=relation(0.0, dual=tc.nupi(rate, rate, -0.5), maximum=maximum, penalty=penalty),
    )
    duals = problem.init()
    for error in errors:
        duals = problem.update(duals, {"one": error, "two": error})
        for multiplier in problem.multipliers(duals).values():
            low = -maximum if relation is tc.equal else 0
            assert np.float32(low) <= multiplier <= np.float32(maximum)


def test_a_multiplicative_law_starts_at_its_least_multiplier():
    law = tc.ascent(0.5, form="multiplicative")
    problem = tc.contracts(a=tc.at_most(1.0, dual=law, minimum=0.1))
    duals = problem.update(problem.init(), {"a": 3.0})
    assert problem.multipliers(duals)["a"] == pytest.approx(0.1 * np.exp(0.5 * 2), rel=1e-6)


def test_a_contract_holds_within_a_hundredth_of_its_bound():
    problem = tc.contracts(small=tc.at_most(0.001), none=tc.at_most(0.0), scaled=tc.at_most(2.0, scale=2.0))
    duals = problem.update(problem.init(), {"small": 0.009, "none": 0.009, "scaled": 2.019})
    assert [line.satisfied for line in problem.report(duals).lines] == [False, True, True]
    duals = problem.update(duals, {"small": 0.001009, "none": 0.011, "scaled": 2.021})
    assert [line.satisfied for line in problem.report(duals).lines] == [True, False, False]
    assert [line.violated for line in problem.report(duals).lines] == [0, 1, 1]
