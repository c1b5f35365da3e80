"""The host loop: restore or start, epochs, logs, checkpoints, the final evaluation.

Resume order: the last checkpoint of the workdir, if there is one, replaces the initial state; log files lose
what was written after it; the epochs left are trained. The state alone fixes what follows, bit for bit.
"""

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from topojax.config.memory import require_memory
from topojax.config.numbers import described
from topojax.config.sweep import is_population
from topojax.config.validate import validate
from topojax.data.feed import AHEAD
from topojax.data.mesh import make_mesh
from topojax.errors import (
    Terminated,
    UserError,
    interrupted,
    interrupts_deferred,
    raise_if_interrupted,
    tell,
)
from topojax.scoring.split import contents
from topojax.step.predict import compile_evaluate
from topojax.step.state import TrainState
from topojax.storage import workdir as workdirs
from topojax.storage.checkpoint import Checkpoints
from topojax.storage.logs import Sink, Writers, number
from topojax.storage.program_cache import compile_epoch
from topojax.storage.runtime import compile_program, use_every_core
from topojax.storage.switches import key_kind, own_switches
from topojax.tracking.console import Progress
from topojax.training.beginning import beginning
from topojax.training.books import Books
from topojax.training.callbacks import Callback, Epoch
from topojax.training.fed import compile_fed
from topojax.training.outcome import LOOK, ended_well, finished
from topojax.training.prepared import look_for_extras
from topojax.training.processes import joined
from topojax.training.recovery import NotFinite, diverged, lowered, stretched
from topojax.training.resumed import config_mended, restored_under
from topojax.types import Metrics


def train_and_evaluate(
    config: Any,
    workdir: str | pathlib.Path,
    *,
    data: Any = None,
    callbacks: Sequence[Callback] = (),
    keep: Collection[str] = (),
    started: float | None = None,
    allow_change: bool = False,
) -> TrainState:
    """Train a run to its last epoch, from the start or from its last checkpoint, and evaluate it.

    Leaves in `workdir`: config.json, metrics.jsonl, events.jsonl, checkpoints/ and, at the end, result.json; found.json
    where own data had something to say.

    Args:
      config: a whole configuration (`config.default_config`).
      workdir: the run's folder; made if missing.
      data: to train on, in place of what `config.data.name` says: x, (x, y), (x_train, y_train, x_test, y_test), a data
        frame, or a sequence of examples (`data.given`); labels may be None.
      callbacks: each is called after every epoch with an `Epoch`, and ends the training by returning True; the same
        call goes on from there.
      keep: fields, as `model.num_charts`, that own data do not set though they stand at their defaults.
      started: `time.perf_counter()` at the start of the process, for time/total_s; now, unless told.
      allow_change: a run that goes on takes other values of the fields that may change (`config.changes`) from here on,
        and writes an event for each.

    Returns:
      The final state. A run that is finished already is restored and returned.

    Raises:
      UserError: a bad configuration, workdir, data set or checkpoint, or a run that diverged.
      Stopped: the system refuses: a disk that is full, a folder that has vanished.
      KeyboardInterrupt: with the epoch that the same call would go on from; `Terminated` after SIGTERM.
    """
    started = time.perf_counter() if started is None else started
    path = workdirs.located(workdir)

    with ended_well(path), joined(config, path) as peers, own_switches():
        validate(config)
        if is_population(config):
            raise UserError("config.population asks for many runs: topojax.train_population trains them")
        if peers.first:
            config_mended(path)
        workdirs.own(path)
        config = workdirs.adopted(path, config)
        if config.mesh.data > 1:
            use_every_core(config.mesh.data)
            make_mesh(config.mesh.data)
        # Before the data, which take their time.
        done = None if data is not None else finished(path, config, allow_change, shown=peers.first)
        if done is not None:
            return done
        # Before the folder is claimed: what lacks an extra or does not fit the data leaves nothing there.
        look_for_extras(config)
        training = Training(config, path, started, data, keep, peers, callbacks=callbacks)
        config = training.config
        with workdirs.claim(path) if peers.first else contextlib.nullcontext():
            training.same_data()
            # By another process, while the data were read.
            done = finished(path, config, allow_change, shown=peers.first)
            if done is not None:
                return done
            with contextlib.closing(training.opened()) as checkpoints:
                training.remember()
                return training.run(checkpoints)


