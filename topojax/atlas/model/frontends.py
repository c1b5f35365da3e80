"""Convolutions before the encoder's first layer and in place of the decoder's last.

  flat       pixels as they come
  conv       two convolutions, each with a norm gate and 2 × 2 sums
  rotation   the same with kernels in n orientations, over the group C_n: features that a rotation leaves as they are

What leaves a front end is normalised example by example and scaled by a learned gain: convolutions of smooth pictures
add up, by factors that depend on the data, and the first layer, bounded in norm, could not undo them.

All kernels are spectrally normalised as matrices [out, in · size²] by `layers.normalise`. Sums over 2 × 2 places are
divided by 2, and sums over rings by the root of their number, so that neither loses signal.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from topojax.atlas.model.layers import NormGate, SpectralMap, random_param, spectral_kernel
from topojax.types import Array

FRONTENDS = ("flat", "conv", "rotation")
MOST_ROTATIONS = 64
"""Orientations of a kernel: those of more are the same pixels."""
_SIZES = (5, 3)
"""Pixels across a kernel, first and second layer."""
_FREQUENCIES = 3
_RINGS = 4
_LARGE = 20
"""Pixels across a picture, from which the front end `rotation` looks at it at half its resolution."""
NORM = 8.0
"""Of an example's features at first, over `ball_scale`. The spread along the first principal axis is about a quarter of
the norm, of pictures (MNIST 0.23, CIFAR-10 0.25) and of features (0.21 to 0.30) alike, and `ball_scale` is measured as
2 over that spread: features as long as the pictures would be leave the latent where it was meant to be. At 4 a feature
all latents lay at the ball's rim, and training began, and stayed, in a single chart."""


def convolve(x: Array, kernel: Array, padding: str = "VALID") -> Array:
    """X [B, h, w, in] with a kernel [s, s, in, out], as one product over patches.

    On a CPU the gradients of XLA's own convolutions of so few channels take many times as long.
    """
    size = kernel.shape[0]
    if padding == "SAME":
        x = jnp.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    shifted = [x[:, i : i + height, j : j + width] for i in range(size) for j in range(size)]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def halved(x: Array) -> Array:
    """2 × 2 sums over 2: [B, h, w, C] → [B, h/2, w/2, C], of an even number of rows and columns."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).sum(axis=(2, 4)) / 2.0


class Convolution(nn.Module):
    """A convolution of this many channels with bias and norm gate.

    Attributes:
      channels: of the output.
      size: pixels across the kernel.
      bundle, bias_init: of the gate.
      padding: SAME keeps the picture's size.
    """

    channels: int
    size: int
    bundle: int
    bias_init: float = 1.0
    padding: str = "VALID"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, h, w, in] → [B, h', w', channels]."""
        inputs = x.shape[-1]
        kernel = spectral_kernel(self, (self.channels, self.size**2 * inputs))
        bias = random_param(self, "bias", (self.channels,), (self.size**2 * inputs) ** -0.5)
        kernel = kernel.reshape(self.channels, self.size, self.size, inputs).transpose(1, 2, 3, 0)
        y = convolve(x, kernel, self.padding) + bias.reshape(1, 1, 1, -1)
        return NormGate(self.bundle, self.bias_init, name="gate")(y)


class Standardised(nn.Module):
    """Features of mean 0 and variance 1 in each example, times a learned gain.

    Attributes:
      norm: of an example's features at first.
    """

    norm: ArrayLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, F] → [B, F]."""
        first = jnp.log(self.norm / x.shape[-1] ** 0.5)
        gain = self.param("log_gain", nn.initializers.constant(first), ())
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        return centred * (jnp.exp(gain) / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6))


class Pictures(nn.Module):
    """The front end `conv`: 5 × 5, halved, 3 × 3, halved, flat; of small pictures the second keeps the size.

    Attributes:
      shape: (H, W, C) of the inputs.
      channels: of the first layer; the second has twice as many.
      norm: of an example's features at first.
    """

    shape: tuple[int, int, int]
    channels: int
    bias_init: float = 1.0
    norm: ArrayLike = NORM

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H·W·C] → features [B, F]."""
        x = x.reshape(-1, *self.shape)
        x = halved(_even(Convolution(self.channels, _SIZES[0], 4, self.bias_init, name="conv_0")(x)))
        padding = "VALID" if min(x.shape[1:3]) > _SIZES[1] else "SAME"
        x = halved(_even(Convolution(2 * self.channels, _SIZES[1], 4, self.bias_init, padding, name="conv_1")(x)))
        return Standardised(self.norm, name="scale")(x.reshape(x.shape[0], -1))


