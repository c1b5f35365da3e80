"""Command lines and files that are not as they should be: what is valid is taken, the rest is one line and status 2.

Four of six are command lines of `topojax train`: fields of every kind at values of every kind, unknown ones, junk. Some
of the valid ones make a step. One is a line of another command, about a run that is there, or something else that is.
The others damage a file of a run and read it: its configuration, logs, checkpoints, a kept program, a checkpoint of the
original. What is read then is what was written, or an earlier checkpoint with a line, or nothing with a line; numbers
of a log line whose digits have changed are the exception (docs/reliability.md).
"""

import contextlib
import functools
import gc
import io
import json
import os
import pathlib
import random
import shutil
import string
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tests.faults import short_run
from tests.faults.counts import Counts

CONFIG = str(pathlib.Path(__file__).parents[1] / "tiny_config.py")
NUMBERS = ("0", "1", "2", "-1", "3", "7", "64", "1e-3", "0.5", "1.5", "1e39", "1e-50", "nan", "inf", "-inf", "1e400")
NUMBERS += ("2147483647", "2147483648", "1000000000000", "-9223372036854775809", "0x10", "1_0", "")
WORDS = (
    "None",
    "none",
    "true",
    "false",
    "True",
    "digits",
    "governor",
    "cosine",
    "none",
    "é",
    "\udcff",
    "a b",
    "../x",
    "~",
)
JUNK = (
    "--workdir",
    "--",
    "-",
    "extra",
    "--config",
    "--nosuch=1",
    "--config.=1",
    "--config.a.b.c=1",
    "--config.model=1",
)
PROGRAMS = 250
"""Of so many command lines one that is valid and has a program of its own makes a step; those of one that has been
compiled all do."""
REAL = 500
"""Of so many command lines one that is refused is given to a process of its own, and refused in the same words."""
SMALL = {"hidden_dim": 64, "latent_dim": 8, "num_charts": 16, "codes_per_chart": 16, "jump_rank": 8}


def run(folder: pathlib.Path, count: int, seed: int) -> Counts:
    """Try until there have been so many."""
    from topojax.training import loop

    counts = Counts(folder, "fuzz")
    whole = folder / "whole"
    if not (whole / "result.json").exists():
        with contextlib.redirect_stdout(io.StringIO()):
            loop.train_and_evaluate(short_run.config(), whole)
    files, steps, others = _Files(whole, folder / "damaged"), _Steps(counts), _Others(whole, folder / "others")
    while counts["lines"] + counts["files"] < count:
        done = counts["lines"] + counts["files"]
        chance = random.Random(f"{seed} {done}")
        if done % 6:
            if done % 6 == 1:
                others.line(chance, counts)
            else:
                _line(chance, counts, steps)
            counts["lines"] += 1
        else:
            files.damage(chance, counts)
            counts["files"] += 1
        if done % 25 == 0:
            counts.keep()
    return counts


def _line(chance: random.Random, counts: Counts, steps: Callable[[Any, Counts, list[str]], None]) -> None:
    fields, words = _fields(), []
    for _ in range(chance.randint(1, 3)):
        kind = chance.random()
        if kind < 0.06:
            words.append(chance.choice(JUNK))
            continue
        name = chance.choice(list(fields))
        if kind < 0.1:
            name = name[: chance.randrange(len(name))] + chance.choice(string.ascii_letters) + name[1:]
        usual = fields.get(name)
        if isinstance(usual, bool):
            value = chance.choice(("true", "false", *WORDS[:4], "2"))
        elif isinstance(usual, int | float) and chance.random() < 0.5:
            value = repr(type(usual)(usual * chance.choice((0.5, 2, 1))))
        else:
            value = chance.choice((*NUMBERS, *WORDS) if chance.random() < 0.8 else (repr(usual),))
        words.append(f"--config.{name}={value}")
    accepted: list[Any] = []
    words = ["train", f"--config={CONFIG}", f"--workdir={os.devnull}/x", *words]
    status, said = command(words, accepted)
    _one_line(status, said, counts, f"{words}")
    if status == 2 and counts["processes"] * REAL <= counts["lines"]:
        counts["processes"] += 1
        ended = subprocess.run(
            [sys.executable, "-m", "topojax", *words],
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
        )
        if (ended.returncode, ended.stderr) != (status, said):
            counts.broke(f"{words}: a process ends with {ended.returncode}: {ended.stderr[-600:]}, not {said}")
    counts["valid lines"] += status == 0
    if status == 0 and accepted:
        steps(accepted[0], counts, words)


