"""How fast this machine makes matrix products of given shapes: what a program made of them can attain."""

import time
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from topojax.benchmarks.products import Product
from topojax.benchmarks.timing import Patience, Quartiles, interleaved, quartiles, seconds
from topojax.runtime import compile_program

REFERENCE = Product(1, 256, 784, 64)
"""The largest product of the MNIST encoder at batch 256, timed whatever the model."""


def seconds_each(products: Iterable[Product], patience: Patience, *, window: float) -> dict[Product, Quartiles]:
    """Time of one product of each shape, float32, operands in row-major order, in a compiled loop.

    Args:
      products: distinct shapes.
      patience: of the repeats, which are interleaved over the shapes.
      window: how long one timed loop should take, seconds; the longer, the less its start weighs.
    """
    loops = {product: _loop(product, window) for product in products}
    return {product: quartiles(times) for product, times in interleaved(loops, patience).items()}


def dominant(flops: Mapping[Product, float], share: float) -> list[Product]:
    """The fewest products that make up `share` of all operations, the largest first.

    Args:
      flops: product → operations spent in it.
      share: in (0, 1].
    """
    chosen, found, enough = [], 0.0, share * sum(flops.values())
    for product in sorted(flops, key=lambda p: -flops[p]):
        if found >= enough:
            break
        chosen.append(product)
        found += flops[product]
    return chosen


def attainable(flops: Mapping[Product, float], timed: Mapping[Product, float]) -> float:
    """Seconds that the products alone would take, Σ flops_i / rate_i; those not timed at the others' mean rate.

    Args:
      flops: product → operations spent in it.
      timed: product → seconds of one product, for those that dominate.
    """
    known = sum(flops[product] for product in timed)
    spent = sum(flops[product] / product.flops * each for product, each in timed.items())
    return spent * sum(flops.values()) / known if known else 0.0


def _loop(product: Product, window: float) -> Callable[[], float]:
    """() → seconds of one product, from a loop of about `window` seconds."""

    def repeat(times: jax.Array, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        def body(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            c = carry[0] @ b
            # The next product waits for this one, or the loop would be hoisted; one number changes, in place.
            corner = jax.lax.slice(c, (0,) * c.ndim, (1,) * c.ndim)
            return jax.lax.dynamic_update_slice(carry[0], 1e-3 * corner, (0,) * c.ndim), c

        return jax.lax.fori_loop(0, times, body, (a, jnp.zeros((*a.shape[:-1], b.shape[-1]))))

    rng = np.random.default_rng(0)
    many = (product.batch,) if product.batch > 1 else ()
    a, b = (
        jnp.asarray(rng.standard_normal((*many, *shape)), jnp.float32)
        for shape in ((product.m, product.k), (product.k, product.n))
    )
    compiled = compile_program(jax.jit(repeat).lower(jnp.int32(1), a, b))
    times = 1
    while True:  # long enough a loop: at most four times too long
        times *= 4
        since = time.perf_counter()
        jax.block_until_ready(compiled(jnp.int32(times), a, b))
        if time.perf_counter() - since >= window:
            break
    count = jnp.int32(times)
    return lambda: seconds(lambda: compiled(count, a, b)) / times
