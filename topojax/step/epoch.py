"""An epoch: updates one after the other in the order of (seed, epoch), as one scan, and the end of it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from topojax.atlas.controllers import Rows
from topojax.config.batch import examples_a_step
from topojax.data.augment import Views
from topojax.data.chunks import Chunk, at, scaled
from topojax.data.divided import looked_up
from topojax.data.mesh import make_mesh, split
from topojax.data.neighbours import partners
from topojax.data.order import batch_indices, probe_indices
from topojax.step.closing import Closing
from topojax.step.metrics import expanded, of_step, pack, reduce_epoch
from topojax.step.state import TrainState
from topojax.step.update import Update
from topojax.types import Array, Batch, Metrics


@dataclasses.dataclass(frozen=True, eq=False)
class Epochs:
    """What an epoch is closed over.

    Attributes:
      config: of the run.
      rows: its contracts.
      update: one step.
      closing: the end of an epoch.
      views_of: (key, batch) → Views.
      compares: whether a contract compares two views of a batch.
      num_train: training examples.
    """

    config: Any
    rows: Rows
    update: Update
    closing: Closing
    views_of: Callable[[Array, Batch], Views]
    compares: bool
    num_train: int
    # Names of the metrics, by tracing `epoch`: to ask again would trace the step once more.
    _traced: list[tuple[str, ...]] = dataclasses.field(default_factory=list, init=False)

    def train_step(self, state: TrainState, batch: Batch, probe: Batch) -> tuple[TrainState, Metrics]:
        """One step on a batch, augmented here."""
        return self.step(state, self.views_of(jax.random.fold_in(state.key, state.step), batch), probe)

    def step(self, state: TrainState, views: Views, probe: Batch) -> tuple[TrainState, Metrics]:
        """One update, and the end of the epoch if it is the last."""
        new, record = self.update.descend(state, views)
        new, of_epoch = self.closing.after(state, new, probe, record)
        return new, of_step(record, new.control.governor) | of_epoch

    def epoch(self, state: TrainState, data: Batch) -> tuple[TrainState, Array]:
        """Every batch of an epoch once: the state after it, and its metrics as one vector."""
        order = batch_indices(
            self.config.seed,
            state.step // self.closing.steps_per_epoch,
            self.num_train,
            examples_a_step(self.config),
        )
        data = looked_up(data, self.mesh, self.num_train)
        probe = self.probe_of(data)
        names: set[str] = set()  # known once the body is traced
        mesh = self.mesh

        def views(step: Array, index: Array) -> Views:
            return split(self.views(state.key, data, step, index), mesh)

        def body(state: TrainState, index: Array) -> tuple[TrainState, Array]:
            state, metrics = self.step(state, views(state.step, index), probe)
            names.update(metrics)
            return state, pack(metrics)

        state, metrics = jax.lax.scan(body, state, order)
        self._traced.append(expanded(names, self.rows))
        return state, reduce_epoch(self._traced[-1], metrics)

    def chunk(self, state: TrainState, chunk: Chunk) -> tuple[TrainState, Array]:
        """Some steps of an epoch on batches that were gathered before: the state after them, and the metrics of each.

        The step is that of `epoch`, and so are its digits: only where the batches lie differs.

        Args:
          state: before them.
          chunk: of S steps, of which the first `number` are taken.

        Returns:
          The state, and shape=(S, metrics), zeros for the steps that were not taken.
        """
        probe, size, mesh = scaled(chunk.probe, chunk.table), chunk.batches.label.shape[0], self.mesh
        step_of = jax.jit(self.step)  # so that asking for the shapes of its metrics does not trace it twice

        def views(step: Array, place: Array) -> Views:
            return split(self.seen(state.key, step, at(chunk, place)), mesh)

        def body(place: Array, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
            state, rows = carry
            state, metrics = step_of(state, views(state.step, place), probe)
            return state, jax.lax.dynamic_update_index_in_dim(rows, pack(metrics), place, 0)

        metrics = jax.eval_shape(lambda: step_of(state, views(state.step, jnp.int32(0)), probe))[1]
        self._traced.append(expanded(metrics, self.rows))
        rows = jnp.zeros((size, len(self._traced[-1])), jnp.float32)
        return jax.lax.fori_loop(0, chunk.number, body, (state, rows))

    @property
    def pairs(self) -> bool:
        """Whether a step compares an example with a neighbour of it."""
        return bool(self.compares and self.config.data.neighbours)

    @property
    def mesh(self) -> Any:
        """The devices that share a batch, None for one."""
        return make_mesh(self.config.mesh.data)

    def seen(self, key: Array, step: Array, batch: Batch) -> Views:
        """What a step is given of its batch.

        Args:
          key: of the state.
          step: optimizer steps made before it.
          batch: its examples.
        """
        key = jax.random.fold_in(key, step)

        def none(key: Array, batch: Batch) -> Views:
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(self.views_of, key, batch))

        # Always true, which XLA does not know: what is in a branch is compiled by itself, to the same digits wherever a
        # batch came from (fused with a gather, here or there, they differ in the last bits), and written to memory
        # once. XLA would otherwise sample every pixel again in each of its uses, a third of an MNIST step on a CPU.
        return jax.lax.cond(step >= 0, self.views_of, none, key, batch)

    def views(self, key: Array, data: Batch, step: Array, index: Array) -> Views:
        """What a step is given of a training split.

        Args:
          key: of the state.
          data: the training split.
          step: optimizer steps made before it.
          index: shape=(B,), its examples.
        """
        batch = Batch(data.image[index], data.label[index])
        if self.pairs:
            batch = batch._replace(partner=partners(key, step, data, index))
        return self.seen(key, step, batch)

    def probe_of(self, data: Batch) -> Batch:
        """The probe batch: the same examples of a split for the whole run."""
        index = probe_indices(self.config.seed, self.num_train, self.config.probe.size)
        return Batch(data.image[index], data.label[index])

    def metric_names(self, init: Callable[[], TrainState], input_dim: int) -> tuple[str, ...]:
        """Names of the metrics, in the order of `epoch`'s vector.

        Args:
          init: () → TrainState; traced with a step, if no epoch has been.
          input_dim: X.
        """
        if self._traced:
            return self._traced[-1]

        def step(data: Batch) -> Metrics:
            size = examples_a_step(self.config)
            return self.train_step(init(), Batch(data.image[:size], data.label[:size]), self.probe_of(data))[1]

        data = Batch(jnp.zeros((self.num_train, input_dim)), jnp.zeros(self.num_train, jnp.int32))
        self._traced.append(expanded(jax.eval_shape(step, data), self.rows))
        return self._traced[-1]
