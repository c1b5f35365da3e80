"""What a problem of contracts refuses, and what it says of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from topojax import control as tc


@pytest.mark.parametrize(
    ("measured", "index", "message"),
    [
        ({"a": 1.0, "b": jnp.ones(2), "typo": 1.0}, None, "unknown contracts \\['typo'\\]"),
        ({"a": 1.0}, None, "lacks \\['b', 'e'\\]"),
        ({"a": jnp.ones(3), "b": jnp.ones(2), "e": None}, None, "'a'.*shape \\(3,\\).*\\(\\)"),
        ({"a": {"x": 1.0}, "b": jnp.ones(2), "e": None}, None, "'a'.*structure"),
        ({"a": 1.0, "b": jnp.ones(2), "e": jnp.ones(2)}, None, "index lacks 'e'"),
        ({"a": 1.0, "b": jnp.ones(2), "e": jnp.ones(2)}, {"e": jnp.array([0, 9])}, "holds 9, out of range for 4"),
        ({"a": 1.0, "b": jnp.ones(2), "e": jnp.ones(2)}, {"e": jnp.array([0, -1])}, "holds -1, out of range"),
        ({"a": 1.0, "b": jnp.ones(2), "e": jnp.ones(2)}, {"e": jnp.array([0.0, 1.0])}, "must be integers"),
        ({"a": 1.0, "b": jnp.ones(2), "e": jnp.ones(2)}, {"e": jnp.array([0])}, "'e'.*\\(2,\\).*\\(1,\\)"),
        ({"a": 1.0, "b": jnp.ones(2), "e": None}, {"a": jnp.array([0])}, "\\['a'\\].*no multipliers per example"),
    ],
)
def test_what_does_not_fit_is_named(measured, index, message):
    problem = tc.contracts(a=tc.at_most(1.0), b=tc.at_most(1.0, shape=(2,)), e=tc.at_least(0.0, per_example=4))
    with pytest.raises(ValueError, match=message):
        problem.lagrangian(problem.init(), 0.0, measured, index=index)
    with pytest.raises(ValueError, match=message):
        problem.update(problem.init(), measured, index=index)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: tc.contracts(a=tc.at_most(1.0, dual=tc.ascent(-1.0))), ValueError, "contract 'a'.*rate must be >= 0"),
        (lambda: tc.contracts(a=tc.at_most(1.0, dual=tc.nupi(1.0, 1.0, 1.0))), ValueError, "contract 'a'.*nu must lie"),
        (lambda: tc.contracts(a=tc.at_most(1.0, initial=2.0, maximum=1.0)), ValueError, "contract 'a'.*initial"),
        (lambda: tc.contracts(a=tc.at_most(1.0, maximum=-1.0)), ValueError, "contract 'a'.*maximum"),
        (lambda: tc.contracts(a=2.0), TypeError, "contract 'a'"),
        (lambda: tc.between(0.3, 0.1), ValueError, "0.3.* > 0.1"),
        (lambda: tc.at_most(np.nan), ValueError, "must be finite"),
        (lambda: tc.at_most(1.0, scale=0.0), ValueError, "scale must be finite and > 0, got 0"),
        (lambda: tc.at_most(1.0, bond=1.0), TypeError, "unknown option 'bond'"),
        (lambda: tc.at_most(1.0, dual="adam"), TypeError, "dual must be"),
        (lambda: tc.at_most(1.0, per_example=0), ValueError, "per_example"),
        (lambda: tc.at_most(np.ones(2), shape=(3,)), ValueError, "shape \\(2,\\)"),
        (lambda: tc.at_most({}), ValueError, "holds no number"),
        (lambda: tc.augmented(-1.0), ValueError, "coefficient must be >= 0, got -1"),
        (lambda: tc.augmented(1.0, growth=0.5), ValueError, "growth must lie in"),
        (lambda: tc.likelihood(np.ones(2)), ValueError, "one number"),
        (lambda: tc.likelihood(-1.0), ValueError, "dims must be > 0, got -1"),
        (lambda: tc.at_most(1.0, penalty=2.0), TypeError, "made by augmented"),
        (lambda: tc.at_most(1.0, dual=tc.nupi), TypeError, "nupi lacks its gains"),
        (lambda: tc.at_most(1.0, dual=tc.nu_pi(1.0, 0.1)), TypeError, "must be a rule"),
        (lambda: tc.at_most(1.0, shape=(2,), per_example=3), ValueError, "not both"),
        (lambda: tc.at_most(1.0, tolerance=-1.0), ValueError, "tolerance must be >= 0"),
        (lambda: tc.at_most(1.0, patience=2.5), ValueError, "whole number"),
        (lambda: tc.equal(1.0, minimum=0.1), ValueError, "either sign"),
        (lambda: tc.at_most(np.zeros(0)), ValueError, "holds no number"),
        (lambda: tc.at_most("x"), TypeError, "the bound must hold numbers, got 'x'"),
        (lambda: tc.at_most(1.0, scale="x"), TypeError, "scale must hold numbers, got 'x'"),
        (lambda: tc.at_most(1.0, shape=3), ValueError, "shape must be a tuple of sizes >= 1"),
        (lambda: tc.at_most(1.0, shape=(-1,)), ValueError, "shape must be a tuple of sizes >= 1"),
        (lambda: tc.at_most(1.0, dual=optax.lbfgs()), TypeError, "by its error alone"),
        (lambda: tc.at_most(1.0, dual=optax.adam), TypeError, "optax.adam lacks its rate"),
        (lambda: tc.at_most({"x": 1.0}, scale={"y": 1.0}), ValueError, "scale has the structure"),
        (lambda: tc.at_most({"x": np.ones(2)}, scale={"x": np.ones(3)}), ValueError, "scale has shape"),
    ],
)
def test_contracts_that_make_no_sense_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_calls_that_cannot_be_meant_are_refused():
    problem = tc.contracts(a=tc.at_most(1.0), b=tc.at_most(1.0))
    duals = problem.init()
    with pytest.raises(ValueError, match="loss has shape"):
        problem.lagrangian(duals, jnp.ones(3), {"a": 0.0, "b": 0.0})
    with pytest.raises(ValueError, match="another problem's"):
        problem.update(tc.contracts(a=tc.at_most(1.0)).init(), {"a": 0.0, "b": 0.0})
    with pytest.raises(TypeError, match="measured must be a dict"):
        problem.update(duals, [0.0, 0.0])
    with pytest.raises(TypeError, match=r"measured\['a'\] holds 'x', not a number"):
        problem.update(duals, {"a": "x", "b": 0.0})
    with pytest.raises(ValueError, match="moved by other laws, NuPi, than this problem's, DualAscent"):
        tc.contracts(a=tc.at_most(1.0, dual=tc.ascent(0.1)), b=tc.at_most(1.0, dual=tc.ascent(0.1))).multipliers(duals)
    with pytest.raises(TypeError, match="by their names, got the key 1"):
        problem.update(duals, {"a": 0.0, 1: 0.0})
    with pytest.raises(ValueError, match="dt has shape"):
        problem.update(duals, {"a": 0.0, "b": 0.0}, dt=jnp.ones(2))
    with pytest.raises(ValueError, match="active has shape"):
        problem.update(duals, {"a": 0.0, "b": 0.0}, active=jnp.ones(2))
    with pytest.raises(TypeError, match="index must be a dict"):
        problem.update(duals, {"a": 0.0, "b": 0.0}, index=jnp.array([0]))
    with pytest.raises(TypeError, match="outside of jit"):
        jax.jit(lambda duals: problem.report(duals).lines[0].value)(duals)
    with pytest.raises(KeyError, match="no contract 'typo'; there are a, b"):
        problem.report(duals)["typo"]
    assert repr(problem) == "contracts(a=at_most(1.0), b=at_most(1.0))"


def test_duals_of_another_problem_are_refused_and_of_many_say_how_to_be_read():
    first = tc.contracts(a=tc.at_most(1.0), b=tc.at_most(10.0))
    duals = first.init()
    for other in (
        tc.contracts(b=tc.at_most(10.0), a=tc.at_most(1.0)),
        tc.contracts(a=tc.at_least(1.0), b=tc.at_most(10.0)),
        tc.contracts(a=tc.at_most(1.0), c=tc.at_most(10.0)),
    ):
        for use in (
            other.multipliers,
            other.report,
            lambda duals, p=other: p.update(duals, dict.fromkeys(p.names, 1.0)),
        ):
            with pytest.raises(ValueError, match="another problem's"):
                use(duals)
    many = jax.vmap(lambda k: first.update(duals, {"a": k, "b": k}))(jnp.arange(3.0))
    for use in (first.multipliers, first.report):
        with pytest.raises(ValueError, match=r"jax.vmap\(problem.multipliers\)"):
            use(many)
    assert jax.vmap(first.multipliers)(many)["a"].shape == (3,)
    with pytest.raises(TypeError, match=r"problem\.init"):
        first.update(None, {"a": 1.0, "b": 1.0})
    with pytest.raises(TypeError, match="measured must be a dict"):
        first.merit(duals, 1.0, None)
