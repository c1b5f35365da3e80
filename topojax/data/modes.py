"""Where training examples lie while a run trains: on the device, or on the host, from where they are handed over."""

import jax

from topojax.data.unfolding import available

MODES = ("auto", "memory", "host", "stream")
"""What `config.data.mode` may be."""
SHARE = 0.25
"""Of the device's memory, that a training split may fill as float32 for `auto` to keep it there."""


def chosen(mode: str, examples: int, size: int) -> str:
    """What `auto` stands for: `memory` where the split takes at most `SHARE` of the device's memory, else `host`.

    Args:
      mode: of `MODES`.
      examples: n, to train on.
      size: X, numbers of each.
    """
    there = device_bytes()
    if mode != "auto":
        return mode
    return "memory" if there is None or 4 * examples * size <= SHARE * there else "host"


def device_bytes() -> int | None:
    """Bytes of the first device, of a CPU those of the machine or the control group; None where nobody says."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return available()
