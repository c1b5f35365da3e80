"""Runs that share one compiled program although their numbers differ: seeds, rates, weights and bounds are arguments.

What comes out is, number for number, what `topojax train` comes to: it trains the same program (`step.numbered`).
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax.config.numbers import pack
from topojax.data.padding import BATCH_SIZE
from topojax.data.sets import Dataset
from topojax.scoring.run import build, numbered_of
from topojax.step.predict import predict
from topojax.storage.logs import numbers as as_json
from topojax.storage.runtime import compile_program
from topojax.training.beginning import beginning, looked_at


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


def compile_runs(config: Any, dataset: Dataset) -> Callable[[Dataset, Any], Trained]:
    """Compile a configuration for all numbers that are its program's arguments (`config.numbers`).

    Args:
      config: a whole configuration, valid.
      dataset: for its sizes.

    Returns:
      (dataset of the same sizes, configuration of the same program) → Trained, after its train.epochs epochs.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    about = dataset.sizes()
    model, program = build(config, about)
    numbered = numbered_of(config, about)
    some = pack(config)
    abstract = jax.eval_shape(numbered.init, some)
    train = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dataset.train)
    size = min(BATCH_SIZE, len(dataset.test.label))
    tested = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), dataset.test)
    start = compile_program(jax.jit(numbered.init).lower(some))
    run_epoch = compile_program(jax.jit(numbered.epoch, donate_argnums=1).lower(some, abstract, train))
    evaluate = compile_program(jax.jit(program.evaluate).lower(abstract, tested))

    def run(dataset: Dataset, config: Any) -> Trained:
        since = time.perf_counter()
        data, labels = jax.tree.map(jnp.asarray, dataset.train), np.asarray(dataset.test.label)
        numbers = jax.tree.map(jnp.asarray, pack(config))
        (state, _), metrics = beginning(config, model, start(numbers), looked_at(config, dataset.train)), None
        curve, predictions = [], {}
        for _ in range(config.train.epochs):
            state, metrics = run_epoch(numbers, state, data)
            predictions = predict(evaluate, state, dataset.test)
            curve.append(float(adjusted_mutual_info_score(labels, predictions["chart"])))
        row = as_json(dict(zip(numbered.metric_names(), jax.device_get(metrics), strict=True)))
        return Trained(predictions, row, curve, time.perf_counter() - since)

    return run
