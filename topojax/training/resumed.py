"""A checkpoint and the configuration that a run goes on with, which may be gone, or another than it was saved with."""

import contextlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from topojax.config.changes import changes
from topojax.config.io import from_json
from topojax.errors import UserError, tell
from topojax.scoring.run import build
from topojax.step.changed_state import changed
from topojax.step.state import TrainState
from topojax.storage import workdir as workdirs
from topojax.storage.checkpoint import Checkpoints, describe, last_epoch


def restored_under(
    checkpoints: Checkpoints, config: Any, about: Mapping[str, Any], abstract: Any, epoch: int
) -> tuple[TrainState, dict[str, Any], list[dict[str, Any]]]:
    """The state of an epoch, its metadata, and an event `setting` for each field that is not what it was.

    Args:
      checkpoints: of the run.
      config: that it goes on with, held against the saved one before (`workdir.same_config`).
      about: sizes of the data (`sets.Dataset.sizes`).
      abstract: the state's structure under `config`.
      epoch: of a checkpoint.

    Raises:
      UserError: as `Checkpoints.restore`; settings under which the state would have another structure.
    """
    old = from_json(json.dumps(checkpoints.meta(epoch)["config"]), "the checkpoint's configuration")
    found = changes(old, config)
    if not found:
        return *checkpoints.restore(abstract, epoch), []
    _, program = build(old, dict(about))
    state, meta = checkpoints.restore(jax.eval_shape(program.init), epoch)
    fields = {change.field for change in found}
    state = changed(state, old, config, fields, num_classes=about["num_classes"])
    here, there = describe(state), describe(abstract)
    if here != there:
        leaf = next(name for name in {**there, **here} if here.get(name) != there.get(name))
        raise UserError(f"{', '.join(sorted(fields))}: the state would have another {leaf}; start in a new --workdir")
    events = [{"event": "setting", "field": name, "from": _plain(old), "to": _plain(new)} for name, old, new in found]
    return state, meta, events


def config_mended(path: pathlib.Path) -> None:
    """A config.json that is gone is written again, as the last checkpoint was trained, with a line on stderr.

    A folder that is removed under a run that saves is left with that checkpoint alone.

    Args:
      path: of a run; one without checkpoints, or with somebody else's, stays as it is.
    """
    if (path / "config.json").exists() or not last_epoch(path):
        return
    try:
        with contextlib.closing(Checkpoints(path, read_only=True)) as checkpoints:
            meta = checkpoints.newest(checkpoints.meta)
        config = from_json(json.dumps(meta["config"]), f"checkpoint {meta['epoch']} of {path}")
    except (UserError, KeyError):
        return
    workdirs.write_config(path, config)
    tell(f"topojax: warning: {path} had no config.json: it is written again, as epoch {meta['epoch']} was trained")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
