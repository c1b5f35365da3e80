"""How a run ends: at which epoch, finished already, or in one line that says how it goes on."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from topojax.control.ending import SETTLED
from topojax.errors import Stopped, UserError, interrupts_noted
from topojax.scoring.run import restore
from topojax.step.state import TrainState
from topojax.storage import workdir as workdirs
from topojax.storage.checkpoint import last_epoch
from topojax.training.within import FOLDER

LOOK = 5
"""Epochs between two looks at how the run goes on: no more than the shortest fall of the rate."""


def ends_at(config: Any, row: Mapping[str, Any]) -> int:
    """The epoch that ends a run: where its control has decided on one, that, else the limit.

    Args:
      config: of the run.
      row: metrics of its last epoch.
    """
    settled = int(row.get("ending/cause") or 0) == SETTLED and config.train.until == "settled"
    return min(int(row["ending/last"]), config.train.epochs) if settled else config.train.epochs


@contextlib.contextmanager
def ended_well(path: pathlib.Path) -> Iterator[None]:
    """Say in one line how a run that is interrupted, or refused by the system, can go on."""
    try:
        with interrupts_noted():
            yield
    except KeyboardInterrupt as interrupt:
        raise type(interrupt)(goes_on(path)) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise Stopped(f"{where}{error.strerror or error}; {goes_on(path)}") from error
    except Stopped as stopped:
        raise Stopped(f"{stopped}; {goes_on(path)}") from stopped
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"not enough memory ({' '.join(str(error).split())[:200]}): lower config.train.batch_size or the sizes "
            "in config.model"
        ) from error


def goes_on(path: pathlib.Path) -> str:
    """What the same command would do, for the end of a line."""
    try:
        return f"the same command goes on from epoch {last_epoch(path)} of {path}"
    except (OSError, UserError, Stopped):
        return f"{path} cannot be read any more"


def finished(path: pathlib.Path, config: Any, allow_change: bool, *, shown: bool) -> TrainState | None:
    """The final state of a run that has trained all its epochs and written its result; None if there is more to do.

    Args:
      path: of the run.
      config: to go on with.
      allow_change: of fields that may change on resume.
      shown: say on the console that there is nothing to do.

    Raises:
      UserError: another configuration, fewer epochs than were trained, or results whose checkpoints are gone.
    """
    done = last_epoch(path)
    if not done:
        _require_no_results(path)
    else:
        workdirs.same_config(path, config, allow_change=allow_change)
    if done > config.train.epochs:
        raise UserError(f"config.train.epochs = {config.train.epochs}, but {path} has trained {done} already")
    ended = config.train.until == "settled" and (workdirs.read_result(path) or {}).get("ended") == "settled"
    if (done < config.train.epochs and not ended) or not workdirs.finished(path, done):
        return None
    run = restore(path)
    if run.epoch != done:  # the last checkpoint is damaged: its epochs are trained again
        return None
    if shown:
        print(f"{path} is finished: {done} epochs, results in {path / 'result.json'}")
    return run.state


def _require_no_results(path: pathlib.Path) -> None:
    """What a run without a checkpoint has come to is not written over: only whole runs have results."""
    epochs = (workdirs.read_result(path) or {}).get("epochs")
    if epochs and not last_epoch(path / FOLDER):
        raise UserError(
            f"{path} has the results of {epochs} epochs but no checkpoint: put its checkpoints back to go on, remove "
            "the folder to train anew, or name another --workdir"
        )