@functools.cache
def _fields() -> dict[str, Any]:
    from topojax.config.defaults import default_config
    from topojax.config.io import flat

    return dict(flat(default_config()))


def command(words: list[str], accepted: list[Any] | None = None, shown: Any = None) -> tuple[int, str]:
    """Status and stderr of a command; of `train`, up to where a valid configuration would be trained."""
    import ml_collections
    from absl import flags

    from topojax import commands
    from topojax.config.validate import validate
    from topojax.training import loop

    def only_validated(config: Any, workdir: Any, **_: Any) -> None:
        validate(config)
        assert accepted is not None
        accepted.append(config)

    trains, said, as_text = loop.train_and_evaluate, io.StringIO(), ml_collections.ConfigDict.__str__
    try:
        if accepted is not None:
            loop.train_and_evaluate = only_validated
            # Half of a line's time: the whole configuration as YAML, for a help that nobody asks for.
            ml_collections.ConfigDict.__str__ = lambda self: "config"
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown or io.StringIO()):
            return commands.main(words), said.getvalue()
    except BaseException as error:
        return 70, f"{type(error).__name__}: {error}"
    finally:
        loop.train_and_evaluate, ml_collections.ConfigDict.__str__ = trains, as_text
        flags.FLAGS.unparse_flags()
        for name in [name for name in flags.FLAGS if name.startswith("config")]:
            delattr(flags.FLAGS, name)


class _Others:
    """Lines of the commands that read: of a run, of somebody's folder, of a file, of nothing."""

    def __init__(self, whole: pathlib.Path, folder: pathlib.Path):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder / "run")
        (folder / "empty").mkdir()
        (folder / "text").write_text("text")
        places = [str(folder / name) for name in ("run", "empty", "text", "nosuch", "a\nb", "run/config.json")]
        places += ["", "\0", "\udcff", "s3://a/b", "~nobody/x", os.devnull]
        run, steps = [places[0]] * 12 + places, (*NUMBERS, "2", "4")
        outs = [
            str(folder / name) for name in ("out.json", "out.npz", "nosuch/deep/out.json", "empty", "out", "out.h5")
        ]
        usual = {"--workdir": run, "--step": steps, "--split": ("train", "test", "valid", ""), "--data": places}
        about = {"--workdir": run, "--data": places, "--out": [*outs, *places[3:]]}
        self.options: dict[str, dict[str, Sequence[str]]] = {
            "contracts": {"--workdir": run, "--step": steps, "--averaged": ("",)},
            "evaluate": {**usual, "--out": outs},
            "export": {**usual, "--out": outs, "--format": ("stablehlo", "onnx")},
            "report": {**usual, "--compare": places, "--every": steps},
            "topology": about,
            "fields": {"": (*WORDS, "train", "governor.grow")},
            "import-torch": {"": places, "--workdir": [*places[1:], str(folder / "new")], "--verify": places},
            "migrate-flags": {"": ("--epochs", "12", "--lr", "0.1", "--nosuch"), "--table": ("",), "--defaults": ("",)},
            "data": {"": ("list", "fetch", "nosuch"), "--data_dir": places[1:]},
            "nosuch": {"--workdir": run},
        }

    def line(self, chance: random.Random, counts: Counts) -> None:
        """One line of one of them."""
        name = chance.choice(list(self.options))
        words = [name]
        for option, values in self.options[name].items():
            if chance.random() < (0.9 if option in ("--workdir", "--out", "") else 0.3):
                value = chance.choice(values)
                words += [value] if not option else [option] if values == ("",) else [f"{option}={value}"]
        if chance.random() < 0.1:
            words.insert(chance.randint(1, len(words)), chance.choice((*JUNK, "--step", "--workdir=")))
        status, said = command(words)
        _one_line(status, said, counts, f"{words}")
        counts[f"lines: {name}"] += 1


def _one_line(status: int, said: str, counts: Counts, what: str) -> None:
    if status not in (0, 2) or "Traceback" in said or (status and said.count("\n") != 1):
        counts.broke(f"{what}: status {status}: {said[-600:]}")


