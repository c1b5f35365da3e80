"""What an atlas is compared with: a plain autoencoder, and one with a single codebook at its bottleneck (model §5)."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax.types import Array, Params


class Bottleneck(NamedTuple):
    """What the encoder hands to the decoder. B batch, D latent."""

    z: Array  # shape=(B, D): of the encoder
    z_q: Array  # shape=(B, D): nearest code; z where there is no codebook
    code: Array  # shape=(B,), int32: its index; 0 where there is no codebook


Shapes = dict[str, dict[str, tuple[int, ...]]]
"""Layer → leaf → its shape."""


@dataclasses.dataclass(frozen=True)
class Baseline:
    """X-h-h-D-h-h-X with exact gelu, and a detached probe D-H-C, as pure functions of its parameters.

    Weights and biases start uniform in ±1/√in, codes in ±1/codes.

    Attributes:
      input_dim: X.
      latent: D.
      classes: C.
      width: h.
      probe_width: H.
      codes: size of the codebook; 0 is none.
    """

    input_dim: int
    latent: int
    classes: int
    width: int
    probe_width: int
    codes: int = 0

    @property
    def parameters(self) -> int:
        """How many there are, but for the probe's."""
        return sum(math.prod(shape) for layer in self._body_shapes().values() for shape in layer.values())

    def init(self, key: Array) -> Params:
        """Initial parameters, `body` and `probe`."""
        layers = {"body": self._body_shapes(), "probe": self._probe_shapes()}
        leaves, structure = jax.tree.flatten(layers, is_leaf=lambda node: isinstance(node, tuple))
        # One draw for all leaves: a generator for each takes seconds to compile.
        ends = np.cumsum([math.prod(shape) for shape in leaves])
        noise = jnp.split(jax.random.uniform(key, (int(ends[-1]),), minval=-1.0, maxval=1.0), ends[:-1])
        params = jax.tree.unflatten(structure, [n.reshape(shape) for n, shape in zip(noise, leaves, strict=True)])
        for part in params.values():
            for name, layer in part.items():
                bound = 1.0 / self.codes if name == "codebook" else layer["kernel"].shape[0] ** -0.5
                part[name] = {leaf: bound * value for leaf, value in layer.items()}
        return params

    def encode(self, params: Params, x: Array) -> Bottleneck:
        """Inputs [B, X] at the bottleneck."""
        body = params["body"]
        h = _gelu(_dense(body["encode_1"], _gelu(_dense(body["encode_0"], x))))
        z = _dense(body["bottleneck"], h)
        if not self.codes:
            return Bottleneck(z, z, jnp.zeros(len(z), jnp.int32))
        codebook = body["codebook"]["kernel"]
        distances = jnp.sum((z[:, None] - codebook[None]) ** 2, axis=-1)
        code = jnp.argmin(distances, axis=-1).astype(jnp.int32)
        return Bottleneck(z, codebook[code], code)

    def decode(self, params: Params, z: Array) -> Array:
        """Reconstructions [B, X] of z [B, D]."""
        body = params["body"]
        h = _gelu(_dense(body["decode_1"], _gelu(_dense(body["decode_0"], z))))
        return _dense(body["output"], h)

    def probe(self, params: Params, z: Array) -> Array:
        """Class logits [B, C] of sg z, [B, D]."""
        layers = params["probe"]
        return _dense(layers["logits"], _gelu(_dense(layers["hidden"], jax.lax.stop_gradient(z))))

    def _body_shapes(self) -> Shapes:
        width, latent = self.width, self.latent
        sizes = {
            "encode_0": (self.input_dim, width),
            "encode_1": (width, width),
            "bottleneck": (width, latent),
            "decode_0": (latent, width),
            "decode_1": (width, width),
            "output": (width, self.input_dim),
        }
        body = _dense_shapes(sizes)
        return body | {"codebook": {"kernel": (self.codes, latent)}} if self.codes else body

    def _probe_shapes(self) -> Shapes:
        return _dense_shapes({"hidden": (self.latent, self.probe_width), "logits": (self.probe_width, self.classes)})


def make_baseline(*, parameters: int, **sizes: Any) -> Baseline:
    """The baseline with as many parameters as the atlas: its width is the one whose count comes closest.

    Args:
      parameters: what the atlas has.
      **sizes: of `Baseline`, all but the width.
    """
    return Baseline(width=_closest(lambda width: Baseline(width=width, **sizes).parameters, parameters), **sizes)


def _closest(count: Callable[[int], int], wanted: int) -> int:
    """The width ≥ 1 whose count, which grows with it, is closest to the one wanted; the smaller of two."""
    high = 1
    while count(high) < wanted:
        high *= 2
    low = max(high // 2, 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < wanted else (low, middle)
    return min((low, high), key=lambda width: (abs(count(width) - wanted), width))


def _dense_shapes(sizes: dict[str, tuple[int, int]]) -> Shapes:
    return {name: {"kernel": (rows, columns), "bias": (columns,)} for name, (rows, columns) in sizes.items()}


def _dense(layer: Params, x: Array) -> Array:
    bias = layer["bias"]
    return x @ layer["kernel"] + bias.reshape((1,) * (x.ndim - 1) + bias.shape)


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)
