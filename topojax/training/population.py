"""Many runs in one program: compile once, train in step, and leave an ordinary run directory for every member.

A member is a run like any other: its configuration, metrics, events, checkpoints and result lie in workdir/member_000
and so on, where restore, report, evaluate and contracts find them. What concerns all is in workdir/population.json.
"""

import contextlib
import json
import math
import pathlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from topojax.config import numbers as of_config
from topojax.config.found import MEASURED
from topojax.config.io import flat
from topojax.config.memory import require_memory
from topojax.config.sweep import changed, differing, members, numbers_in
from topojax.config.validate import validate
from topojax.data import sets
from topojax.errors import UserError, interrupted, interrupts_deferred, raise_if_interrupted, tell
from topojax.step import population as together
from topojax.step.device_grid import grid
from topojax.step.predict import compile_evaluate
from topojax.step.state import TrainState
from topojax.storage import workdir as workdirs
from topojax.storage.checkpoint import Damaged
from topojax.storage.footprint import require_fit, there
from topojax.storage.logs import write_json
from topojax.storage.program_cache import compile_epoch
from topojax.storage.runtime import compile_program, use_every_core
from topojax.storage.switches import own_switches
from topojax.tracking.console import Progress, population_table
from topojax.training.beginning import beginning
from topojax.training.exploit import exploit
from topojax.training.outcome import LOOK, ended_well
from topojax.training.population_file import FILE, finished, folder, means, read, scores_of, summary
from topojax.training.population_member import Member
from topojax.training.prepared import look_for_extras
from topojax.training.recovery import NotFinite, diverged
from topojax.types import Batch


def train_population(
    config: Any, workdir: str | pathlib.Path, *, keep: Collection[str] = (), started: float | None = None
) -> dict[str, Any]:
    """Train every member to the last epoch, from the start or from their last checkpoints, and evaluate them.

    A member that diverges, or that `monitor.on_saturation=halt` stops, is left as it was and the others go on; it does
    not go back to a good state at a lower rate, as a run of its own would: members are at the same step.

    Args:
      config: a whole configuration with a `population` (`config.sweep`).
      workdir: of the population; made if missing.
      keep: as in `train_and_evaluate`.
      started: `time.perf_counter()` at the start of the process; now, unless told.

    Returns:
      What population.json holds: `members` (folder, numbers, state, score and result of each), `best` (its number, None
      where all have stopped), and of the finished members `mean` and `sd` of every score.

    Raises:
      UserError: a sweep, workdir, data set or checkpoint that makes no sense, a population that does not fit in memory,
        or one whose members have all stopped.
      Stopped: the system refuses.
      KeyboardInterrupt: with the epoch that the same call would go on from.
    """
    started = time.perf_counter() if started is None else started
    path = workdirs.located(workdir)
    with ended_well(path / folder(0)), own_switches():
        validate(config)
        configs = members(config)
        use_every_core((config.mesh.members or len(configs)) * config.mesh.data)
        mesh = grid(len(configs), jax.devices(), rows=config.mesh.members, each=config.mesh.data)
        if (path / "checkpoints").is_dir():
            raise UserError(f"{path} holds a run of its own: choose another --workdir for a population")
        if config.debug:
            raise UserError("config.debug looks into one run: start the member of interest alone")
        workdirs.own(path)
        done = finished(path, config)
        if done is not None:
            print(f"{path} is finished: {len(configs)} members, results in {path / FILE}")
            return done
        look_for_extras(config)
        population = _Population(config, configs, path, started, keep, mesh)
        with workdirs.claim(path), contextlib.ExitStack() as held:
            for member in population.members:
                held.enter_context(workdirs.claim(member.path))
                member.same_data()
            workdirs.write_config(path, config)
            return population.run()


