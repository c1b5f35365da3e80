"""Products of the speed benchmark: all that run are counted, and what they could take is their times' sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topojax.benchmarks import rates
from topojax.benchmarks.products import Product, counting


def counts_of(function, *args):
    """Product → count while `function(*args)` ran, checked to compute what the function computes."""
    counted, products = counting(function, *args)
    out, counts = jax.jit(counted)(*args)
    jax.tree.map(np.testing.assert_array_equal, out, jax.jit(function)(*args))
    return {product: int(n) for product, n in zip(products, counts, strict=True)}


A, B = jnp.ones((2, 3)), jnp.ones((3, 4))
AB = Product(1, 2, 3, 4)


def test_flops_of_a_product():
    assert AB.flops == 48  # 2·4 entries of 3 products and 3 sums
    assert Product(5, 2, 3, 4).flops == 240
    assert str(AB) == "[2,3]×[3,4]"
    assert str(Product(5, 2, 3, 4)) == "5·[2,3]×[3,4]"


def test_products_are_found_whichever_axes_they_contract():
    assert counts_of(lambda a, b: a @ b, A, B) == {AB: 1}
    assert counts_of(lambda a, b: jnp.einsum("km,nk->mn", a, b), A.T, B.T) == {AB: 1}
    batched = counts_of(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), jnp.ones((5, 2, 3)), jnp.ones((5, 3, 4)))
    assert batched == {Product(5, 2, 3, 4): 1}
    assert counts_of(lambda a: a @ jnp.ones(3), A) == {Product(1, 2, 3, 1): 1}


def test_a_gradient_costs_two_more():
    found = counts_of(jax.grad(lambda a, b: jnp.sum((a @ b) ** 2), (0, 1)), A, B)
    # c = A B [2,4]; dA = dc Bᵀ is [2,4]×[4,3]; dB = (dcᵀ A)ᵀ is [4,2]×[2,3]
    assert found == {AB: 1, Product(1, 2, 4, 3): 1, Product(1, 4, 2, 3): 1}


def test_a_scan_counts_its_length():
    def function(a, b):
        return jax.lax.scan(lambda total, x: (total + jnp.sum(x @ b), None), 0.0, jnp.stack([a] * 7))[0]

    assert counts_of(function, A, B) == {AB: 7}


@pytest.mark.parametrize("trips", [0, 1, 6])
def test_a_loop_counts_the_trips_it_makes(trips):
    def function(n, a, b):
        return jax.lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, c[1] + a @ b), (0, jnp.zeros((2, 4))))[1]

    assert counts_of(function, jnp.int32(trips), A, B) == {AB: trips}


def test_a_loop_within_a_scan_and_its_condition_count():
    """Trips 1, 2, 3 of a body with one product [2,3]×[3,4]; each asked for with one of [1,2]×[2,1]."""
    one = jnp.ones((1, 2))

    def function(a, b):
        def inner(total, n):
            def unfinished(carry):
                return carry[0] * (one @ one.T)[0, 0] < 2 * n

            _, out = jax.lax.while_loop(unfinished, lambda c: (c[0] + 1, c[1] + a @ b), (jnp.float32(0), total))
            return out, out[0, 0]

        return jax.lax.scan(inner, jnp.zeros((2, 4)), jnp.array([1.0, 2.0, 3.0]))

    assert counts_of(function, A, B) == {AB: 6, Product(1, 1, 2, 1): 6}


@pytest.mark.parametrize("taken, count", [(True, 3), (False, 0)])
def test_a_branch_counts_if_taken(taken, count):
    def function(flag, a, b):
        return jax.lax.cond(flag, lambda: a @ b + a @ (2 * b) + a @ (3 * b), lambda: jnp.zeros((2, 4)))

    assert counts_of(function, jnp.bool_(taken), A, B) == {AB: count}


def test_functions_with_rules_of_their_own_and_nested_ones_count():
    @jax.custom_vjp
    def product(a, b):
        return a @ b

    product.defvjp(lambda a, b: (a @ b, (a, b)), lambda res, g: (g @ res[1].T, res[0].T @ g))

    @jax.jit
    def function(a, b):
        return jax.nn.relu(product(a, b)) + jax.checkpoint(lambda a: a @ b)(a)

    assert counts_of(function, A, B) == {AB: 2}


def test_an_implicit_solve_counts_the_solver_that_runs():
    """Newton's √: custom_linear_solve holds a matvec and two solvers, of which the forward pass runs one."""
    matrix = 2.0 * jnp.eye(3)

    def function(b):
        def solver(matvec, b):
            body = lambda c: (c[0] + 1, c[1] + 0.5 * (b - matvec(c[1])))  # noqa: E731
            return jax.lax.while_loop(lambda c: c[0] < 4, body, (0, jnp.zeros_like(b)))[1]

        return jax.lax.custom_linear_solve(lambda x: matrix @ x, b, solver, transpose_solve=solver)

    assert counts_of(function, jnp.ones(3)) == {Product(1, 3, 3, 1): 4}


def test_products_in_an_unknown_place_are_refused():
    """Better no number than a wrong one."""
    pure = lambda a: jax.lax.reduce(  # noqa: E731
        a, jnp.float32(0), lambda x, y: (x.reshape(1, 1) @ y.reshape(1, 1))[0, 0], (0,)
    )
    with pytest.raises(NotImplementedError, match="inside 'reduce' are not counted"):
        counting(pure, jnp.ones(3))


# Rates


def test_dominant_products_are_the_fewest_that_reach_the_share():
    flops = {Product(1, 1, 1, n): share for n, share in ((1, 5.0), (2, 60.0), (3, 30.0), (4, 5.0))}
    assert [p.n for p in rates.dominant(flops, 0.9)] == [2, 3]
    assert [p.n for p in rates.dominant(flops, 0.91)] == [2, 3, 1]
    assert len(rates.dominant(flops, 1.0)) == 4


def test_attainable_time_by_hand():
    big, small, tail = Product(1, 10, 10, 5), Product(1, 10, 10, 1), Product(1, 1, 1, 1)  # 1000, 200, 2 operations
    flops = {big: 3000.0, small: 200.0, tail: 800.0}
    # 3 big ones of 2 s, 1 small one of 2 s: 8 s for 3200 operations; 800 more at that rate are 2 s.
    assert rates.attainable(flops, {big: 2.0, small: 2.0}) == pytest.approx(10.0)
    assert rates.attainable({}, {}) == 0.0


@pytest.mark.parametrize("product", [Product(1, 2, 3, 4), Product(3, 2, 2, 5), Product(1, 1, 1, 1)])
def test_a_product_is_timed(product):
    assert 0 < rates.product_timer(product, window=1e-4)() < 0.1
