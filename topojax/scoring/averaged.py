"""Contracts measured once more, where scores are: on the averaged parameters, and on training examples as they are.

In training a contract is held against the parameters of the step, on examples as they were moved; scores are of the
averaged parameters. At the end of a run, when the rate has fallen, the two are near; this says how near.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas.optim import eval_params
from topojax.scoring.run import Run, build
from topojax.storage.logs import numbers
from topojax.types import Batch


def measured(run: Run, train: Batch) -> dict[str, float | None]:
    """Metrics of one more epoch in which nothing moves, as `audit` takes them.

    Args:
      run: restored.
      train: the split it was trained on.

    Returns:
      Name → number, None where it is not finite: `contract/<name>/signal` and `error` are of the averaged parameters;
      weights and rates are those of the epoch's controllers, and mean nothing.
    """
    config = run.config.copy_and_resolve_references()
    config.unlock()
    for field in config.augment:
        config.augment[field] = 0.0
    about = {
        "num_train": run.program.num_train,
        "input_dim": run.input_dim,
        "image_shape": run.image_shape,
        "num_classes": run.num_classes,
    }
    program = build(config, about)[1]
    governor = run.state.control.governor
    still = governor._replace(rate=jnp.zeros_like(governor.rate))
    params: Any = jax.tree.map(jnp.copy, eval_params(config.optim, run.state))
    state = dataclasses.replace(run.state, params=params, control=run.state.control._replace(governor=still))
    metrics = jax.jit(program.epoch)(state, jax.tree.map(jnp.asarray, train))[1]
    return numbers(program.named(np.asarray(metrics)))
