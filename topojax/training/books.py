"""The books of a run: its metrics, events, evaluations, checkpoints and result."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas.controllers import clipped, start_rate
from topojax.atlas.feasible import unstable_gains
from topojax.data.feed import Feed
from topojax.data.stream import state_of
from topojax.errors import UserError, interrupts_deferred, tell
from topojax.scoring.audit import last_fifth
from topojax.scoring.run import Run
from topojax.scoring.scores import scores
from topojax.scoring.split import evaluate_run
from topojax.step.diagnosis import Culprit
from topojax.step.predict import predict
from topojax.step.state import TrainState
from topojax.storage.checkpoint import Checkpoints
from topojax.storage.logs import Sink, number, numbers, rows_of
from topojax.tracking.console import Progress
from topojax.tracking.console import number as number_text
from topojax.tracking.events import events, unsatisfied
from topojax.training.outcome import ends_at
from topojax.training.prepared import Prepared
from topojax.training.recovery import NotFinite, diverged, failed
from topojax.training.result import result_of, write_result
from topojax.training.within import Within
from topojax.types import Metrics


class Books(Prepared):
    """A run that is told its epochs: it evaluates, writes, saves, and says when it cannot go on."""

    shown = True
    """Whether the result is shown on the console."""

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self.checkpoints: Checkpoints
        self.names: Sequence[str]  # of an epoch's metrics
        self.evaluate: futures.Future  # the compiled evaluation of the test split
        self.culprit: Culprit | None = None
        self.train_s = self.compile_s = self.first_epoch_s = 0.0
        self.feed: Feed | None = None  # of a training split that stays on the host
        self.within = Within(self.path, self.peers.gathered if self.peers.number > 1 else None)
        self.rollbacks, self.failed_at = 0, 0  # since an epoch that failed was passed
        # What events compare the next epoch with; in the checkpoint, so that a resumed run tells the same.
        self.previous: dict[str, Any] = {}

    def _sinks(self, done: int) -> Iterator[Sink]:
        if self.config.log.tensorboard:
            from topojax.tracking.tensorboard_writer import TensorBoard

            step, rows = done * self.program.steps_per_epoch, rows_of(self.path / "metrics.jsonl")
            yield TensorBoard(
                self.path / "tensorboard", self.config, self.model, self.dataset, step=step, rows=rows if done else ()
            )
        if self.config.mlflow.enabled:
            from topojax.tracking.mlflow_run import remedy
            from topojax.tracking.mlflow_writer import Mlflow

            try:
                board = Mlflow(self.path)
            except UserError as error:
                if not done:
                    raise
                # A run that goes on does not wait for a server: its files have what that lacks.
                tell(f"topojax: warning: {error}; the run goes on without it: {remedy(self.path)}")
            else:
                yield board

    def first_row(self) -> None:
        """What the events of the first epoch are held against."""
        self.previous = {
            "lr_governor": number(jnp.float32(start_rate(self.config))),
            "gate/phase": 0 if self.config.gates.warmup_epochs else 1,
        }

    def _warn(self, writers: Sink, progress: Progress) -> None:
        """What is known to go wrong before it does."""
        found = [{"event": "clipped", **guess} for guess in clipped(self.config)]
        for event in found + [{"event": "unstable_gains", **gains} for gains in unstable_gains(self.program.rows)]:
            writers.event(0, 0, event)
            progress.say(0, event)

    def _fetch(
        self,
        epoch: int,
        waiting: list[Metrics],
        state: TrainState,
        writers: Sink,
        progress: Progress,
        before: TrainState | None,
    ) -> None:
        """Fetch the epochs since the last time, write their events, stop where the steps are not finite.

        Raises:
          NotFinite: too many of them.
          UserError: any, where the state `before` is given.
        """
        with self._training_time():
            rows = jax.device_get(waiting)
        for at, metrics in enumerate(rows, start=epoch - len(rows) + 1):
            row = {
                name: v
                for name, v in numbers(dict(zip(self.names, metrics, strict=True))).items()
                if name not in self.unmeasured
            }
            for event in events(self.previous, row, self.advice):
                writers.event(at, at * self.program.steps_per_epoch, event)
                progress.say(at, event)
            self.previous = row
            if before is not None and row["guard/skipped"]:
                raise UserError(f"config.debug: epoch {at}, {self._looked(before, 'operation')}")
            failures = failed(row, self.config.monitor.max_failures)
            if failures is not None:
                self.culprit = self._looked(state, "culprit")
                event = {"event": "diverged", "failures": failures, **self.culprit_named()}
                writers.event(at, at * self.program.steps_per_epoch, event)
                raise NotFinite(at, failures)

    def _looked(self, state: TrainState, what: str) -> Any:
        """What a diagnosis says of the epoch that follows a state: `culprit` or `operation`."""
        diagnosis, epoch = self.program.diagnosis, int(state.step) // self.program.steps_per_epoch
        if self.feed is not None:
            return getattr(diagnosis, f"{what}_in")(state, self.feed.again(state.key, epoch))
        return getattr(diagnosis, what)(state, self.handed.here())

    def culprit_named(self) -> dict[str, str]:
        """What was not finite first, for an event."""
        return {"tensor": self.culprit.tensor, "term": self.culprit.term} if self.culprit else {}

    def _test(self, state: TrainState) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        predictions = predict(self.evaluate.result(), state, self.dataset.test)
        return numbers(scores(predictions, np.asarray(self.dataset.test.label))), predictions

    def _save(self, epoch: int, state: TrainState, *, best: bool = True) -> None:
        if epoch >= self.failed_at:
            self.rollbacks = self.failed_at = 0
        loss = self.previous["signal/task"] if best else None
        self.checkpoints.save(epoch, state, self._meta(epoch), loss=loss)
        self.peers.agreed(False)  # nobody goes on before it is there
        if self.peers.first:
            self.within.drop()

    def _meta(self, epoch: int, step: int = 0) -> dict[str, Any]:
        """What lies beside a state, so many steps after an epoch."""
        return {
            "epoch": epoch,
            **self.about,
            "units": self.dataset.units.to_json(),
            "config": self.config.to_dict(),
            "versions": self.versions,
            "previous": self.previous,
            "train_s": self.train_s,
            "rollbacks": (self.rollbacks, self.failed_at),
            **state_of(self.feed, epoch, step),
        }

    def _halt_if_unsatisfied(self, epoch: int, state: TrainState, writers: Sink) -> None:
        if self.config.monitor.on_saturation != "halt":
            return
        found = unsatisfied(self.previous, self.advice)
        if found:
            self._save(epoch, state)
            writers.event(epoch, epoch * self.program.steps_per_epoch, {"event": "halted", **found[0]})
            name, advice = found[0]["name"], found[0]["advice"]
            value, target, weight = (number_text(found[0][field]) for field in ("value", "target", "weight"))
            raise UserError(
                f"halted in epoch {epoch}: contract {name} cannot be satisfied (value {value}, target {target}, weight "
                f"{weight} at its maximum): {advice}. {self.path} is saved; --config.monitor.on_saturation=warn goes on"
            )

    @property
    def last(self) -> int:
        """The epoch that ends the run, as far as it is known."""
        return ends_at(self.config, self.previous)

    @contextlib.contextmanager
    def _training_time(self) -> Iterator[None]:
        since = time.perf_counter()
        yield
        self.train_s += time.perf_counter() - since

    def _finish(self, state: TrainState, epoch: int) -> dict[str, Any]:
        with interrupts_deferred(False):  # all is saved
            return self._result(state, epoch)

    def _result(self, state: TrainState, epoch: int) -> dict[str, Any]:
        failures = int(self.previous.get("guard/failures") or 0)
        if failures >= self.program.steps_per_epoch:  # the whole last epoch changed nothing
            self.culprit = self._looked(state, "culprit")
            raise diverged(self.path, epoch, NotFinite(epoch, failures), self.culprit, self.rollbacks)
        if not self.peers.first:
            return {}
        run = Run(
            model=self.model,
            state=state,
            config=self.config,
            epoch=epoch,
            image_shape=self.dataset.image_shape,
            input_dim=self.dataset.train.image.shape[1],
            program=self.program,
            num_classes=self.dataset.num_classes,
            manifest=self.dataset.manifest,
            units=self.dataset.units,
        )
        train = self.handed.whole() if self.program.baselines.members else self.dataset.train
        tested = evaluate_run(run, self.dataset.test, train, compiled=self.evaluate.result())
        result = result_of(
            run,
            tested,
            best_epoch=self.checkpoints.best(),
            metrics=self.previous,
            history=last_fifth(self.path, run.epoch),
            seconds={
                "first_epoch": self.first_epoch_s,
                "compile": self.compile_s,
                "train": self.train_s,
                "total": time.perf_counter() - self.started,
            },
        )
        write_result(self.path, result, shown=self.shown)
        return result
