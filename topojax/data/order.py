"""Which examples are drawn, and the order in which training sees them: functions of seed and epoch."""

import jax
import jax.numpy as jnp
import numpy as np

from topojax.errors import UserError
from topojax.types import Array

# Keeps the order's keys apart from those that training folds step numbers into, which stay far below.
_ORDER_STREAM = 0x6F726465


def stratified(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` of n examples, each as likely as any other and every class within one of its share.

    Systematic sampling: examples in random order, sorted by class, every (n / count)-th from a random start.

    Args:
      labels: [n] int.
      count: 0 < count ≤ n.
      rng: advanced by two draws.

    Returns:
      [count] indices, increasing.
    """
    n = len(labels)
    order = rng.permutation(n)
    order = order[np.argsort(labels[order], kind="stable")]
    # In integers: rounding could draw an example twice, or one past the end.
    return np.sort(order[(np.arange(count) * n + rng.integers(n)) // count])


def permutation(seed: int | np.integer | Array, epoch: int | Array, n: int) -> Array:
    """Order of the examples in one epoch: a function of (seed, epoch), so the step restores the position.

    Args:
      seed: may be traced.
      epoch: may be traced.
      n: number of examples; static.

    Returns:
      [n] int32, a permutation of 0 … n − 1.
    """
    return shuffled(jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), _ORDER_STREAM), epoch), n)


def shuffled(key: Array, n: int) -> Array:
    """A random order of 0 … n − 1, [n] int32: one sort of random words, where `jax.random.permutation` takes several.

    Equal words, one pair in 2³² / n², keep their order, which nobody can tell.
    """
    return jnp.argsort(jax.random.bits(key, (n,))).astype(jnp.int32)


def probe_indices(seed: int | np.integer | Array, n: int, size: int) -> Array:
    """The examples of the probe batch: the same for the whole run, [min(size, n)] int32."""
    return shuffled(jax.random.key(seed), n)[:size]


def batch_indices(seed: int | np.integer | Array, epoch: int | Array, n: int, batch_size: int) -> Array:
    """Which examples make up each batch of an epoch; the last n mod batch_size of the order sit this one out.

    Args:
      seed: may be traced.
      epoch: may be traced.
      n: number of examples; static.
      batch_size: 1 ≤ batch_size ≤ n; static.

    Returns:
      [n // batch_size, batch_size] int32.

    Raises:
      UserError: for a batch size out of range.
    """
    if not 1 <= batch_size <= n:
        raise UserError(f"batch_size = {batch_size} must lie between 1 and the {n} training examples")
    batches = n // batch_size
    return permutation(seed, epoch, n)[: batches * batch_size].reshape(batches, batch_size)


def windowed(seed: int, epoch: int, groups: np.ndarray, near: int) -> np.ndarray:
    """An order for what is read in groups: these in random order, and examples mixed among so many in a row.

    Args:
      seed: of the run.
      epoch: counted from 0; the order is a function of (seed, epoch).
      groups: [G + 1] increasing, where each begins, and n.
      near: groups that are mixed.

    Returns:
      [n] int32, a permutation of 0 … n − 1.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(groups) - 1)
    members = [np.arange(groups[group], groups[group + 1], dtype=np.int32) for group in order]
    windows = [np.concatenate(members[first : first + near]) for first in range(0, len(members), near)]
    return np.concatenate([rng.permutation(window) for window in windows])