class _Steps:
    """Valid configurations make a step, or are refused by their data; those that differ in numbers share a program."""

    def __init__(self, counts: Counts):
        from tiny_config import get_config

        self._compiled: dict[str, tuple[Any, Any, Any]] = {}
        self(get_config(), counts, [CONFIG], due=True)  # most lines change numbers of its

    def __call__(self, config: Any, counts: Counts, words: list[str], *, due: bool = False) -> None:
        """One step of one configuration, where its program is there or due."""
        import jax
        import jax.numpy as jnp

        from topojax.config.numbers import described, pack
        from topojax.data import sets
        from topojax.errors import UserError
        from topojax.scoring.run import build

        if any(config.model[name] > most for name, most in SMALL.items()) or config.data.name != "digits":
            return
        try:
            dataset = sets.load(config.data, seed=config.seed)
            model, _ = build(config, dataset.sizes())
        except UserError:
            counts["refused by their data"] += 1
            return
        of = json.dumps([described(config), dataset.sizes()], sort_keys=True, default=str)
        if of not in self._compiled and not due and counts["programs"] * PROGRAMS > counts["lines"]:
            return
        try:
            if of not in self._compiled:
                counts["programs"] += 1
                # The first and the latest stay: kernels are mapped one by one, and a process has so many mappings.
                for name in list(self._compiled)[1:]:
                    del self._compiled[name]
                gc.collect()
                self._compiled[of] = _programs(config, model, dataset.sizes())
            init, step, probe = self._compiled[of]
            numbers = jax.tree.map(jnp.asarray, pack(config))
            data = jax.tree.map(jnp.asarray, dataset.train)
            batch = jax.tree.map(lambda x: x[: config.train.batch_size], data)
            state, _ = step(numbers, init(numbers), batch, probe(numbers, data))
            counts["steps"] += 1
            if not state.sound():
                counts.broke(f"{words}: the state is not sound")
        except Exception as error:
            counts.broke(f"{words}: {type(error).__name__}: {str(error)[:300]}")


def _programs(config: Any, model: Any, sizes: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Compiled when they are first called: beginning, step, probe, each of the numbers and what else it takes."""
    import jax

    from topojax.config.numbers import placed
    from topojax.scoring.run import program_of

    def of(numbers: Any) -> Any:
        return program_of(placed(config, numbers), model, sizes)

    return (
        jax.jit(lambda numbers: of(numbers).init()),
        jax.jit(lambda numbers, *given: of(numbers).train_step(*given)),
        jax.jit(lambda numbers, data: of(numbers).probe_of(data)),
    )


def _damaged(content: bytes, chance: random.Random) -> bytes | None:
    """A file's bytes otherwise; None: no file."""
    n = len(content)
    at = chance.randrange(max(n, 1))
    how = chance.randrange(7)
    if how < 3:  # one bit: what disks and memory do
        return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :] if n else b"\0"
    if how == 3:
        return content[:at]
    if how == 4:
        return content[:at] + chance.randbytes(chance.randint(1, 64)) + content[at:]
    return b"" if how == 5 else None


