"""Configurations as text: saved next to a run, read back, compared."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ml_collections

from topojax.config.defaults import default_config
from topojax.errors import UserError

GONE = {
    "model.kmeans_start": (False,),
    "geometry.after": ("freeze",),
    "geometry.slow_decay": (0.99,),
    "baselines.attention_tokens": (0,),
    "baselines.attention_dim": None,
    "baselines.attention_heads": None,
    "contracts.*.max_step": (0.0,),
}
"""Fields of former versions that a saved configuration may still hold → values at which they did nothing; None: any."""

FORMER = {"model.discs": False, "model.bounded": False, "losses.told_share": 1.0}
"""What a run did whose saved configuration is older than these fields: their defaults are another model's."""


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf as (dotted name, value), in the order of declaration where `config` keeps one."""
    for name, value in config.items():
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def telling(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a board has columns for: all, but of the contracts' only those that are not the default."""
    usual = dict(flat(default_config()))
    return {name: v for name, v in flat(config) if not name.startswith("contracts.") or v != usual[name]}


def to_json(config: ml_collections.ConfigDict) -> str:
    """The configuration as JSON, sorted and indented, so that two of them can be compared line by line."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(text: str, where: str) -> ml_collections.ConfigDict:
    """The configuration that `to_json` wrote; fields newer than the text take their defaults, or `FORMER` values.

    Args:
      text: JSON.
      where: what the message calls it.

    Raises:
      UserError: for text that is no JSON object, a field unknown to this version, a value of another type.
    """
    config: Any = default_config()
    config.lock()
    try:
        fields = dict(flat(json.loads(text)))
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{where} is not a saved configuration: {error}") from error
    whole = "model.hidden_dim" in fields
    for name, value in {**(FORMER if whole else {}), **fields}.items():
        if _did_nothing(name, value):
            continue
        try:
            config.update_from_flattened_dict({name: value})
        except (KeyError, AttributeError) as error:
            raise UserError(f"{where} has the field {name}, unknown to this version of topojax") from error
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: {name} = {value!r} has the wrong type") from error
    return config


def _did_nothing(name: str, value: Any) -> bool:
    """Whether a field is gone, and stood where it did nothing."""
    block, _, leaf = name.rpartition(".")
    general = f"contracts.*.{leaf}" if block.startswith("contracts.") else name
    if general not in GONE:
        return False
    idle = GONE[general]
    return idle is None or value in idle


def differences(old: Mapping[str, Any], new: Mapping[str, Any], ignore: Iterable[str] = ()) -> list[str]:
    """What changed from one configuration to another, one 'field: old → new' for each field, sorted.

    Args:
      old: the first; a field it lacks reads 'absent'.
      new: the second.
      ignore: fields or whole blocks to leave out.
    """
    a, b = dict(flat(old)), dict(flat(new))
    ignored = tuple(ignore)
    lines = []
    for name in sorted(a.keys() | b.keys()):
        skip = any(name == field or name.startswith(f"{field}.") for field in ignored)
        x, y = a.get(name, "absent"), b.get(name, "absent")
        if not skip and x != y:
            lines.append(f"{name}: {x} → {y}")
    return lines
