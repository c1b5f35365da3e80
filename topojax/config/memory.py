"""What a run needs in memory against what there is, before anything is allocated."""

import contextlib
import os
from typing import Any

import jax

from topojax.errors import UserError

_LARGEST_BATCH = 10**5
LARGEST_FACTOR = 200
"""Bytes that a file of data may unfold to, for each byte that it has on disk, beyond `UNFOLDED`."""
UNFOLDED = 2**28
"""Bytes that any file may unfold to."""
_STATES = 3
"""Copies of the state that are alive at once: before an epoch, after it, and its gradients and temporaries at least."""


def available() -> int | None:
    """Bytes that this machine, or the control group that this process is in, could give; None where nobody knows."""
    found = []
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path, encoding="ascii") as file:
                found.append(int(file.read()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


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
    jumps = 2 * charts * latent * (m.jump_rank or 1)
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


def require_unfolded(where: object, held: int, claimed: int) -> None:
    """Refuse a file of a few bytes that would become gigabytes, before they are allocated.

    Args:
      where: what the line calls it.
      held: bytes that it has on disk.
      claimed: bytes that it would take in memory, by its own words.

    Raises:
      UserError: claimed > 200 held + 256 MiB, or more than this machine has.
    """
    there = available()
    if claimed > LARGEST_FACTOR * held + UNFOLDED:
        raise UserError(
            f"{where}: {held} bytes that claim to be {claimed}, more than {LARGEST_FACTOR} times as many: refused; if "
            "that is what it should be, save it again without compression"
        )
    if there is not None and claimed > there:
        raise UserError(f"{where}: {claimed} bytes, and this machine has {there}: take a part of it")


def require_memory(state: Any, data: Any) -> None:
    """Refuse a run whose state and data cannot be held.

    Args:
      state: its structure (`jax.eval_shape`), or arrays.
      data: the training split.

    Raises:
      UserError: with the bytes it would need.
    """
    needed = _STATES * _bytes(state) + _bytes(data)
    there = available()
    if there is not None and needed > there:
        raise UserError(
            f"this run needs {needed} bytes of memory at least, and there are {there}: lower the sizes in config.model"
        )


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
