"""Whether what a stranger's pickle made can be read to its end: no list in itself, none that doubles without end."""

from typing import Any, Final

DEPTH: Final = 32


class Refused(ValueError):
    """What a program may not do, in one line."""


def require_finite(root: Any, most: int) -> None:
    """Visit every value as a reader would, by every way that leads to it.

    Args:
      root: of dicts, lists and tuples.
      most: values that there may be, one that is met twice counted twice.

    Raises:
      Refused: more, deeper than 32, or a function among them.
    """
    left, ways = most, [iter((root,))]
    while ways:
        for value in ways[-1]:
            left -= 1
            if left < 0 or len(ways) > DEPTH:
                raise Refused("a pickle that unfolds to more than the file is: values within themselves, or too deep")
            if callable(value):
                raise Refused("a pickle that keeps a function")
            if type(value) in (dict, list, tuple):
                ways.append(iter(value.values() if type(value) is dict else value))
                break
        else:
            ways.pop()
