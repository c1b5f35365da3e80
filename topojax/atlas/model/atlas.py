"""The attentive atlas: encoder and decoder over N charts with K codes each (model §3-4)."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from topojax.atlas.model.discs import BALL_RADIUS, coordinates, packed, places
from topojax.atlas.model.frontends import NORM, Painter, frontend
from topojax.atlas.model.layers import (
    IsotropicBlock,
    MixtureGate,
    NormGate,
    SpectralDense,
    SpectralKernel,
    SpectralMap,
    SpectralMaps,
    product,
    random_param,
)
from topojax.atlas.model.learned_metric import SoftEquivariantMetric, assigned
from topojax.atlas.model.router import CovariantRouter, route
from topojax.atlas.model.unrolled import unrolled
from topojax.types import Array, Decoding, Encoding

BALL_SCALE = "ball_scale"
"""Among the encoder's weights: a number of the data, which no gradient moves."""


def to_ball(v: Array, scale: ArrayLike) -> Array:
    """V ↦ ρ tanh(s‖v‖) v/‖v‖ with ρ = 0.98, smooth at 0: keeps the latent where the router's τ is meant (model §3)."""
    norm = jnp.sqrt(jnp.sum(v**2, axis=-1, keepdims=True) + 1e-12)
    return BALL_RADIUS * jnp.tanh(scale * norm) / norm * v


def nearest_code(v_loc: Array, codebook: Array) -> tuple[Array, Array, Array]:
    """Squared distances [B, N, K], argmin [B, N] and the code vectors [B, N, D] of v_loc to codes [N, K, D].

    Computed with the batch last, where every line is a run over memory.

    Args:
      v_loc: [B, D], the same for every chart, or [B, N, D].
      codebook: [N, K, D].
    """
    batch_last = jnp.moveaxis(v_loc, 0, -1)  # [D, B] or [N, D, B]
    each = batch_last[None] if v_loc.ndim == 2 else batch_last
    if unrolled(codebook.shape[-1]):
        parts = [(each[:, None, i] - codebook[:, :, i, None]) ** 2 for i in range(codebook.shape[-1])]
        distances = functools.reduce(jnp.add, parts)
    else:
        distances = jnp.sum((each[:, None] - codebook[..., None]) ** 2, axis=2)
    index = jnp.argmin(distances, axis=1).astype(jnp.int32)
    chosen = jnp.einsum("nkd,nkb->ndb", codebook, jax.nn.one_hot(index, codebook.shape[1], axis=1))
    return jnp.moveaxis(distances, -1, 0), index.T, jnp.moveaxis(chosen, -1, 0)


OVERSHOOT = 0.02
"""How far beyond the data's range [0, 1] a bounded readout reaches: the range's ends are drawn at finite inputs."""


def within(y: Array) -> Array:
    """σ(y) stretched to [−0.02, 1.02]."""
    return (1.0 + 2.0 * OVERSHOOT) * jax.nn.sigmoid(y) - OVERSHOOT


