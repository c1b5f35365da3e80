"""population.json: what is known of the members of a population, and what is the mean of them."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from topojax.errors import UserError, tell_once
from topojax.storage import workdir as workdirs
from topojax.storage.checkpoint import last_epoch
from topojax.storage.population import FILE, read_population


def folder(index: int) -> str:
    """A member's, in that of the population."""
    return f"member_{index:03d}"


def scores_of(result: dict[str, Any]) -> dict[str, Any]:
    """The scores in a run's result."""
    return {name: value for name, value in result.items() if name.startswith("test/")}


def means(rows: Sequence[dict[str, Any]], names: Any, of: Callable[..., Any] = np.mean) -> dict[str, float | None]:
    """Mean, or sample standard deviation, of each number over the rows that have it; None where too few have."""
    least = 2 if of is np.std else 1
    out: dict[str, float | None] = {}
    for name in names:
        found = [float(row[name]) for row in rows if isinstance(row.get(name), int | float)]
        settings = {"ddof": 1} if of is np.std else {}
        out[name] = round(float(of(found, **settings)), 6) if len(found) >= least else None
    return out


def read(path: pathlib.Path) -> dict[str, Any]:
    """What population.json in a folder holds; nothing where there is none, or with a line where it is damaged."""
    found = read_population(path)
    if found is None and (path / FILE).exists():
        tell_once(f"topojax: warning: {path / FILE} cannot be read: it is written again from the members")
    return found or {}


def finished(path: pathlib.Path, config: Any) -> dict[str, Any] | None:
    """population.json of a population that has trained all its epochs; None if there is more to do.

    Raises:
      UserError: another configuration, or fewer epochs than a member has trained.
    """
    if (path / "config.json").exists():
        workdirs.same_config(path, config)
    trained = max((last_epoch(member) for member in workdirs.members(path)), default=0)
    if trained > config.train.epochs:
        raise UserError(f"config.train.epochs = {config.train.epochs}, but members of {path} have trained {trained}")
    found = read(path)
    if not found:
        return None
    full = found["epochs"] == config.train.epochs

    def over(member: pathlib.Path, state: str) -> bool:
        ended = config.train.until == "settled" and (workdirs.read_result(member) or {}).get("ended") == "settled"
        return state == "stopped" or (state == "finished" and (full or ended))

    return found if all(over(path / folder(i), line["state"]) for i, line in enumerate(found["members"])) else None


def summary(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The best of the members, and mean and spread of those that have finished.

    Args:
      lines: `folder`, `numbers`, `state`, `reason`, `score` and `result` of each.

    Returns:
      `best`: the number of the member with the least score; `mean` and `sd` of each score; `members`: `lines`.
    """
    scores = {i: line["score"] for i, line in enumerate(lines) if line["score"] is not None}
    results = [line["result"] for line in lines if line["result"]]
    return {
        "best": min(scores, key=scores.__getitem__) if scores else None,
        "mean": means(results, results[0]) if results else {},
        "sd": means(results, results[0], np.std) if results else {},
        "members": list(lines),
    }
