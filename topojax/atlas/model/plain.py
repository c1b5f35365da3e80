"""What an atlas is compared with: a plain autoencoder, and one with a single codebook at its bottleneck (model §5)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax.types import Array, Params


class Attention(NamedTuple):
    """Self-attention over tokens of a hidden layer: T tokens of A channels, in heads."""

    tokens: int
    dim: int
    heads: int


class Bottleneck(NamedTuple):
    """What the encoder hands to the decoder. B batch, D latent."""

    z: Array  # shape=(B, D): of the encoder
    z_q: Array  # shape=(B, D): nearest code; z where there is no codebook
    code: Array  # shape=(B,), int32: its index; 0 where there is no codebook


class Baseline(NamedTuple):
    """Pure functions of one baseline.

    Attributes:
      width: h, the hidden width that was chosen.
      parameters: of everything but the probe.
      init: key → params, `body` and `probe`.
      encode: (params, x [B, X]) → Bottleneck.
      decode: (params, z [B, D]) → x_hat [B, X].
      probe: (params, z [B, D]) → logits [B, C]; sees sg z.
    """

    width: int
    parameters: int
    init: Callable[[Array], Params]
    encode: Callable[[Params, Array], Bottleneck]
    decode: Callable[[Params, Array], Array]
    probe: Callable[[Params, Array], Array]


def make_baseline(
    *,
    input_dim: int,
    latent: int,
    classes: int,
    parameters: int,
    probe_width: int,
    codes: int = 0,
    attention: Attention | None = None,
) -> Baseline:
    """X-h-h-D-h-h-X with exact gelu, as many parameters as the atlas, and a detached probe D-H-C.

    h is the width whose parameters, counted, come closest to the number asked for. Weights and biases start uniform in
    ±1/√in, codes in ±1/codes. The attention block, where there is one, follows the second hidden layer of either half:
    h + W_o MHA(LN(W_i h)), without learned scales.

    Args:
      input_dim: X.
      latent: D.
      classes: C.
      parameters: what the atlas has.
      probe_width: H of the probe.
      codes: size of the codebook; 0 is none.
      attention: tokens of the hidden layers; None is no block.
    """

    def shapes(width: int) -> dict[str, dict[str, tuple[int, ...]]]:
        sizes = {
            "encode_0": (input_dim, width),
            "encode_1": (width, width),
            "bottleneck": (width, latent),
            "decode_0": (latent, width),
            "decode_1": (width, width),
            "output": (width, input_dim),
        }
        if attention is not None:
            inner = attention.tokens * attention.dim
            for half in ("encode", "decode"):
                sizes[f"{half}_tokens"] = (width, inner)
                sizes |= {f"{half}_{part}": (attention.dim, attention.dim) for part in ("query", "key", "value")}
                sizes[f"{half}_mixed"] = (inner, width)
        body: dict[str, dict[str, tuple[int, ...]]] = {
            name: {"kernel": (rows, columns), "bias": (columns,)} for name, (rows, columns) in sizes.items()
        }
        if codes:
            body["codebook"] = {"kernel": (codes, latent)}
        return body

    def count(width: int) -> int:
        return sum(math.prod(shape) for layer in shapes(width).values() for shape in layer.values())

    width = _closest(count, parameters)
    probe_sizes = {"hidden": (latent, probe_width), "logits": (probe_width, classes)}
    probe_shapes = {name: {"kernel": size, "bias": (size[1],)} for name, size in probe_sizes.items()}

    def init(key: Array) -> Params:
        layers = {"body": shapes(width), "probe": probe_shapes}
        leaves, structure = jax.tree.flatten(layers, is_leaf=lambda node: isinstance(node, tuple))
        # One draw for all leaves: a generator for each takes seconds to compile.
        ends = np.cumsum([math.prod(shape) for shape in leaves])
        noise = jnp.split(jax.random.uniform(key, (int(ends[-1]),), minval=-1.0, maxval=1.0), ends[:-1])
        params = jax.tree.unflatten(structure, [n.reshape(shape) for n, shape in zip(noise, leaves, strict=True)])
        for part in params.values():
            for name, layer in part.items():
                bound = 1.0 / codes if name == "codebook" else layer["kernel"].shape[0] ** -0.5
                part[name] = {leaf: bound * value for leaf, value in layer.items()}
        return params

    def encode(params: Params, x: Array) -> Bottleneck:
        body = params["body"]
        h = _gelu(_dense(body["encode_1"], _gelu(_dense(body["encode_0"], x))))
        z = _dense(body["bottleneck"], _attend(body, "encode", h, attention))
        if not codes:
            return Bottleneck(z, z, jnp.zeros(len(z), jnp.int32))
        codebook = body["codebook"]["kernel"]
        distances = jnp.sum((z[:, None] - codebook[None]) ** 2, axis=-1)
        code = jnp.argmin(distances, axis=-1).astype(jnp.int32)
        return Bottleneck(z, codebook[code], code)

    def decode(params: Params, z: Array) -> Array:
        body = params["body"]
        h = _gelu(_dense(body["decode_1"], _gelu(_dense(body["decode_0"], z))))
        return _dense(body["output"], _attend(body, "decode", h, attention))

    def probe(params: Params, z: Array) -> Array:
        layers = params["probe"]
        return _dense(layers["logits"], _gelu(_dense(layers["hidden"], jax.lax.stop_gradient(z))))

    return Baseline(width, count(width), init, encode, decode, probe)


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


def _dense(layer: Params, x: Array) -> Array:
    bias = layer["bias"]
    return x @ layer["kernel"] + bias.reshape((1,) * (x.ndim - 1) + bias.shape)


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


def _attend(body: Params, half: str, h: Array, attention: Attention | None) -> Array:
    if attention is None:
        return h
    tokens = _dense(body[f"{half}_tokens"], h).reshape(-1, attention.tokens, attention.dim)
    split = (*tokens.shape[:2], attention.heads, attention.dim // attention.heads)
    normal = jax.nn.standardize(tokens, epsilon=1e-5)
    query, key, value = (_dense(body[f"{half}_{part}"], normal).reshape(split) for part in ("query", "key", "value"))
    mixed = jax.nn.dot_product_attention(query, key, value)
    return h + _dense(body[f"{half}_mixed"], mixed.reshape(len(h), -1))
