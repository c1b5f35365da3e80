"""What a run needs in memory against what there is, before anything is allocated."""

import math
from typing import Any

import jax

from topojax.data.unfolding import available
from topojax.errors import UserError

_LARGEST_BATCH = 10**5
_STATES = 3
"""Copies of the state that are alive at once: before an epoch, after it, and its gradients and temporaries at least."""


def require_sizes(config: Any) -> None:
    """Refuse sizes of a configuration whose largest arrays alone cannot be held: what has to be traced takes hours.

    Counted, from below: the parameters with their gradient, two moments and average, a batch's distances to the codes,
    and I(X;K) over the capacity's horizon.

    Raises:
      UserError: with the bytes it would need, and the sizes.
    """
    m, batch = config.model, min(config.train.batch_size, _LARGEST_BATCH)
    hidden, latent, charts, codes = m.hidden_dim, m.latent_dim, m.num_charts, m.codes_per_chart
    router = (2 * hidden**2 * latent if m.transport else 0) + 2 * hidden * (m.rank if m.tensorization == "sum" else 1)
    parameters = 3 * hidden**2 + charts * hidden * latent + charts * codes * latent + (router if m.covariant else 0)
    jumps = 2 * charts * latent * (m.jump_rank or latent)
    needed = 4 * (5 * (parameters + jumps) + batch * charts * codes + config.window.capacity_horizon)
    there = available()
    if there is not None and needed > there:
        sizes = {name: m[name] for name in ("hidden_dim", "latent_dim", "num_charts", "codes_per_chart", "rank")}
        sizes |= {"jump_rank": m.jump_rank, "window.capacity_horizon": config.window.capacity_horizon}
        name = max(sizes, key=lambda name: sizes[name])
        field = name if "." in name else f"model.{name}"
        raise UserError(
            f"config.{field} = {sizes[name]}: such a run needs {needed} bytes of memory at least, and there are {there}"
        )


def require_memory(state: Any, data: Any, states: int = _STATES) -> None:
    """Refuse a run whose state and data cannot be held.

    Args:
      state: its structure (`jax.eval_shape`), or arrays.
      data: the training split.
      states: that are alive at once.

    Raises:
      UserError: with the bytes it would need.
    """
    needed = states * _bytes(state) + _bytes(data)
    there = available()
    if there is not None and needed > there:
        raise UserError(
            f"this run needs {needed} bytes of memory at least, and there are {there}: lower the sizes in config.model"
        )


def _bytes(tree: Any) -> int:
    """Of an array that is divided, what lies on one device."""

    def size(leaf: Any) -> int:
        where = getattr(leaf, "sharding", None)
        return math.prod(leaf.shape if where is None else where.shard_shape(leaf.shape))

    return sum(size(leaf) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