class Training(Books):
    """One call of `train_and_evaluate`, its parts in the order in which they are needed."""

    def __init__(self, *arguments: Any, callbacks: Sequence[Callback] = (), **settings: Any):
        super().__init__(*arguments, **settings)
        self.callbacks = tuple(callbacks)
        self.pool = futures.ThreadPoolExecutor(1)
        self.compiled: Callable | None = None
        self.taken_back = False
        self.news: list[dict[str, Any]] = []  # events before the next epoch

    def run(self, checkpoints: Checkpoints) -> TrainState:
        """Train, and where steps are not finite go on from the last good state, as from a checkpoint after a kill."""
        self.checkpoints = checkpoints
        self.keys = key_kind(checkpoints.newest(checkpoints.meta)["leaves"]) if checkpoints.epochs() else None
        while True:
            try:
                with own_switches(self.keys):
                    return self._run()
            except NotFinite as failure:
                self._take_back(failure)

    def _take_back(self, failure: NotFinite) -> None:
        """Have the next attempt begin at a lower rate, or give up.

        Raises:
          UserError: too many attempts have failed.
        """
        if self.rollbacks >= self.config.monitor.max_rollbacks:
            saved = max(self.checkpoints.epochs(), default=0)
            raise diverged(self.path, saved, failure, self.culprit, self.rollbacks) from failure
        self.rollbacks, self.failed_at, self.taken_back = self.rollbacks + 1, failure.epoch, True

    def _run(self) -> TrainState:
        """Compile, restore or start, train, evaluate."""
        with contextlib.ExitStack() as held:
            data: Any = None
            if self.dataset.mode == "memory":
                data = self.handed.resident()
            else:
                feed = self.handed.feed(pairs=self.program.pairs, held=lambda: own_switches(self.keys))
                data = self.feed = held.enter_context(contextlib.closing(feed))
            return self._trained(data)

    def _trained(self, batch: Any) -> TrainState:
        """`_run`, of a training split on the device or of a feed."""
        abstract = jax.eval_shape(self.numbered.init, self.numbers)
        run_epoch = self._compile(abstract, batch)
        state, done = self._restore_or_init(abstract)
        self.peers.same([done, int(state.step)], "have read different checkpoints")
        if self.feed is not None:
            run_epoch.taken = self.taken  # type: ignore[attr-defined]
            step = 0 if self.taken is None else len(self.taken)
            self.feed.begin(jnp.copy(state.key), done, step, self.position)
        first = self.peers.first
        writers = Writers(self.path, done, self._sinks(done)) if first else Sink()
        progress = Progress(done, self.config.train.epochs, enabled=self.config.log.progress and first)
        with contextlib.closing(writers), contextlib.closing(progress), interrupts_deferred():
            if not done:
                self._warn(writers, progress)
            for event in self.news:  # of the epoch that follows: cut from the file where that is trained again
                writers.event(done + 1, int(state.step), event)
                progress.say(done + 1, event)
            waiting: list[Metrics] = []  # on the device: nothing waits for the host between two logs
            epoch = done
            while epoch < self.last:
                epoch += 1
                self._leave_if_interrupted(epoch - 1, state, waiting, writers, progress)
                before = jax.tree.map(jnp.copy, state) if self.config.debug else None
                if self.feed is not None:
                    between = functools.partial(self._between, epoch - 1, waiting, writers, progress)
                    run_epoch.between = between  # type: ignore[attr-defined]
                with self._training_time(), self._profiled(epoch) as traced:
                    state, metrics = run_epoch(self.numbers, state, batch)
                    if traced:
                        jax.block_until_ready(metrics)
                if not self.first_epoch_s:
                    jax.block_until_ready(metrics)
                    self.first_epoch_s = time.perf_counter() - self.started
                waiting.append(metrics)
                progress.advance()
                stops = False
                logs, saves = (self._due(epoch, block) for block in (self.config.log, self.config.checkpoint))
                if logs or saves or self.callbacks or before is not None or epoch % LOOK == 0:
                    self._fetch(epoch, waiting, state, writers, progress, before)
                    waiting = []
                if self.callbacks:
                    stops = self.peers.agreed(self._call_back(epoch, state))
                if (logs or stops) and first:
                    step, (tested, predictions) = epoch * self.program.steps_per_epoch, self._test(state)
                    row = {**self.previous, **tested, "time/train_s": round(self.train_s, 3)}
                    writers.metrics(epoch, step, row)
                    writers.view(epoch, step, state, predictions)
                    progress.show(epoch, row)
                if saves or stops:
                    self._save(epoch, state)
                if logs or saves:
                    self._halt_if_unsatisfied(epoch, state, writers)
                if stops:
                    break
            progress.close()
            writers.finish(self._finish(state, int(state.step) // self.program.steps_per_epoch))
        return state

    def _between(
        self,
        done: int,
        waiting: list[Metrics],
        writers: Sink,
        progress: Progress,
        state: TrainState,
        rows: list[Any],
    ) -> None:
        """Between two chunks of an epoch: save where that is due, and where somebody wants to leave."""
        every, taken, last = self.config.checkpoint.every_steps, sum(map(len, rows)), len(rows[-1])
        due = every and taken // every > (taken - last) // every
        leaves = self.peers.agreed(interrupted())
        if not (due or leaves):
            return
        if waiting:
            self._fetch(done, waiting, state, writers, progress, None)
            waiting.clear()
        step = done * self.program.steps_per_epoch + taken
        self.within.save(step, state, self._meta(done, taken), np.concatenate(jax.device_get(rows)))
        if leaves:
            raise_if_interrupted()
            raise Terminated  # another process was

    def _call_back(self, epoch: int, state: TrainState) -> bool:
        """Whether one of the callbacks ends the training."""
        label, epochs = np.asarray(self.dataset.test.label), self.config.train.epochs
        told = Epoch(epoch, epochs, state, dict(self.previous), lambda: self._test(state)[1], label)
        return any([callback(told) is True for callback in self.callbacks])

    def _compile(self, abstract: Any, batch: Any) -> Callable:
        """Compile the run's programs; returns the epoch's. Evaluation is compiled while training has begun."""
        if self.compiled is not None:
            return self.compiled
        require_memory(abstract, batch if self.feed is None else [self.feed.shapes] * (AHEAD + 2))
        since = time.perf_counter()
        init = jax.jit(self.numbered.init).lower(self.numbers)
        initial = self._in_background(compile_program, init)
        shaped, cached = [described(self.config), self.dataset.sizes()], self.config.train.compilation_cache
        how = {"described": shaped, "cached": cached, "mesh": make_mesh(self.config.mesh.data)}
        compiles: Callable = compile_epoch if self.feed is None else compile_fed
        compiled = compiles(self.numbered, self.numbers, abstract, batch, **how)
        self.names = compiled.names
        self.init = initial.result()
        self.evaluate = self._in_background(compile_evaluate, self.program.evaluate, abstract, self.dataset.test)
        self.compile_s = time.perf_counter() - since
        self.compiled = compiled.run
        return compiled.run

    def _in_background(self, compiles: Callable, *arguments: Any) -> futures.Future:
        def held() -> Any:  # JAX's switches are a thread's own
            with own_switches(self.keys):
                return compiles(*arguments)

        return self.pool.submit(held)

    def _restore_or_init(self, abstract: Any) -> tuple[TrainState, int]:
        """The last good state and its epoch; where steps were not finite since, at a lower rate."""
        self.news = []
        self.taken: np.ndarray | None = None
        self.position: dict[str, Any] | None = None
        if self.feed is not None and not self.taken_back:
            within = self._within(abstract)
            if within is not None:
                return within
        self.peers.agreed(False)  # all have looked
        if self.peers.first:
            self.within.drop()  # an epoch that is begun anew
        if not self.checkpoints.epochs():
            self.first_row()
            state, words = beginning(self.config, self.model, self.init(self.numbers), self.handed.looked_at)
            if words and self.peers.first:
                tell(f"{self.path} {words}")
            return self._at_a_lower_rate(state), 0
        state, meta, settings = self.checkpoints.newest(
            lambda epoch: restored_under(self.checkpoints, self.config, self.about, abstract, epoch)
        )
        self.previous, self.train_s = meta["previous"], max(self.train_s, meta["train_s"])
        self.position = meta.get("stream")
        if not self.taken_back:
            self.rollbacks, self.failed_at = meta.get("rollbacks", (0, 0))
            rate = stretched(
                self.config, meta["config"], step=int(state.step), steps_per_epoch=self.program.steps_per_epoch
            )
            self.news += [*settings, *([rate] if rate else [])]
        # A copy that jax owns: restored buffers may be shared with the reader, and are about to be donated.
        state = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))(state)
        return self._at_a_lower_rate(state), meta["epoch"]

    def _within(self, abstract: Any) -> tuple[TrainState, int] | None:
        """The state within an epoch that was saved since the last whole one, and the whole ones before it."""
        found = self.within.newest(abstract, self.config)
        if found is None:
            return None
        state, meta, rows = found
        if meta["epoch"] >= self.config.train.epochs:  # a run that is shorter than it was does not enter that epoch
            return None
        if meta["epoch"] < max(self.checkpoints.epochs(), default=0) or contents(meta["data"]) != contents(
            self.dataset.manifest
        ):
            return None
        self.previous, self.train_s, self.taken = meta["previous"], max(self.train_s, meta["train_s"]), rows
        self.position = meta.get("stream")
        self.rollbacks, self.failed_at = meta.get("rollbacks", (0, 0))
        return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))(state), meta["epoch"]

    def _at_a_lower_rate(self, state: TrainState) -> TrainState:
        if not self.taken_back:
            return state
        self.taken_back = False
        before = self.previous["lr_governor"]
        state = lowered(state, self.config.governor.shrink**self.rollbacks, self.config.optim.learning_rate_min)
        self.previous = self.previous | {"lr_governor": number(state.control.governor.rate)}
        told = {"epoch_failed": self.failed_at, "attempt": self.rollbacks, **self.culprit_named()}
        self.news.append({"event": "rolled_back", **told, "from": before, "to": self.previous["lr_governor"]})
        return state

    def _leave_if_interrupted(
        self, epoch: int, state: TrainState, waiting: list[Metrics], writers: Sink, progress: Progress
    ) -> None:
        """Save what has been trained, and leave."""
        if not self.peers.agreed(interrupted()):
            return
        if waiting:
            self._fetch(epoch, waiting, state, writers, progress, None)
        if self.peers.agreed(bool(epoch) and epoch not in self.checkpoints.epochs()):
            self._save(epoch, state, best=False)  # of two runs, one of them interrupted, the same one is the best
        raise_if_interrupted()
        raise Terminated  # another process was

    def _due(self, epoch: int, block: Any) -> bool:
        return epoch % block.every_epochs == 0 or epoch == self.last

    @contextlib.contextmanager
    def _profiled(self, epoch: int) -> Iterator[bool]:
        traced = epoch == self.config.profile and self.peers.first
        where = jax.profiler.trace(str(self.path / "profile"), create_perfetto_trace=True)
        with where if traced else contextlib.nullcontext():
            yield traced
