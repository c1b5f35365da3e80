"""Orbax's manager of checkpoints as it is used here: what is kept, and what is not said of damaged files."""

import contextlib
import datetime
import logging
import math
import sys
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies


@contextlib.contextmanager
def uncomplaining() -> Iterator[None]:
    """What orbax has to say of damaged files, or of a disk that refuses, is said here, in a line.

    Reads and writes that are under way when the first of them fails find orbax's event loop closed, and say so at their
    end, which may come whenever it likes: after a failure this process hears no more of closed loops, nor of orbax's
    log.
    """
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)
    before = sys.unraisablehook

    def hook(ignored: Any) -> None:
        if not (isinstance(ignored.exc_value, RuntimeError) and "Event loop is closed" in str(ignored.exc_value)):
            before(ignored)

    sys.unraisablehook = hook
    try:
        yield
        sys.unraisablehook = before
    except BaseException:
        log.addFilter(_of_others)
        raise
    finally:
        log.setLevel(level)


def _of_others(record: logging.LogRecord) -> bool:
    """Whether orbax has not logged it: its threads tell of a failure when they please."""
    return "orbax" not in record.pathname


def _uncounted() -> None:
    """Have orbax ask tensorstore for no counts: what that answers (0.1.86) is never let go, a tenth of a MiB a save.

    Orbax takes them for its log alone, how many bytes a second were written.
    """
    with contextlib.suppress(ImportError):
        from orbax.checkpoint._src.serialization import tensorstore_utils

        if hasattr(tensorstore_utils, "get_tensorstore_raw_bytes"):
            tensorstore_utils.get_tensorstore_raw_bytes = lambda *_, **__: 0


_uncounted()


class _Step(ocp.path.step.Metadata):
    """A step whose time nobody asks for: orbax reads it of a file that may be damaged."""

    @property
    def commit_timestamp(self) -> datetime.datetime:
        """Always the same."""
        return datetime.datetime.min


class _Names:
    """Orbax's names of steps."""

    def __init__(self) -> None:
        self._names = ocp.path.step.standard_name_format()

    def find_all(self, base_path: Any) -> Iterator[_Step]:
        """Steps that are there."""
        return (_Step(step=found.step, path=found.path) for found in self._names.find_all(base_path))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._names, name)


class Manager(ocp.CheckpointManager):
    """Orbax's, but for losses that cannot be read: their checkpoint is not the best, and whole all the same."""

    def metrics(self, step: int) -> Any:
        """Those of a step, None where they are no numbers."""
        try:
            found = super().metrics(step)
        except (ValueError, OSError):
            return None
        loss: Any = found.get("loss") if isinstance(found, dict) else None
        return {"loss": loss} if type(loss) in (int, float) and not math.isnan(loss) else None


def manager_options(keep: int, processes: Any = None, *, clean: bool = True) -> Any:
    """How Orbax keeps checkpoints.

    Args:
      keep: how many of the latest, beside the one of least loss.
      processes: Orbax's options of several processes, None: there is one.
      clean: delete what an earlier save has left unfinished.
    """
    least = policies.BestN(
        get_metric_fn=lambda metrics: metrics["loss"],
        n=1,
        reverse=True,
        keep_checkpoints_without_metrics=False,
    )
    return ocp.CheckpointManagerOptions(
        enable_async_checkpointing=False,
        preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), least]),
        save_decision_policy=policies.FixedIntervalPolicy(1),
        step_name_format=_Names(),
        cleanup_tmp_directories=clean,
        create=False,
        multiprocessing_options=processes or ocp.options.MultiprocessingOptions(),
        # The policy above decides what is kept; without these, the metrics it reads are not written.
        best_fn=lambda metrics: metrics["loss"],
        best_mode="min",
    )


def alone() -> Any:
    """Of several processes, one that waits for none of the others."""
    here = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=here, active_processes={here})