class Encoder(nn.Module):
    """x → chart, code and latent coordinates (model §3).

    Attributes:
      hidden, latent, charts, codes: H, D, N, K.
      covariant: attention router; off, scores are ⟨v, c_n⟩/√D.
      tensorization, rank, transport: of the covariant router.
      gate_bias_init: initial β of the norm gates.
      center_scale, code_scale: standard deviations of the initial centres and codes.
      ball, ball_scale: bound v to the ball of radius 0.98, after scaling it; the scale among the weights, where
        `Model.normalise` puts it, goes before this one.
      router_gain: initial value of a learned factor on the router's scores; 0 is none, the original, whose temperature
        √H (1 − ‖z‖²)/2 lets routing be sharp at the rim of the ball alone.
      key_offset: standard deviation of a free part of each chart's key, besides the image of its centre; 0 is none, the
        original, whose keys span no more than D dimensions.
      straight_through: `detached` lets reconstruction train centres and router; `parity` is the original, in
        which the centres' gradient cancels.
      matmul: type that operands of the products over features are rounded to; routing, gates, norms and everything
        else are float32.
      frontend, channels, rotations, picture: what stands before the first layer, its sizes, (H, W, C) of the inputs.
      metric, metric_bundle: the distance that codes are chosen by, and its bundles.
    """

    hidden: int
    latent: int
    charts: int
    codes: int
    covariant: bool = True
    tensorization: str = "sum"
    rank: int = 8
    transport: bool = True
    gate_bias_init: float = 1.0
    center_scale: float = 0.3
    code_scale: float = 0.05
    ball: bool = True
    ball_scale: float = 3.0
    straight_through: str = "detached"
    router_gain: float = 0.0
    key_offset: float = 0.0
    matmul: str = "float32"
    discs: bool = True
    frontend: str = "flat"
    channels: int = 8
    rotations: int = 8
    picture: tuple[int, int, int] | None = None
    metric: str = "euclid"
    metric_bundle: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Encoding:
        bundle = self.latent if self.hidden % self.latent == 0 else 1
        ball_scale = self.get_variable("params", BALL_SCALE, self.ball_scale)
        gate = lambda name: NormGate(bundle, self.gate_bias_init, name=name)  # noqa: E731
        spread = 3**0.5  # of a uniform variable of standard deviation 1
        around = packed(self.charts, self.latent) if self.discs else 0.0
        noise = 0.02 if self.discs else self.center_scale
        centers = random_param(self, "centers", (self.charts, self.latent), spread * noise, around)
        sizes = (self.charts, self.codes, self.latent)
        codebook = random_param(self, "codebook", sizes, spread * self.code_scale)

        if self.frontend != "flat":
            pictures = (self.picture, self.channels, self.rotations)
            x = frontend(self.frontend, *pictures, self.gate_bias_init, NORM / ball_scale)(x)
        features = gate("gate_0")(SpectralDense(self.hidden, matmul=self.matmul, name="features_0")(x))
        features = gate("gate_1")(SpectralDense(self.hidden, matmul=self.matmul, name="features_1")(features))
        v = SpectralDense(self.latent, name="value")(features)
        if self.ball:
            v = to_ball(v, ball_scale)

        if self.covariant:
            base = SpectralDense(self.hidden, use_bias=False, name="chart_keys")(centers)
            if self.key_offset:
                base = base + random_param(self, "key_offsets", base.shape, spread * self.key_offset)
            covariant = (self.hidden, self.tensorization, self.rank, self.transport, self.router_gain)
            scores = CovariantRouter(*covariant, name="router")(v, base, features)
        else:
            scores = v @ centers.T / self.latent**0.5
        router = route(scores)

        if self.discs:  # a coordinate of its own in each chart
            kernel, bias = SpectralMaps(self.charts, self.latent, self.hidden, name="values")()
            v_loc = to_ball(jnp.einsum("bh,ndh->bnd", features, kernel) + bias[None], ball_scale)
        else:
            c_bar = router @ centers
            v_loc = v - c_bar
        distances, codes, z_q_all = nearest_code(v_loc, codebook)
        choice = None
        if self.metric != "euclid":
            each = v_loc[:, None, None] if v_loc.ndim == 2 else v_loc[:, :, None]
            difference = jax.lax.stop_gradient(each - codebook[None])
            distances = SoftEquivariantMetric(self.metric_bundle, name="metric")(difference)
            codes, z_q_all, softly = assigned(distances, codebook)
            z_q_all = z_q_all + softly
            choice = jnp.einsum("bn,bnd->bd", jax.lax.stop_gradient(router), softly)
        chart = jnp.argmax(router, axis=-1).astype(jnp.int32)

        if self.discs:
            # z_q + z_n with all of the residual kept is v_loc: a chart is one smooth coordinate, across its codes.
            z_n_all, local, where = v_loc - jax.lax.stop_gradient(z_q_all), v_loc, places(v_loc, centers)
            offset = where - centers[None]
            z_geo = jnp.take_along_axis(where, chart[:, None, None], axis=1)[:, 0]
            z_tex, c_bar = jnp.zeros_like(z_geo), centers[chart]
            z_n = jnp.einsum("bn,bnd->bd", router, z_n_all)
        else:
            residual = v_loc[:, None, :] - jax.lax.stop_gradient(z_q_all)
            residual = IsotropicBlock(self.gate_bias_init, name="filter_0")(residual)
            z_n_all = SpectralDense(self.latent, name="filter_1")(residual)
            z_n = jnp.einsum("bn,bnd->bd", router, z_n_all)
            z_q = jnp.einsum("bn,bnd->bd", router, z_q_all)
            # c̄ + [v_loc + sg(z̄_q − v_loc)] + z_n with the cancelling c̄ − c̄ left out (its rounding, times 1/τ, is all
            # that float32 would add); `detached` keeps the centres' and the router's gradient of the macro path.
            macro = v if self.straight_through == "parity" else v + c_bar - jax.lax.stop_gradient(c_bar)
            z_geo = macro + jax.lax.stop_gradient(z_q - v_loc) + z_n
            z_geo = z_geo if choice is None else z_geo + choice
            z_tex = v_loc - jax.lax.stop_gradient(z_q) - z_n
            local, offset, where = z_n_all, z_n_all, c_bar[:, None] + z_q_all + z_n_all
        return Encoding(
            chart=chart,
            code=jnp.take_along_axis(codes, chart[:, None], axis=1)[:, 0],
            z_n=z_n,
            z_tex=z_tex,
            router=router,
            z_geo=z_geo,
            codes=codes,
            z_n_all=z_n_all,
            c_bar=c_bar,
            v=v,
            distances=distances,
            z_q_all=z_q_all,
            v_loc=v_loc,
            local=local,
            offset=offset,
            places=where,
        )


