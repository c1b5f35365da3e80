"""population.json as it is read: what is known of the members of a population, or nothing where it is damaged."""

import json
import pathlib
from typing import Any

FILE = "population.json"
_STATES = ("running", "finished", "stopped")


def read_population(workdir: pathlib.Path) -> dict[str, Any] | None:
    """What population.json in a folder holds; None where there is none, or none that is whole.

    Args:
      workdir: of the population.
    """
    try:
        found = json.loads((workdir / FILE).read_text(encoding="utf-8"))
        return found if _whole(found) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _whole(found: dict[str, Any]) -> bool:
    """Whether all is there that readers look up, and of its kind; what is not there raises."""
    lines, swept, scores = found["members"], found["swept"], found["mean"].keys()
    return (
        type(found["epochs"]) is int
        and isinstance(found["score"], str)
        and bool(lines)
        and bool(swept)
        and found["sd"].keys() == scores
        and (found["best"] is None or found["best"] in range(len(lines)))
        and all(map(_number, [*found["mean"].values(), *found["sd"].values()]))
        and all(_line(i, line, swept, scores) for i, line in enumerate(lines))
    )


def _line(index: int, line: dict[str, Any], swept: list[str], scores: Any) -> bool:
    result = line["result"]
    return (
        line["folder"] == f"member_{index:03d}"  # a path out of a stranger's file is not followed
        and line["state"] in _STATES
        and isinstance(line["reason"], str) == (line["state"] == "stopped")
        and _number(line["score"])
        and all(name in line["numbers"] for name in swept)
        and (result is None or (result.keys() >= scores and all(map(_number, result.values()))))
    )


def _number(value: Any) -> bool:
    return value is None or isinstance(value, int | float)
