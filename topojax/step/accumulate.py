"""A batch in parts: one after the other where all of it does not fit, as one update.

  ∇ = 1/N Σ_i ∇L(b_i),   b_i the i-th of N parts, every N-th example of the batch

Linear in the examples, a term has the value and gradient that it has on the whole batch. One that is not (the log of
the error, hinges of entropies, distances between examples) is the mean of its values on the parts. What is measured of
the encodings, H(K), I(X;K), usage, energies and what a revival wants to know, is measured of all of them together.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from topojax.data.augment import Views
from topojax.types import Array


def accumulated(gradient: Callable[[Views], tuple[Any, Any]], views: Views, count: int, zero: Any) -> tuple[Any, Any]:
    """What one pass through the parts gives, put together.

    Args:
      gradient: a part's views → (`Losses`, gradients).
      views: of the batch; its size is a multiple of N.
      count: N, parts.
      zero: gradients that are 0.

    Returns:
      (`Losses` whose numbers are means and whose outputs are those of all examples in their order, mean gradients).
    """
    parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), views)

    def add(total: Any, part: Views) -> tuple[Any, Any]:
        losses, more = gradient(part)
        return jax.tree.map(jnp.add, total, more), losses

    total, losses = jax.lax.scan(add, zero, parts)

    def whole(x: Array) -> Array:
        return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])

    mean = lambda tree: jax.tree.map(lambda x: jnp.mean(x, axis=0), tree)  # noqa: E731
    aux = losses.aux._replace(
        terms=mean(losses.aux.terms),
        outputs=jax.tree.map(whole, losses.aux.outputs),
        spectral=jax.tree.map(lambda x: x[-1], losses.aux.spectral),  # the same for all parts
    )
    together = losses._replace(total=mean(losses.total), aux=aux, baselines=mean(losses.baselines))
    return together, jax.tree.map(lambda x: x / count, total)
