"""How fast this machine makes matrix products of given shapes: what a program made of them can attain."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from topojax.benchmarks.products import Product
from topojax.benchmarks.timing import seconds
from topojax.storage.runtime import compile_program

REFERENCE = Product(1, 256, 784, 64)
"""The largest product of an MNIST encoder, timed whatever the model."""


def product_timer(product: Product, *, window: float) -> Callable[[], float]:
    """Time one product, float32, operands in row-major order, in a compiled loop.

    Args:
      product: its shape.
      window: least duration of the loop, seconds, and at most about four times that: the longer, the less its start
        weighs.

    Returns:
      () → seconds of one product, mean over a loop.
    """

    def repeat(count: jax.Array, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        def body(i: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            a, _ = carry
            c = a @ b
            # The next product waits for this one, or it would be hoisted; one number changes, in place.
            corner = jax.lax.slice(c, (0,) * c.ndim, (1,) * c.ndim)
            return jax.lax.dynamic_update_slice(a, 1e-3 * corner, (0,) * c.ndim), c

        return jax.lax.fori_loop(0, count, body, (a, jnp.zeros((*a.shape[:-1], b.shape[-1]))))

    rng = np.random.default_rng(0)
    many = (product.batch,) if product.batch > 1 else ()
    a, b = (
        jnp.asarray(rng.standard_normal((*many, *shape)), jnp.float32)
        for shape in ((product.m, product.k), (product.k, product.n))
    )
    compiled = compile_program(jax.jit(repeat).lower(jnp.int32(1), a, b))

    def run(times: int) -> float:
        count = jnp.int32(times)
        return seconds(lambda: compiled(count, a, b))

    times = 4
    while min(run(times) for _ in range(3)) < window:  # one run may be slow for want of a core
        times *= 4
    return lambda: run(times) / times


def dominant(flops: Mapping[Product, float], share: float) -> list[Product]:
    """The fewest products that make up `share` of all operations, the largest first.

    Args:
      flops: product → operations spent in it.
      share: in (0, 1].
    """
    chosen: list[Product] = []
    for product in sorted(flops, key=lambda p: -flops[p]):
        if sum(flops[p] for p in chosen) >= share * sum(flops.values()):
            break
        chosen.append(product)
    return chosen


def attainable(flops: Mapping[Product, float], each: Mapping[Product, float]) -> float:
    """Seconds that the products alone would take, Σ flops_i / rate_i; those not timed at the others' mean rate.

    Args:
      flops: product → operations spent in it.
      each: product → seconds of one of it, for those that dominate.
    """
    known = sum(flops[product] for product in each)
    spent = sum(flops[product] / product.flops * one for product, one in each.items())
    return spent * sum(flops.values()) / known if known else 0.0
