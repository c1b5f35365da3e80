"""Translate a command line of the original program: what `topojax migrate-flags` prints."""

import argparse
import difflib
import itertools
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from topojax.config import command_line
from topojax.config.defaults import default_config
from topojax.config.io import flat
from topojax.config.original_flags import BY_NAME, FLAGS, Flag, translate
from topojax.config.validate import validate
from topojax.errors import UserError

FILES = {"mnist": ("subset", "report_3k", "report_adaptive", "report_lr7"), "cifar10": ("subset", "report_3k")}
"""Data set → the variants of its configuration file that a line may start from."""

_WHERE = ("mlflow.tracking_uri", "mlflow.experiment", "mlflow.run_name")
"""Where a log would go: with logging off, a variant may say so though the line does not."""

_HEAD = """# The original's flags

What each command-line flag of the original program is here: a field of the configuration (`--config.FIELD=VALUE`), or
why it has no meaning. Written by `topojax migrate-flags --table`; a whole line is translated by

```bash
topojax migrate-flags -- --dataset mnist --epochs 3000 --lr 0.01 --lr_max 0.01 --adaptive_lr true
```

| flag | default there | here | remark |
|---|---|---|---|
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: (\S+)", message)
        if unknown:
            name = unknown[1].partition("=")[0].lstrip("-")
            close = difflib.get_close_matches(name, BY_NAME, n=1)
            hint = f"did you mean --{close[0]}?" if close else "docs/flags.md lists them"
            message = f"{unknown[1]} is no flag of the original program: {hint}"
        raise UserError(message)


def parse(line: Sequence[str]) -> dict[str, Any]:
    """The flags of a line of the original, by name, those given alone.

    Args:
      line: its arguments; what stands before the first flag (an interpreter, a script) is passed over.

    Raises:
      UserError: a flag that the original does not have, or a value of another type.
    """
    parser = _Parser(prog="", add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for flag in FLAGS:
        if flag.switch:
            parser.add_argument(f"--{flag.name}", action="store_true")
        else:
            kind = _boolean if isinstance(flag.default, bool) else str if flag.default is None else type(flag.default)
            parser.add_argument(f"--{flag.name}", type=kind)
    arguments = itertools.dropwhile(lambda word: not word.startswith("-"), line)
    return vars(parser.parse_args(list(arguments)))


def _boolean(text: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"{text!r} must be true or false")
    return known[text.lower()]


def migrate(line: Sequence[str], *, defaults: bool = False) -> tuple[list[str], list[str]]:
    """The equivalent topojax command.

    Args:
      line: arguments of the original.
      defaults: carry over all its defaults, loss weights and controllers among them.

    Returns:
      (words of the command, remarks on given flags that have no meaning here).

    Raises:
      UserError: what `parse` refuses, another data set, or values that no topojax configuration may have.
    """
    given = parse(line)
    wanted = translate(given, defaults=defaults)
    if wanted["data.name"] not in FILES:
        raise UserError(f"--dataset {wanted['data.name']}: choose one of {', '.join(FILES)}")
    start, overrides = _closest(wanted)
    words = [*_environment(given.get("device")), "topojax", "train", f"--config={start}"]
    if given.get("output_dir"):
        words.append(f"--workdir={given['output_dir']}")
    words += [f"--config.{name}={_written(value)}" for name, value in overrides.items()]
    remarks = [f"--{name}: {BY_NAME[name].remark}" for name in given if not BY_NAME[name].target]
    return words, remarks


def _closest(wanted: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The configuration with the fewest fields to override, and these.

    What the line means is the first variant with the wanted fields; that is checked to be one that trains.
    """
    files = [f"configs/{wanted['data.name']}.py:{variant}" for variant in FILES[wanted["data.name"]]]
    meant = default_config()  # not a variant: those are tuned, and the line says nothing of that
    meant.data.num_examples, meant.data.test_fraction = 3000, 0.2  # the original's
    meant.update_from_flattened_dict(wanted)
    validate(meant)
    free = ("name",) if meant.mlflow.enabled else ("name", *_WHERE)
    target = {name: value for name, value in flat(meant) if name not in free}
    found = []
    for file in files:
        fields = dict(flat(command_line.load(file)))
        found.append((file, {name: value for name, value in target.items() if fields[name] != value}))
    # A field cannot be unset from the command line; the first candidate differs in `wanted` alone.
    writable = [candidate for candidate in found if None not in candidate[1].values()]
    return min(writable, key=lambda candidate: len(candidate[1]))


def _environment(device: str | None) -> Iterable[str]:
    if not device:
        return
    kind, _, index = device.partition(":")
    if index:
        yield f"CUDA_VISIBLE_DEVICES={index}"
    yield f"JAX_PLATFORMS={kind}"


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def table() -> str:
    """docs/flags.md."""
    return _HEAD + "".join(
        f"| `--{flag.name}` | {_default(flag)} | {_target(flag)} | {flag.remark} |\n" for flag in FLAGS
    )


def _default(flag: Flag) -> str:
    if flag.switch:
        return "off"
    return "" if flag.default in (None, "") else f"`{_written(flag.default)}`"


def _target(flag: Flag) -> str:
    return ", ".join(f"`{name}`" for name in flag.target.split(", ")) if flag.target else "–"


def shell(words: Sequence[str]) -> str:
    """A command as a shell reads it, one override a line."""
    quoted = [shlex.quote(word) for word in words]
    first = quoted.index("train") + 2
    return " \\\n  ".join([" ".join(quoted[:first]), *quoted[first:]])
