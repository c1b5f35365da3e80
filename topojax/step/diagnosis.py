"""What went bad first: the term and the tensor that are not finite, and with `config.debug` the operation behind."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from topojax.config.batch import examples_a_step
from topojax.data.augment import Views
from topojax.data.chunks import Chunk, at, scaled
from topojax.data.sets import batch_indices
from topojax.step.epoch import Epochs
from topojax.step.state import TrainState
from topojax.types import Array, Batch


@dataclasses.dataclass(frozen=True)
class Culprit:
    """What is not finite, in the order in which a step computes it; empty names where nothing of that kind is.

    Attributes:
      step: of the epoch, from 1.
      tensor: of the state, else of the batch, else of the gradients: the first of them.
      term: of the loss.
    """

    step: int
    tensor: str
    term: str

    def __str__(self) -> str:
        parts = [f"tensor {self.tensor}"] if self.tensor else []
        return ", ".join(parts + ([f"term {self.term}"] if self.term else [])) or "nothing that lasts"


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnosis:
    """Looks at the steps of an epoch once more, where a run has failed.

    Attributes:
      epochs: the run's.
    """

    epochs: Epochs

    def culprit(self, state: TrainState, data: Batch) -> Culprit | None:
        """What is first not finite in the steps of the epoch that follows a state, none of them taken; None: nothing.

        Args:
          state: steps that are not finite have left it as it was before them.
          data: the training split.
        """
        names: list[str] = []

        def look(carry: None, which: tuple[Array, Array]) -> tuple[None, Array]:
            found = self._parts(state, self.epochs.views(state.key, data, *which))
            names[:] = found
            return carry, jnp.stack(list(found.values()))

        order = self._order(state)
        steps = state.step + jnp.arange(len(order))
        bad = np.asarray(jax.jit(lambda: jax.lax.scan(look, None, (steps, order))[1])())
        found = (_named(step + 1, dict(zip(names, bad[step], strict=True))) for step in range(len(bad)))
        return next((culprit for culprit in found if culprit), None)

    def culprit_in(self, state: TrainState, chunks: Iterable[Chunk]) -> Culprit | None:
        """`culprit` in batches from the host.

        Args:
          state: as there.
          chunks: of the epoch that follows.
        """
        names: list[str] = []  # in their order, which jit would sort

        @jax.jit
        def look(step: Array, batch: Batch) -> Array:
            found = self._parts(state, self.epochs.seen(state.key, step, batch))
            names[:] = found
            return jnp.stack(list(found.values()))

        for place, batch in enumerate(_batches(chunks)):
            bad = np.asarray(look(state.step + place, batch))
            found = _named(place + 1, dict(zip(names, bad, strict=True)))
            if found:
                return found
        return None

    def operation(self, state: TrainState, data: Batch) -> str:
        """The first operation of a loss or its gradient that makes NaN, and what is not finite, in words.

        Args:
          state: before an epoch, of which a step is not finite.
          data: the training split.
        """
        data = jax.tree.map(jnp.asarray, data)
        order = self._order(state)
        seen = (lambda state, index=index: self.epochs.views(state.key, data, state.step, index) for index in order)
        return self._operation(state, seen, self.epochs.probe_of(data))

    def operation_in(self, state: TrainState, chunks: Iterable[Chunk]) -> str:
        """`operation` in batches from the host.

        Args:
          state: as there.
          chunks: of the epoch that follows.
        """
        chunks = iter(chunks)
        first = next(chunks)
        batches = _batches(itertools.chain([first], chunks))
        seen = (lambda state, batch=batch: self.epochs.seen(state.key, state.step, batch) for batch in batches)
        return self._operation(state, seen, scaled(first.probe, first.table))

    def _operation(self, state: TrainState, seen: Iterable[Callable[[TrainState], Views]], probe: Batch) -> str:
        step = jax.jit(self.epochs.step)
        for number, views_of in enumerate(seen, start=1):
            views = views_of(state)
            after, metrics = step(state, views, probe)
            if metrics["guard/skipped"]:
                said = self._checked(state, views) or "no operation makes NaN, a number is too large"
                first = _named(number, self._parts(state, views)) or "a controller"
                return f"step {number}: {said}; first of all {first}"
            state = after
        return "every step is finite when taken again"

    def _order(self, state: TrainState) -> Array:
        config, steps = self.epochs.config, self.epochs.closing.steps_per_epoch
        return batch_indices(config.seed, state.step // steps, self.epochs.num_train, examples_a_step(config))

    def _parts(self, state: TrainState, views: Views) -> dict[str, Array]:
        """Name → whether it holds a number that is not finite."""
        update = self.epochs.update
        losses, gradients = update.gradient(state, update.system.weights(state.control), update.settings(state), views)
        given = {"batch": views.batch._asdict(), "second": views.second}
        terms = sorted((losses.aux.terms | losses.baselines).items(), key=lambda term: (term[0] != "recon", term[0]))
        made = {"gradient": gradients.params, "gradient of baselines": gradients.baselines}
        loss = {f"loss.{name}": ~jnp.all(jnp.isfinite(value)) for name, value in terms}  # recon first: others follow
        return {**_bad(state.lasting()), **_bad(given), **loss, **_bad(made)}

    def _checked(self, state: TrainState, views: Views) -> str:
        update = self.epochs.update

        def gradient(state: TrainState, views: Views) -> Any:
            weights = update.system.weights(state.control)
            return update.gradient(state, weights, update.settings(state), views)

        error, _ = jax.jit(checkify.checkify(gradient, errors=checkify.float_checks))(state, views)
        return " ".join((error.get() or "").split())


def _batches(chunks: Iterable[Chunk]) -> Iterator[Batch]:
    """The batches of an epoch, one by one."""
    return (at(chunk, jnp.int32(place)) for chunk in chunks for place in range(int(chunk.number)))


def _named(step: int, bad: Mapping[str, Any]) -> Culprit | None:
    hits = [name for name, hit in bad.items() if hit]
    terms = [name for name in hits if name.startswith("loss.")]
    tensors = [name for name in hits if name not in terms]
    return Culprit(step, next(iter(tensors), ""), next(iter(terms), "")[5:]) if hits else None


def _bad(tree: Mapping[str, Any]) -> dict[str, Array]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): ~jnp.all(jnp.isfinite(leaf))
        for path, leaf in leaves
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    }
