"""What went bad first: the term and the tensor that are not finite, and with `config.debug` the operation behind."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from topojax.data.augment import Views
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

        def look(carry: None, at: tuple[Array, Array]) -> tuple[None, Array]:
            found = self._parts(state, self.epochs.views(state.key, data, *at))
            names[:] = found
            return carry, jnp.stack(list(found.values()))

        order = self._order(state)
        steps = state.step + jnp.arange(len(order))
        bad = np.asarray(jax.jit(lambda: jax.lax.scan(look, None, (steps, order))[1])())
        found = (_named(step + 1, dict(zip(names, bad[step], strict=True))) for step in range(len(bad)))
        return next((culprit for culprit in found if culprit), None)

    def operation(self, state: TrainState, data: Batch) -> str:
        """The first operation of a loss or its gradient that makes NaN, and what is not finite, in words.

        Args:
          state: before an epoch, of which a step is not finite.
          data: the training split.
        """
        data = jax.tree.map(jnp.asarray, data)
        step, probe = jax.jit(self.epochs.step), self.epochs.probe_of(data)
        for at, index in enumerate(self._order(state), start=1):
            views = self.epochs.views(state.key, data, state.step, index)
            after, metrics = step(state, views, probe)
            if metrics["guard/skipped"]:
                said = self._checked(state, views) or "no operation makes NaN, a number is too large"
                return f"step {at}: {said}; first of all {_named(at, self._parts(state, views)) or 'a controller'}"
            state = after
        return "every step is finite when taken again"

    def _order(self, state: TrainState) -> Array:
        config, steps = self.epochs.config, self.epochs.closing.steps_per_epoch
        return batch_indices(config.seed, state.step // steps, self.epochs.num_train, config.train.batch_size)

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