def _even(x: Array) -> Array:
    return x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]


class Rotations(nn.Module):
    """The front end `rotation`: convolutions over C_n, norm gates over its orbits, invariant features.

    Pictures of more than 20 pixels are looked at at half their resolution. A kernel is a combination of rings and
    angular waves, so that it can be turned by any angle: the first layer answers a picture in n orientations, the
    second mixes orientations by their difference alone. A norm gate takes the n orientations of a channel as one
    bundle. Each channel then leaves its mean and its norm over orientations, and their sums over rings around the
    middle. Turning the picture by what is a multiple of 360°/n and of 90° changes nothing, to rounding: by quarters
    where n is a multiple of 4, by halves where it is even. By another multiple of 360°/n it changes no more than pixels
    do that lie on a square; of a quarter that is none, as with n = 2 or 6, nothing is promised.

    Attributes:
      shape: (H, W, C), H = W.
      channels: of each layer, each in n orientations.
      rotations: n.
      norm: of an example's features at first.

    References:
      Cohen & Welling 2016 (group convolutions); Weiler & Cesa 2019 (steerable kernels and norm gates).
    """

    shape: tuple[int, int, int]
    channels: int
    rotations: int = 8
    bias_init: float = 1.0
    norm: ArrayLike = NORM

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H·W·C] → features [B, 2 · channels · rings]."""
        n, x = self.rotations, x.reshape(-1, *self.shape)
        x = halved(x) if x.shape[1] % 2 == 0 and x.shape[1] > _LARGE else x
        x = self._layer("group_0", x, _SIZES[0], 1)
        x = self._layer("group_1", x, _SIZES[1], n)
        orbit = x.reshape(*x.shape[:3], self.channels, n)
        # ε within the root: the gradient of a norm at 0.
        both = jnp.concatenate([orbit.mean(axis=-1), jnp.sqrt(jnp.sum(orbit**2, axis=-1) + 1e-12) / n**0.5], axis=-1)
        rings = jnp.asarray(ring_masks(x.shape[1]))
        features = jnp.einsum("bhwc,rhw->brc", both, rings).reshape(x.shape[0], -1)
        return Standardised(self.norm, name="scale")(features)

    def _layer(self, name: str, x: Array, size: int, orientations: int) -> Array:
        return GroupConvolution(self.channels, size, self.rotations, orientations, self.bias_init, name=name)(x)


class GroupConvolution(nn.Module):
    """A convolution over C_n: of a plain picture (`orientations` 1), or of one that has n orientations a channel.

    K[o, r; c, s] = Σ_b W[o, c, (s − r) mod n, b] basis_b turned by r · 360°/n; channels come out as (o, r), r fastest.
    """

    channels: int
    size: int
    rotations: int
    orientations: int
    bias_init: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, h, w, in · orientations] → [B, h', w', channels · n]."""
        n, basis = self.rotations, jnp.asarray(turned_basis(self.size, self.rotations))
        inputs, terms = x.shape[-1] // self.orientations, basis.shape[1]
        weights = spectral_kernel(self, (self.channels, inputs * self.orientations * terms))
        weights = weights.reshape(self.channels, inputs, self.orientations, terms)
        if self.orientations == 1:
            kernel = jnp.einsum("ocdb,rbij->ijcdor", weights, basis)
        else:
            difference = (np.arange(n)[:, None] - np.arange(n)[None]) % n  # [s, r]
            kernel = jnp.einsum("ocsrb,rbij->ijcsor", weights[:, :, difference], basis)
        kernel = kernel.reshape(self.size, self.size, x.shape[-1], self.channels * n)
        bias = random_param(self, "bias", (self.channels,), weights[0].size ** -0.5)
        y = convolve(x, kernel) + jnp.repeat(bias, n).reshape(1, 1, 1, -1)
        return NormGate(n, self.bias_init, name="gate")(y)