class Decoder(nn.Module):
    """Latent point and texture → reconstruction, through the decoder's own routing or a given chart (model §4).

    Attributes:
      output: X; the others as in `Encoder`.
      chart_gain: initial value of a learned factor on the charts' projections; 0 is none, the original, in which
        spectral normalisation bounds how far an image moves with its point.
      chart_bias: standard deviation of an offset of each chart's projection; 0 is none, the original, in which all
        charts draw the same image at the origin.
      matmul: as in `Encoder`, and of the product that draws the image.
    """

    output: int
    hidden: int
    latent: int
    charts: int
    covariant: bool = True
    tensorization: str = "sum"
    rank: int = 8
    transport: bool = True
    gate_bias_init: float = 1.0
    router_gain: float = 0.0
    chart_gain: float = 0.0
    chart_bias: float = 0.0
    matmul: str = "float32"
    discs: bool = True
    bounded: bool = True
    readout_gain: float = 4.0
    renderer: str = "flat"
    channels: int = 8
    picture: tuple[int, int, int] | None = None

    @nn.compact
    def __call__(
        self,
        z_geo: Array,
        z_tex: Array,
        chart: Array | None = None,
        centers: Array | None = None,
        told: tuple[Array, Array, Array] | None = None,
    ) -> Decoding:
        """Decode points [B, D].

        Args:
          z_geo: [B, D], latent points.
          z_tex: [B, D], their texture.
          chart: [B], which chart draws; None is the decoder's own routing.
          centers: [N, D], of the charts, where they lie in discs.
          told: (which [B], local [B, N, D], weights [B, N]): examples that are drawn at a place of their own in each
            chart, mixed by these weights, instead of at `z_geo`.
        """
        bundle = self.latent if self.hidden % self.latent == 0 else 1
        gate = lambda name: NormGate(bundle, self.gate_bias_init, name=name)  # noqa: E731
        zeta = jnp.tanh(z_geo)
        if self.covariant:
            base = random_param(self, "chart_queries", (self.charts, self.hidden), (3 / self.hidden) ** 0.5)
            covariant = (self.hidden, self.tensorization, self.rank, self.transport, self.router_gain)
            scores = CovariantRouter(*covariant, name="router")(zeta, base)
        else:
            scores = SpectralDense(self.charts, name="router")(zeta)
        router = route(scores) if chart is None else jax.nn.one_hot(chart, self.charts)
        drawn = router

        projectors = SpectralKernel((self.charts, self.hidden, self.latent), name="projectors")()
        point = zeta.T
        if self.discs:
            local = coordinates(z_geo, jnp.asarray(centers))
            if told is not None:
                which, own, weights = told
                local = jnp.where(which[:, None, None], own, local)
                drawn = jnp.where(which[:, None], weights, router)
            point = local.transpose(1, 2, 0)  # [N, D, B]
        if self.chart_gain:
            gain = self.param("log_chart_gain", nn.initializers.constant(math.log(self.chart_gain)), ())
            projectors = projectors * jnp.exp(gain)
        if self.chart_bias:  # a column of the projectors, against a coordinate that is 1
            offset = random_param(self, "chart_bias", projectors.shape[:2], 3**0.5 * self.chart_bias)
            projectors = jnp.concatenate([projectors, offset[..., None]], axis=-1)
            point = jnp.concatenate([point, jnp.ones_like(point[..., :1, :])], axis=-2)
        h = MixtureGate(bundle, self.gate_bias_init, name="chart_gate")(point, projectors, drawn)

        y = gate("gate_0")(SpectralDense(self.hidden, matmul=self.matmul, name="render_0")(h))
        y = gate("gate_1")(SpectralDense(self.hidden, matmul=self.matmul, name="render_1")(y))
        # render_2(y) + skip(h) + amplitude texture(tanh z_tex), as one product.
        skip, bias = SpectralMap(self.output, self.hidden, name="skip")()
        parts, kernels = [h], [skip]
        if self.renderer == "flat":
            render, b_render = SpectralMap(self.output, self.hidden, name="render_2")()
            parts, kernels, bias = [y, h], [render, skip], b_render + bias
        if not self.discs:
            amplitude = self.param("texture_scale", nn.initializers.constant(0.1), ())
            texture, b_texture = SpectralMap(self.output, self.latent, name="texture")()
            parts, kernels = [*parts, jnp.tanh(z_tex)], [*kernels, amplitude * texture]
            bias = bias + amplitude * b_texture
        x_hat = product(jnp.concatenate(parts, axis=1), jnp.concatenate(kernels, axis=1), self.matmul) + bias[None]
        if self.renderer == "conv":
            assert self.picture is not None
            x_hat = x_hat + Painter(self.picture, self.channels, self.gate_bias_init, name="painter")(y)
        if self.bounded:
            gain = self.param("log_readout_gain", nn.initializers.constant(math.log(self.readout_gain)), ())
            x_hat = within(x_hat * jnp.exp(gain))
        return Decoding(x_hat, router)
