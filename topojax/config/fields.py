"""What every configuration field means, with its unit and default: docs/config.md, and what `topojax fields` prints.

Read from the comments of topojax/config/defaults.py, and for contracts from the docstring of their table: there is no
second copy.
"""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any

from topojax.atlas.table import TABLE, Contract
from topojax.config import defaults
from topojax.config.io import flat
from topojax.config.numbers import when_swept
from topojax.config.validate import CHOICES, INTERVALS
from topojax.errors import UserError

_HEAD = """# Configuration fields

Every field with its default and meaning; set one with `--config.FIELD=VALUE`. Written by `topojax fields`
from the comments of `topojax/config/defaults.py`. What a population may sweep (`config.population.sweep`) is a number
of the program, and the column `sweep` says when.
"""
_CONTRACTS = """
## contracts

One block for each row of `topojax/atlas/table.py`: `--config.contracts.NAME.FIELD=VALUE`. Fields of a row, with
the defaults that hold where the second table says nothing else:

| field | default | may be | sweep | meaning |
|---|---|---|---|---|
"""
_ROWS = """
| contract | promise | its own values |
|---|---|---|
"""


@dataclasses.dataclass(frozen=True)
class Field:
    """One field: dotted name, default, meaning, what it may be (empty: its type says it), when it can be swept."""

    name: str
    default: Any
    meaning: str
    values: str = ""
    sweep: str = ""


def fields() -> list[Field]:
    """Every field outside the contracts, in the order of declaration."""
    values, found = dict(flat(defaults.default_config())), []
    allowed = {name: interval for interval, names in INTERVALS.items() for name in names}
    allowed |= {name: ", ".join(words) for name, words in CHOICES.items()}
    for name, meaning in _comments():
        # A block made from a table, as group_rates, has one comment for all its fields.
        inside = [field for field in values if field == name or (field.startswith(f"{name}.") and "." in name)]
        found += [Field(f, values[f], meaning, allowed.get(f, ""), when_swept(f)) for f in inside]
    return found


def _comments() -> Iterator[tuple[str, str]]:
    """(dotted name, the comment above its assignment, empty where there is none)."""
    comment: list[str] = []
    for line in map(str.strip, inspect.getsource(defaults.default_config).splitlines()):
        if line.startswith("# "):
            comment.append(line[2:])
            continue
        if match := re.match(r"c\.([\w.]+) = ", line):
            yield match[1], " ".join(comment)
        comment = []


def blocks() -> dict[str, str]:
    """Block → what the comment above it says, empty where nothing."""
    meanings = dict(_comments())
    return {name: meanings.get(name, "") for name in defaults.default_config() if _is_block(name)}


def _is_block(name: str) -> bool:
    return hasattr(defaults.default_config()[name], "items") and name != "contracts"


def contract_fields() -> list[Field]:
    """The fields of a contract, from its docstring."""
    meanings: dict[str, str] = {}
    for kind in reversed(Contract.__mro__):  # a row of control, then what the atlas says of it
        text = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
        for names, meaning in re.findall(r"^  ([\w, ]+): (.*(?:\n    .*)*)", text, re.M):
            meanings |= {name: " ".join(meaning.split()) for name in names.split(", ")}
    known = {field.name: field for field in dataclasses.fields(Contract)}
    missing = dataclasses.MISSING
    return [
        Field(
            name,
            None if known[name].default is missing else known[name].default,
            meanings[name],
            sweep=when_swept(f"contracts.*.{name}"),
        )
        for name in defaults.CONTRACT_FIELDS
    ]


def page() -> str:
    """docs/config.md."""
    parts, block = [_HEAD], ""
    about = blocks()
    for field in fields():
        own, dot, _ = field.name.partition(".")
        if not parts[1:] or (own if dot else "") != block:
            block = own if dot else ""
            title = f"\n## {block}\n" if block else ""
            said = f"\n{about[block]}\n" if about.get(block) else ""
            parts.append(f"{title}{said}\n| field | default | may be | sweep | meaning |\n|---|---|---|---|---|\n")
        parts.append(_line(field))
    parts.append(_CONTRACTS)
    parts += [_line(field) for field in contract_fields()]
    parts.append(_ROWS)
    parts += [_row(row) for row in TABLE]
    return "".join(parts)


def _line(field: Field) -> str:
    meaning = field.meaning.replace("|", "\\|")
    return f"| `{field.name}` | {_default(field.default)} | {field.values} | {field.sweep} | {meaning} |\n"


def _default(value: Any) -> str:
    return "unset" if value is None else f"`{value!r}`"


def _plain(field: Field) -> str:
    may_be = f" ({field.values})" if field.values else ""
    swept = f"; swept: {field.sweep}" if field.sweep else ""
    return f"{field.name} = {field.default!r}{may_be}{swept}\n    {field.meaning}"


def _row(row: Contract) -> str:
    usual = {field.name: field.default for field in contract_fields()}
    hidden = ("mechanism", "target", "unit")
    own = [
        f"{name} `{getattr(row, name)!r}`" for name in usual if name not in hidden and getattr(row, name) != usual[name]
    ]
    promise = f"{row.mechanism}: {row.signal} {row.relation} {row.target} {row.unit if row.unit != '1' else ''}"
    return f"| `{row.name}` | {promise.strip()} | {', '.join(own)} |\n"


def lookup(word: str) -> str:
    """The fields whose name holds a word, one a line.

    Raises:
      UserError: there is none.
    """
    every = [*fields(), *(dataclasses.replace(f, name=f"contracts.*.{f.name}") for f in contract_fields())]
    found = [_plain(field) for field in every if word in field.name]
    if not found:
        raise UserError(f"no configuration field holds {word!r}: topojax fields lists them all")
    return "\n".join(found)
