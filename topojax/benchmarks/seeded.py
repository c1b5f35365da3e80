"""Runs that share one compiled program although their seeds differ: the seed is an argument of the program.

`Program` closes over config.seed; here it is built while it is traced, with a traced seed in its place. What comes out
is, number for number, what `topojax train` comes to with that seed: initial parameters, order of the data, augmentation
and probe batch are the same functions of it.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax.data.padding import BATCH_SIZE
from topojax.data.sets import Dataset
from topojax.scoring.run import build
from topojax.step.predict import predict
from topojax.storage.logs import numbers
from topojax.storage.runtime import compile_program
from topojax.types import Array, Batch


class Trained(NamedTuple):
    """What a run leaves behind.

    Attributes:
      predictions: of the data set's test split after the last epoch (`predict.predict`).
      row: metrics of the last epoch, name → number.
      curve: AMI of charts and labels on the test split after every epoch.
      seconds: of training and evaluation, without compiling.
    """

    predictions: dict[str, np.ndarray]
    row: dict[str, Any]
    curve: list[float]
    seconds: float


class Seeded:
    """A configuration whose seed is traced."""

    def __init__(self, config: Any, seed: Array):
        self._config, self.seed = config, seed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


def compile_runs(config: Any, dataset: Dataset) -> Callable[[Dataset, int], Trained]:
    """Compile a configuration for all seeds.

    Args:
      config: a whole configuration, valid; its seed is not read.
      dataset: for its sizes.

    Returns:
      (dataset of the same sizes, seed) → Trained, after config.train.epochs epochs.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    about = dataset.sizes()
    _, program = build(config, about)
    names: list[tuple[str, ...]] = []

    def init(seed: Array) -> Any:
        return build(Seeded(config, seed), about)[1].init()

    def epoch(seed: Array, state: Any, data: Batch) -> tuple[Any, Array]:
        seeded = build(Seeded(config, seed), about)[1]
        out = seeded.epoch(state, data)
        names.append(seeded.metric_names())
        return out

    some = jnp.int32(0)
    abstract = jax.eval_shape(init, some)
    train = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dataset.train)
    size = min(BATCH_SIZE, len(dataset.test.label))
    tested = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), dataset.test)
    start = compile_program(jax.jit(init).lower(some))
    run_epoch = compile_program(jax.jit(epoch, donate_argnums=1).lower(some, abstract, train))
    evaluate = compile_program(jax.jit(program.evaluate).lower(abstract, tested))

    def run(dataset: Dataset, seed: int) -> Trained:
        since = time.perf_counter()
        data, labels = jax.tree.map(jnp.asarray, dataset.train), np.asarray(dataset.test.label)
        state, metrics = start(jnp.int32(seed)), None
        curve, predictions = [], {}
        for _ in range(config.train.epochs):
            state, metrics = run_epoch(jnp.int32(seed), state, data)
            predictions = predict(evaluate, state, dataset.test)
            curve.append(float(adjusted_mutual_info_score(labels, predictions["chart"])))
        row = numbers(dict(zip(names[0], jax.device_get(metrics), strict=True)))
        return Trained(predictions, row, curve, time.perf_counter() - since)

    return run
