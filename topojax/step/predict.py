"""What a trained state says of examples: one row each, a split of any size in batches of one shape."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas import losses
from topojax.atlas.baselines import Baselines
from topojax.atlas.model import Model
from topojax.atlas.optim import eval_params
from topojax.data.padding import BATCH_SIZE, in_batches
from topojax.storage.runtime import compile_program
from topojax.types import Array, Batch

Evaluate = Callable[[Any, Batch], dict[str, Array]]
"""`Program.evaluate`: (state, batch) → arrays of one row for each example."""


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """`Program.evaluate` as a function of a run's numbers too, and those of one run; called, it is that run's.

    Attributes:
      numbers: of the run (`config.numbers.pack`).
      of: (numbers, state, batch) → arrays of one row for each example (`Numbered.evaluate`).
    """

    numbers: Any
    of: Callable[[Any, Any, Batch], dict[str, Array]]

    def __call__(self, state: Any, batch: Batch) -> dict[str, Array]:
        """As `Evaluate`."""
        return self.of(self.numbers, state, batch)


def make_evaluate(config: Any, model: Model, temperature: Callable[[Any], Array], baselines: Baselines) -> Evaluate:
    """Build `Program.evaluate`: the atlas in evaluation mode, from places and dreaming, and its heads.

    Args:
      config: of the run.
      model: the atlas.
      temperature: TrainState → T of P(y|k).
      baselines: of the run.

    Returns:
      (state, batch) → chart, code [B]; router [B, N]; z_geo [B, D]; mean error over inputs, [B]: squared_error of
      the main reconstruction, squared_error_dream from z_geo alone by the decoder's own routing,
      squared_error_by_chart by the strongest chart at z_geo; decoder_chart [B], the decoder's strongest there;
      consistency [B], nats, the divergence of the decoder's routing at all places (`Model.routing`);
      readout_probability [B, C] and readout_prediction [B]; and, where labels trained the charts, class_probability
      (w P) [B, C] and class_prediction [B]. Of each baseline, z [B, D], squared_error, probe_probability,
      probe_prediction, and code where it has a codebook, under `ae/z` and so on.
    """

    def evaluate(state: Any, batch: Batch) -> dict[str, Array]:
        params = eval_params(config.optim, state)
        weights, _ = model.normalise(params["atlas"], state.spectral)
        encoding, decoding = model(weights, batch.image)
        w, none = encoding.router, jnp.zeros_like(encoding.z_tex)
        dream = model.decode(weights, encoding.z_geo, none)
        alone = model.decode(weights, encoding.z_geo, none, encoding.chart)
        error = lambda decoding: jnp.mean((decoding.x_hat - batch.image) ** 2, axis=-1)  # noqa: E731
        logits = model.readout(weights, w, encoding.z_geo)
        out = {
            "chart": encoding.chart,
            "code": encoding.code,
            "router": w,
            "z_geo": encoding.z_geo,
            "squared_error": error(decoding),
            "squared_error_dream": error(dream),
            "squared_error_by_chart": error(alone),
            "decoder_chart": jnp.argmax(dream.router, axis=-1).astype(jnp.int32),
            "consistency": jax.vmap(lambda a, b: losses.consistency(a[None], b[None]))(
                w, model.routing(weights, encoding)
            ),
            "readout_probability": jax.nn.softmax(logits),
            "readout_prediction": jnp.argmax(logits, axis=-1),
        }
        if config.supervised.enabled:
            out["class_probability"] = w @ model.class_table(weights, temperature(state))
            out["class_prediction"] = jnp.argmax(out["class_probability"], axis=-1)
        return out | baselines.evaluate(state.baselines, batch)

    return evaluate


def compile_evaluate(evaluate: Evaluate, state: Any, split: Batch, size: int = BATCH_SIZE) -> Evaluate:
    """Compile `Program.evaluate` for the batches of a split, as training compiles it: equal programs, equal digits.

    Args:
      evaluate: `Program.evaluate`; the numbers of an `Evaluation` are arguments of what is compiled, so that the
        evaluation of another run that differs in them alone is found in the cache.
      state: a training state, or its structure (of `jax.eval_shape`).
      split: n ≥ 1 examples.
      size: examples in a batch; a smaller split is one batch of its own size.
    """
    rows = min(size, len(split.image))
    image = jax.ShapeDtypeStruct((rows, *split.image.shape[1:]), jnp.float32)
    batch = Batch(image, jax.ShapeDtypeStruct((rows,), jnp.int32))  # type: ignore[arg-type]
    if not isinstance(evaluate, Evaluation):
        return compile_program(jax.jit(evaluate).lower(state, batch))
    numbers = jax.tree.map(jnp.asarray, evaluate.numbers)
    return functools.partial(compile_program(jax.jit(evaluate.of).lower(numbers, state, batch)), numbers)


def predict(
    evaluate: Callable[[Any, Batch], Mapping[str, Array]], state: Any, split: Batch, size: int = BATCH_SIZE
) -> dict[str, np.ndarray]:
    """Evaluate a whole split in batches of one shape; the last one is padded and the padding dropped.

    Args:
      evaluate: `Program.evaluate`, jitted or compiled (`compile_evaluate`).
      state: the training state; not changed.
      split: n ≥ 1 examples.
      size: examples in a batch; a smaller split is one batch of its own size.

    Returns:
      The same names, n rows each, in the order of the split.
    """
    rows = Batch(split.image, split.label)
    return in_batches(lambda batch: evaluate(state, batch), rows, min(size, len(split.label)))
