"""An ordinary workdir of a checkpoint of the original: evaluated, explored and trained on like any other."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from topojax.atlas.controllers import make_control
from topojax.config.original_checkpoint import Saved, config_of, weights_of
from topojax.data import sets
from topojax.errors import Stopped, UserError, shown
from topojax.scoring.run import build
from topojax.step.original_state import imported
from topojax.step.state import TrainState
from topojax.storage import named_tensors
from topojax.storage import workdir as workdirs
from topojax.storage.checkpoint import Checkpoints
from topojax.storage.logs import JsonLines, number, write_json, write_text
from topojax.storage.runtime import versions
from topojax.training import original_parts
from topojax.training.original_history import history
from topojax.training.original_verify import verified

_LONGEST_NAME = 255
_LOCK, _FIRST, _LAST = ".lock", "provenance.json", "config.json"
"""What is there while an import writes, and its first and last file."""
_WRITTEN = (_FIRST, "data.npz", "metrics.jsonl", "events.jsonl", "checkpoints", "config.py", _LAST)
"""What an import writes, beside the lock."""
_CONFIG = '''"""The configuration of the run in this folder: --config.FIELD=VALUE changes a field."""

import pathlib

from topojax.config.io import from_json


def get_config():
    path = pathlib.Path(__file__).with_name("config.json")
    return from_json(path.read_text(encoding="utf-8"), str(path))
'''


def import_original(
    path: pathlib.Path, workdir: pathlib.Path, *, reference: pathlib.Path | None = None, fresh: bool = False
) -> list[str]:
    """Read a checkpoint of the original, and write a workdir that goes on from it.

    Leaves in `workdir`: checkpoints/, config.json, config.py (the same, for --config), data.npz (the examples that the
    file holds, in its split), metrics.jsonl (its losses), events.jsonl, provenance.json. Everything is checked before
    anything is written.

    Args:
      path: a .pt file, or an .npz or .safetensors of the same names (`named_tensors`).
      workdir: a folder that does not exist yet, is empty, or in which an import was cut off.
      reference: an .npz of inputs `x` and what the original made of them, to compare with.
      fresh: train on by this package's losses, contracts and rate; the model alone is the original's.

    Returns:
      Lines on what was imported, what could not be carried over, and how far outputs lie from the reference.

    Raises:
      UserError: a file that cannot be read or means something else, outputs that differ, a folder that is in use.
    """
    workdir = workdirs.located(workdir)
    _require_free(workdir)
    tree = named_tensors.load(path)
    with _reading(path):
        saved, config, arrays, about = _understood(path, tree, workdir, fresh)
    model, program = build(config, about)
    if saved.epoch * program.steps_per_epoch >= 2**31:
        raise UserError(f"{path}: epoch = {saved.epoch} of {program.steps_per_epoch} steps is beyond what is counted")
    try:
        state, lines = imported(config, program, saved, num_classes=about["num_classes"], fresh=fresh)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    if arrays is None:
        lines.append("no examples in the file: the split is this program's, and may test on what was trained on there")
    compared = [] if reference is None else verified(reference, model, state)
    source = {
        "imported_from": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "epoch": saved.epoch,
        "notes": lines,
    }
    with _written(workdir):
        write_json(workdir / _FIRST, source)
        if arrays is not None:
            np.savez_compressed(workdir / "data.npz", **arrays)  # type: ignore[arg-type]
        _write(workdir, config, state, saved, tree, source)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return [f"{path}: epoch {saved.epoch}, {parameters} parameters", *lines, *compared]


def _require_free(workdir: pathlib.Path) -> None:
    """A folder that is not there, is empty, or holds the rest of an import that was cut off."""
    if any(len(os.fsencode(part)) > _LONGEST_NAME for part in workdir.parts):  # before its parents are made
        raise UserError(f"--workdir={shown(str(workdir))}… has a name of more than {_LONGEST_NAME} bytes: name another")
    try:
        if workdir.exists() and not workdir.is_dir():
            raise UserError(f"--workdir={workdir} is no folder: name one that is not there yet")
        if workdir.exists() and not _cut_off(workdir):
            raise UserError(f"--workdir={workdir} is not empty: an import begins a run of its own")
    except OSError as error:
        raise UserError(f"--workdir={shown(str(workdir))} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[None]:
    """One line for what is of another type or size than it should be, wherever in the file it is met."""
    try:
        yield
    except (TypeError, ValueError, KeyError, IndexError, OverflowError, AttributeError, RecursionError) as error:
        told = shown(f"{type(error).__name__}: {error}", 200)
        raise UserError(f"{path} cannot be read as a checkpoint of the original: {told}") from error


def _understood(
    path: pathlib.Path, tree: Mapping[str, Any], workdir: pathlib.Path, fresh: bool
) -> tuple[Saved, ConfigDict, dict[str, np.ndarray] | None, dict[str, Any]]:
    """What the file says: its parts, the configuration that goes on from it, its examples if any, and their sizes."""
    saved = original_parts.saved(path, tree)
    rate = float(saved.rate.get("lr") or saved.config.get("lr") or 1e-3)
    try:
        config = config_of(saved.config, weights_of(saved.config, saved.weights), rate=rate, fresh=fresh)
    except UserError as error:  # fields are told by their names here: whose they are has to be said
        raise UserError(f"{path}: {error}") from error
    config.name = f"imported_{path.stem}"
    arrays = original_parts.examples(path, tree, saved)
    if arrays is None:
        config.data.update(name=str(saved.config.get("dataset")), num_examples=int(saved.config.get("n_samples", 3000)))
        config.data.test_fraction = float(saved.config.get("test_split", 0.2))
        about = sets.load(config.data, seed=config.seed).sizes()
    else:
        config.data.update(name=str((workdir / "data.npz").absolute()), scale="none", auto=False)
        shape, classes = arrays["x_train"].shape[1:], original_parts.classes(path, saved, arrays)
        about = {"num_train": len(arrays["y_train"]), "input_dim": int(np.prod(shape)), "num_classes": classes}
        about["image_shape"] = shape if len(shape) == 3 else None
        arrays["class_names"] = np.arange(classes).astype(str)
        if len(shape) != 3:
            config.data.shape = "none"
    config.train.batch_size = min(config.train.batch_size, about["num_train"])
    return saved, config, arrays, about


@contextlib.contextmanager
def _written(workdir: pathlib.Path) -> Iterator[None]:
    """The folder, claimed, without the rest of an import that was cut off; gone again if what is written fails."""
    there = workdir.exists()
    try:
        with workdirs.claim(workdir):
            _require_free(workdir)  # another import may have come first
            _cleared(workdir)
            try:
                yield
            except BaseException:
                _cleared(workdir)
                (workdir / _LOCK).unlink(missing_ok=True)
                raise
    except BaseException as error:
        if not there:
            with contextlib.suppress(OSError):  # not empty: another process is in it
                workdir.rmdir()
        if isinstance(error, OSError):
            raise Stopped(f"--workdir={workdir} cannot be written: {error.strerror or error}") from error
        raise


def _cleared(workdir: pathlib.Path) -> None:
    """Remove what an import has written; the lock is held."""
    for item in workdir.iterdir():
        if item.name in _WRITTEN and item.is_dir():
            _removed(item)
        elif item.name in _WRITTEN or _is_part(item):
            item.unlink()


def _removed(folder: pathlib.Path) -> None:
    """Remove a folder in which threads of a save that has failed may still be writing."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def _is_part(item: pathlib.Path) -> bool:
    """Whether it is what a write that was killed has left (`storage.logs.write_text`)."""
    return item.name.startswith(".") and item.name.endswith(".part")