@functools.cache
def turned_basis(size: int, rotations: int) -> np.ndarray:
    """Kernels on a square, turned: [n, terms, size, size], rings by waves cos mθ and sin mθ, each of norm 1.

    Args:
      size: pixels across, odd.
      rotations: n.
    """
    reach = size // 2
    y, x = np.mgrid[reach : -reach - 1 : -1, -reach : reach + 1].astype(np.float64)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    turned = []
    for r in range(rotations):
        by, terms = angle - 2 * np.pi * r / rotations, []
        for ring in range(reach + 1):
            envelope = np.exp(-0.5 * ((radius - ring) / 0.6) ** 2)
            for m in range(min(2 * ring, _FREQUENCIES) + 1):
                # A wave has no direction in the middle.
                waves = (np.cos(m * by), np.sin(m * by)) if m else (np.ones_like(by),)
                terms += [envelope * wave * (radius > 0 if m else 1) for wave in waves]
        turned.append([term / np.linalg.norm(term) for term in terms])
    return np.asarray(turned, np.float32)


@functools.cache
def ring_masks(side: int) -> np.ndarray:
    """[rings, side, side]: which places lie in which ring around the middle, over the root of their number.

    Rings are of one width, from the middle to the side; corners belong to the last.
    """
    at = np.arange(side) - (side - 1) / 2
    radius = np.hypot(*np.meshgrid(at, at))
    ring = np.minimum((radius / (side / 2) * _RINGS).astype(int), _RINGS - 1)
    masks = np.stack([ring == i for i in range(_RINGS)]).astype(np.float64)
    return (masks / np.sqrt(np.maximum(masks.sum(axis=(1, 2), keepdims=True), 1))).astype(np.float32)


class Painter(nn.Module):
    """The decoder's convolutions: H features to a quarter of the picture's size, twice doubled, 3 × 3 each time.

    Attributes:
      shape: (H, W, C) of the picture, sides divisible by 4.
      channels: of the last layer but one; the one before it has twice as many.
    """

    shape: tuple[int, int, int]
    channels: int
    bias_init: float = 1.0

    @nn.compact
    def __call__(self, y: Array) -> Array:
        """[B, hidden] → [B, H·W·C]."""
        height, width, colours = self.shape
        small = (height // 4, width // 4, 2 * self.channels)
        kernel, bias = SpectralMap(int(np.prod(small)), y.shape[-1], name="spread")()
        x = (y @ kernel.T + bias[None]).reshape(-1, *small)
        x = Convolution(self.channels, 3, 4, self.bias_init, "SAME", name="conv_0")(_doubled(x))
        x = _doubled(x)
        kernel, bias = SpectralMap(colours, 9 * self.channels, name="conv_1")()
        kernel = kernel.reshape(colours, 3, 3, self.channels).transpose(1, 2, 3, 0)
        return (convolve(x, kernel, "SAME") + bias.reshape(1, 1, 1, -1)).reshape(y.shape[0], -1)


def _doubled(x: Array) -> Array:
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def frontend(
    kind: str,
    shape: tuple[int, int, int] | None,
    channels: int,
    rotations: int,
    bias_init: float,
    norm: ArrayLike = NORM,
) -> nn.Module:
    """The front end of a name other than `flat`, to be called `frontend` in the encoder.

    Raises:
      ValueError: inputs that are no pictures, or not square for `rotation`; channels not divisible by the gates' 4, or
        more rotations than there are pixels on a ring.
    """
    if shape is None:
        raise ValueError(
            f"model.frontend = {kind!r} needs pictures, and the data are none: take model.frontend = 'flat', or say "
            "with data.shape=HEIGHTxWIDTH what their numbers are the pixels of"
        )
    if min(shape[:2]) < 8:
        raise ValueError(
            f"model.frontend = {kind!r} needs pictures of 8 × 8 pixels or more, the data have {shape[0]} × {shape[1]}"
        )
    if kind == "conv":
        if channels % 4:
            raise ValueError(f"model.channels = {channels}: must be a multiple of 4 for model.frontend = 'conv'")
        return Pictures(shape, channels, bias_init, norm, name="frontend")
    if rotations > MOST_ROTATIONS:
        raise ValueError(f"model.rotations = {rotations}: at most {MOST_ROTATIONS}")
    if shape[0] != shape[1]:
        raise ValueError(f"model.frontend = 'rotation' needs square pictures, the data have {shape}")
    return Rotations(shape, channels, rotations, bias_init, norm, name="frontend")