class _Population:
    """One call of `train_population`, its parts in the order in which they are needed."""

    def __init__(
        self,
        config: Any,
        configs: Sequence[Any],
        path: pathlib.Path,
        started: float,
        keep: Collection[str],
        mesh: Mesh | None = None,
    ):
        self.config, self.path, self.started = config, path, started
        if (path / "config.json").exists():
            workdirs.same_config(path, config)
        self.swept = tuple(differing(config))
        datasets = {one.seed: sets.load(one.data, seed=one.seed) for one in configs}
        configs = [workdirs.adopted(path / folder(i), one) for i, one in enumerate(configs)]
        first = Member(configs[0], path / folder(0), started, datasets[configs[0].seed], keep=keep)
        # One program: what is measured is measured once, whatever examples the other seeds train on.
        alike = [configs[0], *(_measured_as(first.config, configs[0], one) for one in configs[1:])]
        self.members = [first] + [
            Member(one, path / folder(i), started, datasets[one.seed], keep={*keep, *MEASURED})
            for i, one in enumerate(alike[1:], start=1)
        ]
        told = [[of_config.described(member.config), member.dataset.sizes()] for member in self.members]
        if any(one != told[0] for one in told):
            raise UserError(
                "the members' data ask for different programs: set the fields that `found.json` of a run names"
            )
        self.own_data = any(member.about["data"] != first.about["data"] for member in self.members)
        try:
            self.layout = together.lay_out(
                len(configs), chunk=config.population.chunk, own_data=self.own_data, mesh=mesh
            )
        except ValueError as error:
            raise UserError(f"config.population.chunk = {config.population.chunk}: {error}") from error
        self.numbers = of_config.stack([member.config for member in self.members])
        self.epochs = config.train.epochs
        self.results: dict[int, dict[str, Any]] = {}

    def run(self) -> dict[str, Any]:
        """Compile, restore or start, train, evaluate."""
        with contextlib.ExitStack() as opened:
            for member in self.members:
                member.open(self.config.checkpoint.keep)
                opened.callback(member.close)
            self._require_memory()
            data = self._place(self._data(), 2)
            run_epoch = self._compile(data)
            state, done = self._restore_or_init()
            for member in self.members:
                if member.reason is None:
                    member.start(done)
            progress = Progress(done, self.epochs, enabled=self.config.log.progress)
            opened.callback(progress.close)
            with interrupts_deferred():
                state = self._train(run_epoch, state, data, done, progress)
            progress.close()
            return self._finish(state)

    def _train(self, run_epoch: Callable, state: TrainState, data: Batch, done: int, progress: Progress) -> TrainState:
        waiting: list[jax.Array] = []
        since = time.perf_counter()
        epoch = done
        while epoch < self.last:
            epoch += 1
            state, metrics = run_epoch(self._place(self.numbers, 0), state, data)
            waiting.append(metrics)
            progress.advance()
            logs, saves, learns = self._due(epoch)
            if logs or saves or learns or interrupted() or epoch % LOOK == 0:
                rows = jax.device_get(waiting)
                seconds, waiting = time.perf_counter() - since, []
                self._keep_books(epoch, state, rows, seconds, progress, logs=logs, saves=saves)
                if learns:
                    state = self._learn(epoch, state)
                if interrupted():
                    self._save_all(epoch, state)
                    raise_if_interrupted()
                since = time.perf_counter()
        return state

    @property
    def last(self) -> int:
        """The epoch that ends the last of the runs, as far as it is known."""
        going = [member for member in self.members if member.reason is None]
        return max((member.last for member in going), default=self.epochs)

    def _save_all(self, epoch: int, state: TrainState) -> None:
        """What has been trained, whether a checkpoint is due or not."""
        here = self._gathered(state)
        for i, member in enumerate(self.members):
            if member.reason is None:
                member.save(epoch, self.member_of(here, i), best=False)
        self._write(epoch)

    def _due(self, epoch: int) -> tuple[bool, bool, bool]:
        last, every = epoch == self.last, self.config.population.exploit_every_epochs
        logs, saves = (last or epoch % block.every_epochs == 0 for block in (self.config.log, self.config.checkpoint))
        return logs, saves, bool(every) and not last and epoch % every == 0

    def _data(self) -> Batch:
        if not self.own_data:
            return self.members[0].dataset.train
        return jax.tree.map(lambda *parts: np.stack(parts), *(member.dataset.train for member in self.members))

    def _require_memory(self) -> None:
        """Before anything is stacked; what the program takes is asked of it when it is compiled."""
        first = self.members[0]
        one = jax.eval_shape(first.numbered.init, first.numbers)
        data = [member.dataset.train for member in self.members] if self.own_data else first.dataset.train
        require_memory(one, data, states=len(self.members) + self.layout.chunk)

    def _place(self, tree: Any, which: int) -> Any:
        """Numbers (0), a state (1) or data (2) where the program wants them."""
        where = together.shardings(self.layout)[which]
        return jax.tree.map(jax.device_put, tree, jax.tree.broadcast(where, tree))

    def _compile(self, data: Batch) -> Callable:
        """Compile the population's programs; returns the epoch's."""
        since = time.perf_counter()
        first = self.members[0]
        program = together.make_population(first.numbered, self.layout)
        abstract = jax.eval_shape(program.init, self.numbers)
        where = jax.tree.broadcast(together.shardings(self.layout)[1], abstract)
        abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, where)
        numbers = self._place(self.numbers, 0)
        shape = [self.layout.size, self.layout.chunk, self.own_data]
        told = [of_config.described(first.config), first.dataset.sizes(), shape]
        # What is kept is of one device.
        cached = self.config.train.compilation_cache and self.layout.mesh is None
        epoch = compile_epoch(program, numbers, abstract, data, described=told, cached=cached)
        layout = self.layout
        sizes = {"size": layout.size, "local": layout.local, "devices": layout.devices, "chunk": layout.chunk}
        require_fit(epoch.bytes, there(), **sizes)
        self.program = program
        self.alone = jax.eval_shape(first.numbered.init, first.numbers)
        self.member_of = jax.jit(together.member)
        self._compile_evaluation()
        for member in self.members:
            member.names = epoch.names
            member.compile_s = time.perf_counter() - since
        return epoch.run

    def _compile_evaluation(self) -> None:
        """One evaluation for all members that agree on the few numbers that it reads."""
        compiled: dict[str, futures.Future] = {}
        for member in self.members:
            key = json.dumps(of_config.named(member.config, of_config.READ_BY_EVALUATION))
            if key not in compiled:
                done: futures.Future = futures.Future()
                done.set_result(compile_evaluate(member.program.evaluate, self.alone, member.dataset.test))
                compiled[key] = done
            member.evaluate = compiled[key]

    def _restore_or_init(self) -> tuple[TrainState, int]:
        start = compile_program(jax.jit(self.program.init).lower(self._place(self.numbers, 0)))
        state = start(self._place(self.numbers, 0))
        for i, line in enumerate(read(self.path).get("members", [])):
            if i < len(self.members) and line["state"] == "stopped":
                self.members[i].reason = line["reason"]
        states: list[Any] | None = None
        while states is None:
            done = self._common_epoch()
            if not done:
                self._require_no_losses()
                for member in self.members:
                    member.reason = None
                    member.first_row()
                return self._begun(state), 0
            states = self._restored(self._gathered(state), done)
        self.numbers = of_config.stack([member.config for member in self.members])
        step = next(s.step for s, member in zip(states, self.members, strict=True) if member.reason is None)
        return self._place(together.stacked([s.replace(step=step) for s in states]), 1), done

    def _restored(self, here: TrainState, epoch: int) -> list[Any] | None:
        """Each member's state and books of an epoch; None where one is damaged and all have an earlier one.

        Raises:
          Damaged: a checkpoint, and there is no epoch before it that all have.
        """
        states = []
        for i, member in enumerate(self.members):
            if member.reason is not None:
                states.append(self.member_of(here, i))
                continue
            try:
                own, meta = member.checkpoints.restore(self.alone, epoch)
            except Damaged as damage:
                if not self._common_epoch(before=epoch):
                    raise
                member.checkpoints.give_way(epoch, damage)
                return None
            member.config = changed(member.config, numbers_in(meta["config"], self.swept))
            member.previous, member.train_s = meta["previous"], meta["train_s"]
            states.append(own)
        return states

    def _begun(self, state: TrainState) -> TrainState:
        """Every member's first state, at the middle of its own charts; with `init_from`, another run's in it."""
        here, model = self._gathered(state), self.members[0].model  # one for all, so that it is compiled once
        own = [
            beginning(member.config, model, self.member_of(here, i), member.handed.looked_at)
            for i, member in enumerate(self.members)
        ]
        if own[0][1]:
            tell(f"{self.path}: every member {own[0][1]}")
        return self._place(together.stacked([one for one, _ in own]), 1)

    def _common_epoch(self, before: float = math.inf) -> int:
        """The last epoch, before another, that every member that goes on has a checkpoint of; 0: there is none."""
        known = [set(member.checkpoints.epochs()) for member in self.members if member.reason is None]
        return max((e for e in set.intersection(*known) if e < before), default=0) if known else 0

    def _require_no_losses(self) -> None:
        """Where members have no epoch in common though they had: what is there is not trained over.

        A kill before all have saved for the first time leaves one checkpoint each at most.

        Raises:
          UserError: naming what there is.
        """
        going = [member for member in self.members if member.reason is None]
        epochs = {member.path.name: member.checkpoints.epochs() for member in going}
        trained = any(len(known) > 1 for known in epochs.values())
        if trained or any((workdirs.read_result(member.path) or {}).get("epochs") for member in going):
            there_are = "; ".join(f"{name}: {', '.join(map(str, known)) or 'none'}" for name, known in epochs.items())
            raise UserError(
                f"the members of {self.path} have no checkpoint of the same epoch ({there_are}): put back what is "
                f"gone, checkpoints or {FILE}, which names members that have stopped; remove the folder to train anew, "
                "or name another --workdir"
            )

    def _gathered(self, state: TrainState) -> TrainState:
        """A state on one device."""
        return jax.device_put(state, jax.devices()[0]) if self.layout.mesh else state

    def _keep_books(
        self,
        epoch: int,
        state: TrainState,
        waiting: list[np.ndarray],
        seconds: float,
        progress: Progress,
        *,
        logs: bool,
        saves: bool,
    ) -> None:
        """What a run does at the end of an epoch that is logged or saved, for every member that goes on."""
        here, rows = self._gathered(state), []
        for i, member in enumerate(self.members):
            if member.reason is not None:
                continue
            own = self.member_of(here, i)
            member.train_s += seconds / len(self.members)
            with self._stopping(i, epoch):
                member.told(epoch, [row[i] for row in waiting], own)
                if logs:
                    rows.append(member.log(epoch, own))
                if saves:
                    member.save(epoch, own)
                if logs or saves:
                    member.halt_if_unsatisfied(epoch, own)
        if logs:
            progress.show(epoch, means(rows, ("signal/task", "test/ami", "lr")))
        self._write(epoch)
        if all(member.reason is not None for member in self.members):
            raise UserError(f"all members of {self.path} have stopped; the first: {self.members[0].reason}")

    @contextlib.contextmanager
    def _stopping(self, index: int, epoch: int) -> Iterator[None]:
        """A member that cannot go on does not hold up the others."""
        member = self.members[index]
        try:
            yield
        except NotFinite as failure:
            saved = max((known for known in member.checkpoints.epochs() if known < epoch), default=0)
            member.reason = str(diverged(member.path, saved, failure, member.culprit, 0))
        except UserError as error:
            member.reason = str(error)

    def _learn(self, epoch: int, state: TrainState) -> TrainState:
        """An exploit (`training.exploit`): states copied on the device, numbers and books on the host."""
        scores = [self._score(i) for i in range(len(self.members))]
        values = [numbers_in(member.config, self.swept) for member in self.members]
        rng = np.random.default_rng([self.config.seed, epoch])
        source, learned = exploit(scores, values, differing(self.config), rng)
        for i, new in learned.items():
            member, other = self.members[i], self.members[source[i]]
            member.config = changed(member.config, new)
            member.write_config()
            member.previous = dict(other.previous)
            member.event(epoch, {"event": "exploited", "member": source[i], **new})
        self.numbers = of_config.stack([member.config for member in self.members])
        return self._place(jax.jit(together.copied)(state, jnp.asarray(source, jnp.int32)), 1)

    def _score(self, index: int) -> float | None:
        """What the best member has least of; None for one that has stopped or has no number."""
        member = self.members[index]
        return member.previous.get(self.config.population.best) if member.reason is None else None

    def _finish(self, state: TrainState) -> dict[str, Any]:
        here = self._gathered(state)
        for i, member in enumerate(self.members):
            if member.reason is None:
                with self._stopping(i, self.last):
                    self.results[i] = member.finish(self.member_of(here, i), self.last)
        found = self._write(self.last)
        print(population_table(found))
        print(f"\n{self.path / FILE}: {time.perf_counter() - self.started:.1f} s in all")
        return found

    def _write(self, epoch: int) -> dict[str, Any]:
        """population.json."""
        lines: list[dict[str, Any]] = []
        for i, member in enumerate(self.members):
            result = self.results.get(i)
            lines.append(
                {
                    "folder": member.path.name,
                    "numbers": numbers_in(member.config, self.swept),
                    "state": "stopped" if member.reason is not None else "finished" if result else "running",
                    "reason": member.reason,
                    "score": self._score(i),
                    "result": scores_of(result) if result else None,
                }
            )
        found = {
            "epochs": epoch,
            "swept": list(self.swept),
            "score": self.config.population.best,
            **summary(lines),
            "seconds": round(time.perf_counter() - self.started, 3),
        }
        write_json(self.path / FILE, found)
        return found


def _measured_as(measured: Any, asked: Any, config: Any) -> Any:
    """A member's configuration with what was measured for another, in the fields that ask for what that one asked."""
    before, after, own = (dict(flat(one)) for one in (asked, measured, config))
    out = config.copy_and_resolve_references()
    out.update_from_flattened_dict({name: after[name] for name in MEASURED if own[name] == before[name]})
    return out
