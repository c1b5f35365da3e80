"""The seam: the atlas as pure functions over plain trees; nothing outside this folder imports flax.linen."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike

from topojax.atlas.model.atlas import BALL_RADIUS, BALL_SCALE, Decoder, Encoder, nearest_code
from topojax.atlas.model.discs import CENTER_BOUND
from topojax.atlas.model.frontends import frontend
from topojax.atlas.model.heads import Readout, SupervisedTopology
from topojax.atlas.model.jump import JumpOperator
from topojax.atlas.model.layers import normalise, perturb
from topojax.types import Array, Decoding, Encoding, Outputs, Params, Spectral


@dataclasses.dataclass(frozen=True)
class Model:
    """Pure functions of one atlas; `weights` are parameters after spectral normalisation.

    Attributes:
      init: key → (params, spectral).
      normalise: (params, spectral, ball_scale or None) → (weights, new spectral); once a step, before everything below.
        The encoder's weights hold `ball_scale` too, so that one compiled function serves runs whose data are of other
        spreads; None is the configuration's.
      project: params → params, after an update: where the latent is bound to a ball, centres lie in it (discs whole),
        codes span no more than its diameter, and free parts of keys keep to twice their initial size. Sums of centre
        and code leave reconstruction unchanged, so that nothing else stops them from drifting, and keys grow with the
        centres.
      features: (weights, x [B, X]) → [B, H], what the encoder's heads are of.
      encode: (weights, x [B, X]) → Encoding.
      decode: (weights, z_geo [B, D], z_tex [B, D], chart [B] or None) → Decoding; None is the decoder's own routing.
      reconstruct: (weights, Encoding, which [B], at [B] or None) → Decoding: examples of `which` at their own place in
        each chart, mixed by the encoder's routing; the others dreamed from the place in one chart alone, `at` or the
        strongest.
      draw: (weights, local [B, N, D], w [B, N]) → images [B, X] of coordinates in charts, mixed by w.
      routing: (weights, Encoding) → [B, N], Σ_k w_k w'(z_k): the decoder's routing of an example at all its places.
      jump: (weights, local [B, N, D]) → all jumps [B, N, N, D].
      round_trip: (weights, local [B, N, D]) → i → j → i, [B, N(i), N(j), D].
      class_table: (weights, temperature) → P(y|k) [N, C].
      readout: (weights, router, z_geo) → logits [B, C], detached.
    """

    init: Callable[[Array], tuple[Params, Spectral]]
    normalise: Callable[..., tuple[Params, Spectral]]
    project: Callable[[Params], Params]
    features: Callable[[Params, Array], Array]
    encode: Callable[[Params, Array], Encoding]
    decode: Callable[..., Decoding]
    reconstruct: Callable[..., Decoding]
    draw: Callable[[Params, Array, Array], Array]
    routing: Callable[[Params, Encoding], Array]
    jump: Callable[[Params, Array], Array]
    round_trip: Callable[[Params, Array], Array]
    class_table: Callable[[Params, Array], Array]
    readout: Callable[[Params, Array, Array], Array]

    def __call__(self, weights: Params, x: Array) -> Outputs:
        """Encode, and reconstruct from every place that an example has; in one plane, the original, dream."""
        encoding = self.encode(weights, x)
        return Outputs(encoding, self.reconstruct(weights, encoding, jnp.ones(len(x), bool)))


__all__ = ["Model", "make_model", "nearest_code", "normalise"]


_PLAIN: dict[str, Any] = {
    "frontend": "flat",
    "renderer": "flat",
    "channels": 8,
    "rotations": 8,
    "metric": "euclid",
    "metric_bundle": 0,
}
"""What a configuration of the model means that says nothing of pictures or metrics."""


class _Atlas(nn.Module):
    config: dict
    input_dim: int
    num_classes: int
    image_shape: tuple[int, int, int] | None = None

    def setup(self):
        c: dict[str, Any] = _PLAIN | dict(self.config)
        sizes = {"hidden": c["hidden_dim"], "latent": c["latent_dim"], "charts": c["num_charts"]}
        routing = {
            k: c[k]
            for k in ("covariant", "tensorization", "rank", "transport", "gate_bias_init", "router_gain", "matmul")
        }
        keys: tuple[str, ...] = ("center_scale", "code_scale", "ball", "ball_scale", "straight_through", "key_offset")
        keys += ("discs", "frontend", "channels", "rotations", "metric", "metric_bundle")
        picture: dict[str, Any] = {"picture": self.image_shape}
        self.encoder = Encoder(codes=c["codes_per_chart"], **sizes, **routing, **picture, **{k: c[k] for k in keys})
        drawing = {k: c[k] for k in ("chart_gain", "chart_bias", "discs", "bounded", "readout_gain")}
        drawing |= {k: c[k] for k in ("renderer", "channels")}
        self.decoder = Decoder(output=self.input_dim, **sizes, **routing, **picture, **drawing)
        self.jump = JumpOperator(sizes["charts"], sizes["latent"], c["jump_rank"])
        self.supervised = SupervisedTopology(sizes["charts"], self.num_classes, c["class_affinity"])
        self.readout = Readout(sizes["charts"], self.num_classes, c["readout_bundle"])

    def encode(self, x):
        return self.encoder(x)

    def decode(self, z_geo, z_tex, chart=None, centers=None, told=None):
        return self.decoder(z_geo, z_tex, chart, centers, told)

    def jumps(self, z_n_all):
        return self.jump(z_n_all)

    def round_trips(self, z_n_all):
        return self.jump.round_trip(z_n_all)

    def class_table(self, temperature):
        return self.supervised(temperature)

    def logits(self, router, z_geo):
        return self.readout(router, z_geo)

    def everything(self, x):
        encoding = self.encoder(x)
        self.decoder(encoding.z_geo, encoding.z_tex, None, encoding.places[0])
        self.jump(encoding.z_n_all)
        self.supervised(jnp.ones(()))
        self.readout(encoding.router, encoding.z_geo)


def _fits(c: dict, image_shape: tuple[int, int, int] | None) -> None:
    if c["frontend"] != "flat":
        frontend(c["frontend"], image_shape, c["channels"], c["rotations"], 0.0)
    if c["renderer"] == "conv":
        if image_shape is None:
            raise ValueError(
                "model.renderer = 'conv' needs pictures, and the data are none: take model.renderer = 'flat', or say "
                "with data.shape=HEIGHTxWIDTH what their numbers are the pixels of"
            )
        if image_shape[0] % 4 or image_shape[1] % 4:
            raise ValueError(
                "model.renderer = 'conv' needs pictures with sides divisible by 4, "
                f"the data have {image_shape[0]} × {image_shape[1]}"
            )
        if c["channels"] % 4:
            raise ValueError(f"model.channels = {c['channels']}: must be a multiple of 4 for model.renderer = 'conv'")
    if c["metric_bundle"] and c["latent_dim"] % c["metric_bundle"]:
        raise ValueError(f"model.metric_bundle = {c['metric_bundle']}: must divide latent_dim = {c['latent_dim']}")


def _bounded(config: Any, params: Params) -> Params:
    """`Model.project`."""
    if not config["ball"]:
        return params
    encoder = dict(params["encoder"])
    keys = 2.0 * config["key_offset"] * config["hidden_dim"] ** 0.5
    centers = CENTER_BOUND if config["discs"] else BALL_RADIUS
    for name, bound in {"centers": centers, "codebook": 2.0 * BALL_RADIUS, "key_offsets": keys}.items():
        if name in encoder:
            norm = jnp.linalg.norm(encoder[name], axis=-1, keepdims=True)
            encoder[name] = encoder[name] * jnp.minimum(1.0, bound / jnp.maximum(norm, 1e-12))
    return {**params, "encoder": encoder}


def _features(module: nn.Module, weights: Params, x: Array) -> Array:
    """`Model.features`: the last gate's output."""

    def last(layer: nn.Module, _: str) -> bool:
        return layer.name == "gate_1"

    variables = {"params": weights}
    out: Any = module.apply(variables, x, method="encode", capture_intermediates=last, mutable="intermediates")
    features: Array = out[1]["intermediates"]["encoder"]["gate_1"]["__call__"][0]
    return features


