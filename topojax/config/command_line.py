"""Commands that take a configuration: `--config=FILE`, `--config.FIELD=VALUE` and absl's flags.

The configuration file and the names of overridden fields are checked before ml_collections sees them: its own
errors are tracebacks, and come up while flags are still being defined.
"""

import contextlib
import difflib
import importlib.util
import pathlib
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence

import ml_collections
from absl import flags
from ml_collections import config_flags

from topojax.config.defaults import default_config
from topojax.config.io import flat
from topojax.errors import UserError

Main = Callable[[ml_collections.ConfigDict], int | None]
DEFAULT_CONFIG = pathlib.Path(__file__).with_name("defaults.py")
_SHORT = 10
"""Lines of a docstring that --help prints whole."""
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)")
_WANTED = {
    "invalid literal for int": "an integer",
    "could not convert string to float": "a number",
    "Non-boolean": "true or false",
}


def carry_out(main: Main, doc: str, argv: Sequence[str]) -> int:
    """Run a command that takes --config and the flags its module defines.

    Args:
      main: the command; given the configuration, locked; returns the exit status, None for 0.
      doc: what --help prints above the flags.
      argv: program first.

    Returns:
      The exit status.

    Raises:
      UserError: bad flags, or a bad configuration.
    """
    if asked := {"--help", "-h", "-help", "--helpshort", "--helpfull"} & set(argv[1:]):
        print(f"{doc.strip() if '--helpfull' in asked else _brief(doc)}\n\nFlags:\n{_flag_help()}")
        return 0
    return main(parse(argv)) or 0


def overridden(argv: Sequence[str]) -> set[str]:
    """The fields that a command line sets, as `train.epochs`."""
    return {match[1] for match in map(_OVERRIDE.match, argv) if match}


def parse(argv: Sequence[str]) -> ml_collections.ConfigDict:
    """Parse the command line into absl's flags and the configuration it describes.

    Args:
      argv: program first.

    Raises:
      UserError: for anything wrong with it.
    """
    path = _config_argument(argv)
    argv = [argument.replace(path, _located(path)) if _names(argument, path) else argument for argument in argv]
    fields = [name for name, _ in flat(load(path))]
    for field in overridden(argv):
        if any(name.startswith(f"{field}.") for name in fields):
            raise UserError(f"config.{field} is a block: set one of its fields, as in --config.train.epochs=10")
        if field not in fields:
            raise UserError(
                f"unknown field config.{field}{_hint(field, fields, 'config.', '--print_config shows them')}"
            )
    argv, unset = _without_unset(argv)
    config = config_flags.DEFINE_config_file("config", _located(path), "Configuration file.", lock_config=True)
    try:
        with _as_of_the_process(argv):
            rest = flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        raise UserError(
            f"unknown flag --{error.flagname}{_hint(error.flagname, flags.FLAGS, '', '--help lists them')}"
        ) from error
    except (flags.Error, ValueError, TypeError, LookupError, AttributeError) as error:  # ml_collections has all of them
        raise UserError(_in_words(str(error))) from error
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}: flags are written --name=value")
    if unset:
        config.value.update_from_flattened_dict(dict.fromkeys(unset))
    return config.value


_WORDS = {("config.data.label", "none"), ("config.data.shape", "none")}
"""Optional fields of which `none` is a value; None unsets them, too."""


def _without_unset(argv: list[str]) -> tuple[list[str], list[str]]:
    """The arguments without those that set an optional field to None, and the fields of which that is the last word."""
    optional = {f"config.{name}" for name, value in flat(default_config()) if value is None}
    words, unset, following = list[str](), dict[str, bool](), iter(argv)
    for argument in following:
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or name not in optional:
            words.append(argument)
            continue
        value = value if equals else next(following, "")
        unset[name] = value.lower() == "none" and (name, value) not in _WORDS
        words += [] if unset[name] else [f"--{name}={value}"]
    return words, [name.removeprefix("config.") for name, last in unset.items() if last]


@contextlib.contextmanager
def _as_of_the_process(argv: list[str]) -> Iterator[None]:
    """ml_collections looks for the overrides in `sys.argv`, whatever absl is given."""
    before, sys.argv = sys.argv, argv
    try:
        yield
    finally:
        sys.argv = before


def load(path: str) -> ml_collections.ConfigDict:
    """The configuration of `file.py` or `file.py:variant`.

    Raises:
      UserError: a file that is missing or fails, with the line; an unknown variant; no `get_config`.
    """
    name, colon, variant = _located(path).partition(":")
    file = pathlib.Path(name)
    if not file.is_file():
        raise UserError(f"--config={path}: there is no file {name!r}")
    spec = importlib.util.spec_from_file_location("_config", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(*([variant] if colon else []))
    except SyntaxError as error:
        raise UserError(f"--config={path}: line {error.lineno}: {error.msg}") from error
    except Exception as error:  # the file is the user's program: it may raise anything
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if pathlib.Path(frame.filename).resolve() == file.resolve()
        ]
        where = f"line {lines[-1]}: " if lines else ""
        raise UserError(f"--config={path}: {where}{str(error) or type(error).__name__}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"--config={path}: get_config() returns {type(config).__name__}, not a ConfigDict")
    return config


def _config_argument(argv: Sequence[str]) -> str:
    """The last value of --config, as absl would have it, or the package's own defaults."""
    found = str(DEFAULT_CONFIG)
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if argument in ("--config", "-config"):
            found = following
        elif argument.startswith(("--config=", "-config=")):
            found = argument.partition("=")[2]
    return found


def _located(path: str) -> str:
    """`configs/…` that is not in the current folder is the one that came with the package, or lies beside it."""
    name, colon, variant = path.partition(":")
    if pathlib.Path(name).is_file() or not name.startswith("configs/"):
        return path
    beside = DEFAULT_CONFIG.parents[2]  # a checkout, or what a wheel was unpacked into
    for folder in (beside, beside / "share" / "topojax", pathlib.Path(sysconfig.get_path("data"), "share", "topojax")):
        if (folder / name).is_file():
            return f"{folder / name}{colon}{variant}"
    return path


def _names(argument: str, path: str) -> bool:
    return argument in (path, f"--config={path}", f"-config={path}")


def _hint(name: str, known: Iterable[str], prefix: str, otherwise: str) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean --{prefix}{close[0]}?" if close else f": {otherwise}"


def _in_words(message: str) -> str:
    """'flag --x=abc: invalid literal for int() with base 10' → '--x=abc: must be an integer'."""
    message = message.removeprefix("flag ")
    for text, words in _WANTED.items():
        if text in message:
            return f"{message.partition(': ')[0]}: must be {words}"
    return message


def _brief(doc: str) -> str:
    """The whole text of a short command; of a long one what it is for and how it is called."""
    paragraphs = doc.strip().split("\n\n")
    if sum(paragraph.count("\n") for paragraph in paragraphs) < _SHORT:
        return doc.strip()
    return "\n\n".join([*paragraphs[:2], "--helpfull says what is measured, and what the results mean."])


def _flag_help() -> str:
    """--config, and the flags of the command's own module; absl's are left out."""
    lines = [
        "  --config=FILE[:VARIANT]  configuration (default: digits); --config.FIELD=VALUE overrides a field;",
        "                           topojax fields says what each field means",
    ]
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if not module.startswith("absl"):
            lines += [f"  --{flag.name:23}{flag.help}" for flag in defined]
    return "\n".join(lines)
