"""What a file of data may unfold to in memory, refused before it is allocated."""

import contextlib
import os

from topojax.errors import UserError

LARGEST_FACTOR = 200
"""Bytes that a file of data may unfold to, for each byte that it has on disk, beyond `UNFOLDED`."""
UNFOLDED = 2**28
"""Bytes that any file may unfold to."""


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