def _with_scale(weights: Params, scale: ArrayLike) -> Params:
    """Weights whose encoder knows the ball's scale; of a part without an encoder, themselves."""
    if "encoder" not in weights:
        return weights
    return {**weights, "encoder": {**weights["encoder"], BALL_SCALE: jnp.asarray(scale, jnp.float32)}}


def make_model(config, *, input_dim: int, num_classes: int, image_shape: tuple[int, int, int] | None = None) -> Model:
    """Build the atlas from `config.model` (see `topojax/config/defaults.py`).

    Args:
      config: mapping with the fields of `config.model`.
      input_dim: X.
      num_classes: C, the size of the class table and readout.
      image_shape: (H, W, C) of the inputs where they are pictures, which convolutions need.

    Returns:
      A `Model` of pure functions.

    Raises:
      ValueError: sizes that do not fit the pictures, or bundles that do not fit the latent.
    """
    _fits(_PLAIN | dict(config), image_shape)
    module = _Atlas(config=dict(config), input_dim=input_dim, num_classes=num_classes, image_shape=image_shape)
    discs = bool(config["discs"])

    def init(key: Array) -> tuple[Params, Spectral]:
        variables = module.init(key, jnp.zeros((2, input_dim)), method="everything")
        return perturb(key, variables["params"], variables["spread"], variables["spectral"])

    def normalised(params: Params, spectral: Spectral, scale: ArrayLike | None = None) -> tuple[Params, Spectral]:
        weights, spectral = normalise(params, spectral)
        return _with_scale(weights, config["ball_scale"] if scale is None else scale), spectral

    def method(name: str) -> Callable:
        return lambda weights, *args: module.apply({"params": weights}, *args, method=name)

    def decode(weights: Params, z_geo: Array, z_tex: Array, chart: Array | None = None, told: Any = None) -> Decoding:
        centers = weights["encoder"]["centers"] if discs else None
        decoded: Any = module.apply({"params": weights}, z_geo, z_tex, chart, centers, told, method="decode")
        return decoded

    def reconstruct(weights: Params, e: Encoding, which: Array, at: Array | None = None) -> Decoding:
        if not discs:
            return decode(weights, e.z_geo, e.z_tex)
        z = e.z_geo if at is None else jnp.take_along_axis(e.places, at[:, None, None], axis=1)[:, 0]
        return decode(weights, z, e.z_tex, None, (which, e.local, e.router))

    def draw(weights: Params, local: Array, mixture: Array) -> Array:
        z = jnp.zeros((len(local), local.shape[-1]))
        return decode(weights, z, z, None, (jnp.ones(len(local), bool), local, mixture)).x_hat

    def routing(weights: Params, e: Encoding) -> Array:
        if not discs:
            return decode(weights, e.z_geo, e.z_tex).router
        flat = e.places.reshape(-1, e.places.shape[-1])
        each = decode(weights, flat, jnp.zeros_like(flat)).router
        return jnp.einsum("bk,bkn->bn", e.router, each.reshape(*e.router.shape, -1))

    return Model(
        init=init,
        project=functools.partial(_bounded, config),
        normalise=normalised,
        features=functools.partial(_features, module),
        encode=method("encode"),
        decode=decode,
        reconstruct=reconstruct,
        draw=draw,
        routing=routing,
        jump=method("jumps"),
        round_trip=method("round_trips"),
        class_table=method("class_table"),
        readout=method("logits"),
    )
