"""A population in a line of text: which numbers of a configuration differ from member to member."""

import copy
import difflib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from topojax.config.io import flat
from topojax.config.numbers import names_of, why_not
from topojax.config.validate import validate
from topojax.errors import UserError

Value = int | float
_WHERE = "config.population.sweep"
_RANGE = re.compile(r"(?P<low>[^:]+?)\.\.(?P<high>[^:]+?)(?::(?P<count>\d+))?")
_LARGEST = 65536


def is_population(config: Any) -> bool:
    """Whether a configuration asks for more than one run."""
    return bool(config.population.size or config.population.sweep.strip())


def parse(text: str) -> dict[str, tuple[Value, ...]]:
    """Field → its values, of a text such as "seed=0..15; optim.learning_rate=1e-4,1e-3".

    Values are numbers separated by commas; a..b counts from one integer to another, both included, and a..b:n are n
    numbers evenly spaced in logarithm.

    Raises:
      UserError: for the first part that cannot be read, naming it.
    """
    found: dict[str, tuple[Value, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, values = (word.strip() for word in part.partition("="))
        name = name.removeprefix("config.")
        if not equals or not values:
            raise UserError(f"{_WHERE}: {part!r} must read FIELD=VALUE,VALUE or FIELD=FIRST..LAST")
        if name in found:
            raise UserError(f"{_WHERE}: {name} is there twice")
        found[name] = tuple(itertools.chain.from_iterable(_values(part, word) for word in values.split(",")))
    return found


def text_of(values: Mapping[str, Sequence[Value]]) -> str:
    """The text that `parse` reads as these values: for configuration files that compute them."""
    return "; ".join(f"{name}={','.join(map(repr, each))}" for name, each in values.items())


def differing(config: Any) -> dict[str, tuple[Value, ...]]:
    """Field → the values that a population's members take of it; without a sweep these are seeds."""
    found = parse(config.population.sweep)
    size = config.population.size
    return found or {"seed": tuple(range(config.seed, config.seed + size))}


def members(config: Any) -> list[Any]:
    """The configuration of every member, an ordinary run's: all combinations, the last field varying fastest.

    Raises:
      UserError: a sweep that cannot be read, a field that is unknown or cannot be swept, values of a wrong type or out
        of range, or a number of combinations that is not the population's size.
    """
    swept = differing(config)
    known = dict(flat(config))
    for name in swept:
        if name not in known:
            close = difflib.get_close_matches(name, names_of(config), n=1)
            hint = f"did you mean {close[0]}?" if close else "topojax fields lists them"
            raise UserError(f"{_WHERE}: there is no field {name}: {hint}")
        reason = why_not(config, name)
        if reason:
            raise UserError(f"{_WHERE}: {reason}")
    count, size = math.prod(map(len, swept.values())), config.population.size
    if size and size != count:
        raise UserError(f"config.population.size = {size}, but config.population.sweep makes {count} members")
    if count > _LARGEST:
        raise UserError(f"{_WHERE} makes {count} members: at most {_LARGEST}")
    return [_member(config, dict(zip(swept, values, strict=True))) for values in itertools.product(*swept.values())]


def numbers_in(config: Any, names: Sequence[str]) -> dict[str, Value]:
    """The values of these fields, by name."""
    values = dict(flat(config))
    return {name: values[name] for name in names}


def changed(config: Any, values: Mapping[str, Any]) -> Any:
    """A copy of a configuration with other values.

    Raises:
      UserError: a value of the wrong type.
    """
    new = copy.deepcopy(config)
    for name, value in values.items():
        try:
            new.update_from_flattened_dict({name: value})
        except (TypeError, ValueError) as error:
            kind = type(dict(flat(config))[name]).__name__
            raise UserError(f"{_WHERE}: {name} = {value!r} must be of type {kind}") from error
    return new


def _member(config: Any, values: Mapping[str, Value]) -> Any:
    new = changed(config, {**values, "population.size": 0, "population.sweep": "", "mesh.members": 0})
    shown = ", ".join(f"{name}={value:g}" for name, value in values.items())
    if names_of(new) != names_of(config):
        raise UserError(f"{_WHERE}: {shown}: a 0 takes code out of the program, which all members share")
    try:
        validate(new)
    except UserError as error:
        raise UserError(f"{_WHERE}, the member {shown}: {error}") from error
    return new


def _values(part: str, word: str) -> Iterator[Value]:
    word = word.strip()
    found = _RANGE.fullmatch(word)
    if not found:
        yield _number(part, word)
        return
    low, high = (_number(part, found[end]) for end in ("low", "high"))
    if found["count"] is None:
        if not (isinstance(low, int) and isinstance(high, int) and low <= high):
            raise UserError(f"{_WHERE}: {word!r} in {part!r} must count up from one integer to another, or end in :N")
        if high - low >= _LARGEST:
            raise UserError(f"{_WHERE}: {word!r} in {part!r} is more than {_LARGEST} members")
        yield from range(low, high + 1)
        return
    count = int(found["count"])
    if not (0 < low <= high) or not 2 <= count <= _LARGEST:
        raise UserError(f"{_WHERE}: {word!r} in {part!r} needs 0 < FIRST <= LAST and at least 2 values")
    for i in range(count):
        yield float(f"{low * (high / low) ** (i / (count - 1)):.6g}")


def _number(part: str, word: str) -> Value:
    for kind in (int, float):
        try:
            value: Value = kind(word)
        except ValueError:
            continue
        if math.isfinite(value):
            return value
    raise UserError(f"{_WHERE}: {word!r} in {part!r} is not a finite number")
