"""A run of a population: it is told the numbers of an epoch and its state, and keeps a run's books."""

from typing import Any

from topojax.step.state import TrainState
from topojax.storage import workdir as workdirs
from topojax.storage.checkpoint import Checkpoints
from topojax.storage.logs import Writers
from topojax.tracking.console import Progress
from topojax.training.books import Books


class Member(Books):
    """Books of one run among many that train together."""

    shown = False
    on_host = False
    reason: str | None = None
    """Why it has stopped."""

    def open(self, keep: int) -> None:
        """Its checkpoints: one more than asked for, since a kill may come between two members' saves."""
        self.checkpoints = Checkpoints(self.path, keep=max(keep, 2))

    def start(self, done: int) -> None:
        """Its files, from epoch `done` on."""
        self.checkpoints.drop_after(done)
        self.write_config()
        if not done and self.changes:
            fields = {c.field: (c.asked, c.value) for c in self.changes}
            workdirs.write_found(self.path, self.config, fields, self.dataset.notes)
        self.writers = Writers(self.path, done, self._sinks(done))
        self.progress = Progress(done, self.config.train.epochs, enabled=False)
        if not done:
            self._warn(self.writers, self.progress)

    def write_config(self) -> None:
        """config.json, with the numbers that it has now."""
        workdirs.write_config(self.path, self.config)

    def told(self, epoch: int, rows: list[Any], state: TrainState) -> None:
        """The metrics of the last epochs; of a run that is over, none."""
        beyond = max(0, epoch - self.last)
        if beyond < len(rows):
            self._fetch(epoch - beyond, rows[: len(rows) - beyond], state, self.writers, self.progress, None)

    def log(self, epoch: int, state: TrainState) -> dict[str, Any]:
        """Evaluate, and write a line."""
        step, (tested, predictions) = epoch * self.program.steps_per_epoch, self._test(state)
        row = {**self.previous, **tested, "time/train_s": round(self.train_s, 3)}
        self.writers.metrics(epoch, step, row)
        self.writers.view(epoch, step, state, predictions)
        return row

    def save(self, epoch: int, state: TrainState, *, best: bool = True) -> None:
        """A checkpoint, if there is none of this epoch."""
        if epoch not in self.checkpoints.epochs():
            self._save(epoch, state, best=best)

    def event(self, epoch: int, event: dict[str, Any]) -> None:
        """A line of events.jsonl."""
        self.writers.event(epoch, epoch * self.program.steps_per_epoch, event)

    def halt_if_unsatisfied(self, epoch: int, state: TrainState) -> None:
        """Raise where the configuration wants it."""
        self._halt_if_unsatisfied(epoch, state, self.writers)

    def finish(self, state: TrainState, epoch: int) -> dict[str, Any]:
        """result.json."""
        result = self._finish(state, epoch)
        self.writers.finish(result)
        return result

    def close(self) -> None:
        """Let go of its files."""
        if hasattr(self, "writers"):
            self.writers.close()
        self.checkpoints.close()