def _cut_off(workdir: pathlib.Path) -> bool:
    """Whether a folder holds nothing but the rest of an import that was killed: no configuration, which comes last."""
    items = {item.name for item in workdir.iterdir() if not _is_part(item)}
    return items <= {_LOCK} or (_LOCK in items and _FIRST in items and items <= {_LOCK, *_WRITTEN} - {_LAST})


def _write(
    workdir: pathlib.Path,
    config: Any,
    state: TrainState,
    saved: Saved,
    tree: Mapping[str, Any],
    source: Mapping[str, Any],
) -> None:
    dataset = sets.load(config.data, seed=config.seed)
    rows = history(tree.get("metrics"), saved.epoch, steps=int(state.step) // max(saved.epoch, 1))
    previous = {"gate/phase": 1, **(rows[-1] if rows else {}), **_controlled(config, state, dataset.num_classes)}
    meta = {
        "epoch": saved.epoch,
        "data": dataset.manifest,
        **dataset.sizes(),
        "units": dataset.units.to_json(),
        "config": config.to_dict(),
        "versions": versions(),
        "previous": previous,
        "train_s": 0.0,
        "imported": source,
    }
    for name, entries in (("metrics.jsonl", rows), ("events.jsonl", [_event(saved, state, source)])):
        file = JsonLines(workdir / name, 0)
        with contextlib.closing(file):
            for entry in entries:
                file.write(entry)
    with contextlib.closing(Checkpoints(workdir, keep=config.checkpoint.keep)) as checkpoints:
        checkpoints.save(saved.epoch, state, json.loads(json.dumps(meta)), loss=previous.get("signal/task"))
    # Last: after a kill, who trains on by these begins at what was imported, never anew.
    write_text(workdir / "config.py", _CONFIG)
    workdirs.write_config(workdir, config)


def _controlled(config: Any, state: TrainState, num_classes: int) -> dict[str, Any]:
    """What a log would say of the controllers: rate, weights and targets."""
    system, _ = make_control(config, num_classes=num_classes)
    weights, targets = system.weights(state.control), system.targets(state.control)
    return {
        "lr_governor": number(state.control.governor.rate),
        **{f"weight/{name}": number(np.mean(value)) for name, value in weights.items()},
        **{f"contract/{name}/target": number(value) for name, value in targets.items()},
    }


def _event(saved: Saved, state: TrainState, source: Mapping[str, Any]) -> dict[str, Any]:
    return {"epoch": saved.epoch, "step": int(state.step), "event": "imported", "from": source["imported_from"]}