class _Files:
    """A finished run, copied and damaged."""

    def __init__(self, whole: pathlib.Path, copy: pathlib.Path):
        import jax
        import original_file

        from topojax.scoring.run import restore
        from topojax.storage.checkpoint import digest
        from topojax.storage.logs import rows_of

        self.whole, self.copy = whole, copy
        self.changed: list[pathlib.Path] | None = None  # of the copy; None before there is one
        epochs = [int(path.name) for path in (whole / "checkpoints").iterdir() if path.name.isdecimal()]
        self.digests = {digest(restore(whole, step=epoch).state) for epoch in epochs}
        self.abstract = jax.eval_shape(lambda tree: tree, restore(whole).state)
        self.table = _command_out(["contracts", f"--workdir={whole}"])
        self.rows = {name: list(rows_of(whole / name)) for name in ("metrics.jsonl", "events.jsonl")}
        self.original = whole.parent / "original.npz"
        original_file.save_npz(self.original, original_file.tree())
        self.kinds: dict[str, Callable[[random.Random, Counts], None]] = {
            "config": self._config,
            "log": self._log,
            "checkpoint": self._checkpoint,
            "program": self._program,
            "original": self._original,
            "data": self._data,
        }
        self.data = _data_files(whole.parent / "data")

    def damage(self, chance: random.Random, counts: Counts) -> None:
        """One file of one kind."""
        kind = chance.choice(list(self.kinds))
        counts[f"files: {kind}"] += 1
        try:
            self.kinds[kind](chance, counts)
        except Exception as error:
            counts.broke(f"{kind}: {type(error).__name__}: {str(error)[:500]}")

    def _fresh(self) -> None:
        """The copy as the run was: what has been damaged since is put back."""
        if self.changed is None:
            shutil.rmtree(self.copy, ignore_errors=True)
            shutil.copytree(self.whole, self.copy)
        for path in self.changed or ():
            path.write_bytes((self.whole / path.relative_to(self.copy)).read_bytes())
        self.changed = []

    def _replace(self, path: pathlib.Path, chance: random.Random) -> None:
        content = _damaged(path.read_bytes(), chance)
        if self.changed is not None and path.is_relative_to(self.copy):
            self.changed.append(path)
        path.unlink()
        if content is not None:
            path.write_bytes(content)

    def _config(self, chance: random.Random, counts: Counts) -> None:
        self._fresh()
        self._replace(self.copy / "config.json", chance)
        shown = io.StringIO()
        status, said = command(["contracts", f"--workdir={self.copy}"], shown=shown)
        if status == 0:
            counts["configurations taken from the checkpoint"] += bool(said)
            if shown.getvalue() != self.table:
                counts.broke(f"config: another table: {said}")
        else:
            _one_line(status, said, counts, "contracts")

    def _log(self, chance: random.Random, counts: Counts) -> None:
        from topojax.report.history import read

        self._fresh()
        name = chance.choice(list(self.rows))
        self._replace(self.copy / name, chance)
        history = read(self.copy)
        found = history.rows if name == "metrics.jsonl" else history.events
        counts["log lines kept"] += len(found)
        if len(found) > len(self.rows[name]) + 1:
            counts.broke(f"{name}: more lines than were written")

    def _checkpoint(self, chance: random.Random, counts: Counts) -> None:
        from topojax.errors import Stopped, UserError
        from topojax.scoring.run import restore
        from topojax.storage.checkpoint import Checkpoints, digest

        self._fresh()
        files = sorted(path for path in (self.copy / "checkpoints").rglob("*") if path.is_file())
        for _ in range(chance.randint(1, 2)):
            path = chance.choice(files)
            if path.exists():
                self._replace(path, chance)
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            try:
                if chance.random() < 0.1:
                    state = restore(self.copy).state
                else:  # what is read of it, without the program that it is of
                    with contextlib.closing(Checkpoints(self.copy, read_only=True)) as store:
                        state, _ = store.newest(lambda epoch: store.restore(self.abstract, epoch))
            except (UserError, Stopped) as error:
                counts["checkpoints refused"] += 1
                if "\n" in str(error):
                    counts.broke(f"checkpoint: not one line: {error}")
                return
        counts["checkpoints fallen back"] += bool(said.getvalue())
        if digest(state) not in self.digests:
            counts.broke("checkpoint: another state")

    def _program(self, chance: random.Random, counts: Counts) -> None:
        from topojax.storage import program_cache

        path = self.copy.with_suffix(".program")
        blob, names = chance.randbytes(200), ("a", "b", "c")
        program_cache._write(path, "digest", blob, names)
        self._replace(path, chance)
        found = program_cache._read(path, "digest")
        counts["programs refused"] += found is None
        if found is not None and found != (bytearray(blob), names):
            counts.broke("program: another one")

    def _original(self, chance: random.Random, counts: Counts) -> None:
        from topojax.errors import UserError
        from topojax.storage import named_tensors

        path = self.copy.with_suffix(".npz")
        path.write_bytes(self.original.read_bytes())
        self._replace(path, chance)
        try:
            named_tensors.load(path)
        except UserError as error:
            counts["originals refused"] += 1
            if "\n" in str(error):
                counts.broke(f"original: not one line: {error}")

    def _data(self, chance: random.Random, counts: Counts) -> None:
        from topojax.data import readers
        from topojax.data.raw import Options
        from topojax.errors import UserError

        name = chance.choice(sorted(self.data))
        path = self.copy.parent / name
        path.write_bytes(self.data[name])
        self._replace(path, chance)
        try:
            readers.read(path, Options())
        except UserError as error:
            counts["data refused"] += 1
            if "\n" in str(error):
                counts.broke(f"data {name}: not one line: {error}")


def _data_files(folder: pathlib.Path) -> dict[str, bytes]:
    """A good file of each kind that is read without an extra: name → bytes."""
    import numpy as np

    folder.mkdir(exist_ok=True)
    image = np.random.default_rng(0).integers(0, 256, (20, 4, 4), dtype=np.uint8)
    np.savez_compressed(folder / "a.npz", x=image, y=np.arange(20) % 2)
    np.save(folder / "a.npy", image)
    (folder / "a.csv").write_text("a,b,label\n" + "".join(f"{i},{i / 7:.3f},{'uv'[i % 2]}\n" for i in range(20)))
    (folder / "a.jsonl").write_text("".join(json.dumps({"a": i, "label": i % 2}) + "\n" for i in range(20)))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _command_out(words: list[str]) -> str:
    from topojax import commands

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        commands.main(words)
    return said.getvalue()
