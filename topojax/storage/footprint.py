"""What a compiled program takes of a device's memory, and whether it is there: said before it starts."""

from typing import Any, NamedTuple

import jax

from topojax.config import memory
from topojax.errors import UserError


class Footprint(NamedTuple):
    """Bytes that a program takes on each device."""

    held: int  # arguments and results, what is given up counted once
    temporary: int  # while it runs


def footprint(compiled: Any) -> Footprint | None:
    """What a compiled program takes; None where the backend does not say."""
    try:
        found = compiled.memory_analysis()
    except (AttributeError, NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    if found is None:
        return None
    held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return Footprint(int(held), int(found.temp_size_in_bytes))


def there() -> int | None:
    """Bytes free on the first device, or what the machine could give where that is a CPU; None where nobody says."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return memory.available()


def require_fit(
    wanted: Footprint | None, available: int | None, *, size: int, local: int, devices: int, chunk: int
) -> None:
    """Refuse a population whose program would not fit, and say which chunk would.

    Args:
      wanted: of `footprint`, at this chunk.
      available: of `there`.
      size: members.
      local: those that lie on a device.
      devices: that the population uses; they share one memory on a CPU.
      chunk: members that a device computes at a time: what is temporary grows with it.

    Raises:
      UserError: with both sizes, and the largest chunk that would fit where there is one.
    """
    if wanted is None or available is None:
        return
    shared = devices if jax.local_devices()[0].platform == "cpu" else 1

    def total(members: int) -> float:
        return shared * (wanted.held + wanted.temporary * members / chunk)

    if total(chunk) <= available:
        return
    fits = [n for n in range(1, chunk) if local % n == 0 and total(n) <= available]
    advice = f"config.population.chunk={fits[-1]} would fit" if fits else "take fewer members"
    raise UserError(
        f"a population of {size} members takes {total(chunk) / 2**20:,.0f} MiB, and there are "
        f"{available / 2**20:,.0f}: {advice}"
    )
