"""Where an atlas begins: in the middle of its charts, undecided between them, whatever the scale of its inputs."""

from typing import Any

import jax.numpy as jnp

from topojax.atlas.model import Model
from topojax.types import Array, Params, Spectral


def centred(model: Model, params: Params, spectral: Spectral, images: Array) -> Params:
    """The parameters with the biases of the encoder's heads such that an average example lies at the origin.

    With f̄ the mean of the features f(x) over the examples, b ← −W f̄ in the value heads v = W f + b, the joint one and
    each chart's, and in what the router's query takes from the features; its other bias is 0. Random biases of few
    inputs outweigh what the inputs say: all examples would begin at one place of the ball's rim, in one chart, where
    neither tanh nor a saturated router has a gradient; half of the runs on points of a plane did, and some stayed.

    Initial values that data determine are those of Salimans & Kingma (2016), without their scales: how far the inputs
    spread is `model.ball_scale`. Not in the report; the original begins at random.

    Args:
      model: of charts in discs.
      params: of the atlas, fresh.
      spectral: their power-iteration vectors.
      images: some of the training examples, [B, X].

    Returns:
      `params`, other in four biases.
    """
    weights, _ = model.normalise(params, spectral)
    mean = jnp.mean(model.features(weights, images), axis=0)
    heads = weights["encoder"]
    encoder = dict(params["encoder"])

    def biased(layer: dict[str, Any], bias: Array) -> dict[str, Any]:
        return {**layer, "bias": bias}

    for name in ("value", "values"):
        encoder[name] = biased(encoder[name], -jnp.einsum("...oh,h->...o", heads[name]["kernel"], mean))
    if "router" in encoder:
        router = dict(encoder["router"])
        asked = heads["router"]["query_features"]["kernel"]
        router["query_features"] = biased(router["query_features"], -asked @ mean)
        router["query_z"] = biased(router["query_z"], jnp.zeros_like(router["query_z"]["bias"]))
        encoder["router"] = router
    return {**params, "encoder": encoder}
