"""Random views of a batch: rotation, scale, shift by bilinear sampling, then Gaussian noise (theory B11).

Strengths are numbers; a Python zero adds nothing to the program.
Views are not clipped back into [0, 1].
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from topojax.control.base import is_known, is_off
from topojax.types import Array, Batch

ImageShape = tuple[int, int, int]
"""(H, W, C): height, width, channels of an image stored as a row of X = H·W·C numbers."""


def augment(
    key: Array,
    images: Array,
    image_shape: ImageShape | None,
    *,
    noise_std: float = 0.0,
    rotation: float = 0.0,
    shift: float = 0.0,
    scale: float = 0.0,
) -> Array:
    """One independent random view of every example.

    x' = warp(x; θ, s, t) + noise_std · ξ,   θ ~ U(−rotation, rotation), s ~ U(1 − scale, 1 + scale),
    t ~ U(−shift, shift)²,   ξ ~ N(0, I)

    Each kind draws from its own place of the key: switching one off leaves the others' draws as they were.
    The original adds the noise alone and ignores its rotation parameter.

    Args:
      key: typed key.
      images: [B, X].
      image_shape: (H, W, C), or None for points. These rotate about (½, ½) when
        X = 2, and otherwise get noise alone.
      noise_std: standard deviation, in the units of the images.
      rotation: largest angle, in radians.
      shift: largest move along each axis, in pixels.
      scale: largest relative change of size, in [0, 1).

    Returns:
      [B, X] in the dtype of `images`; `images` itself where every strength is zero.

    Raises:
      ValueError: for a strength that is negative or not finite, scale ≥ 1, or H·W·C ≠ X.
    """
    for name, value in {"noise_std": noise_std, "rotation": rotation, "shift": shift, "scale": scale}.items():
        if is_known(value) and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"augment: {name} = {value} must be finite and not negative")
    if is_known(scale) and scale >= 1:
        raise ValueError(f"augment: scale = {scale} must lie below 1: at 1 an image may shrink to a point")
    affine_key, noise_key = jax.random.split(key)
    size, width = images.shape
    view = images
    if not is_off(rotation) or (image_shape is not None and not (is_off(shift) and is_off(scale))):
        draw = jax.random.uniform(affine_key, (4, size), images.dtype, minval=-1.0, maxval=1.0)
        angle = rotation * draw[0]
        if image_shape is not None:
            view = warp(images, image_shape, angle, 1.0 + scale * draw[1], shift * draw[2:].T)
        elif width == 2:
            view = rotate_points(images, angle)
    if not is_off(noise_std):
        view = view + noise_std * jax.random.normal(noise_key, images.shape, images.dtype)
    return view


class Views(NamedTuple):
    """What a step looks at."""

    batch: Batch  # augmented
    second: Array  # shape=(B, X): a view of them again, or of their partners, if a contract wants one; else the first


def make_views(config: Any, image_shape: ImageShape | None, *, second: bool) -> Callable[[Array, Batch], Views]:
    """Build `views(key, batch) -> Views` from `config.augment` and `config.view`.

    Args:
      config: of the run.
      image_shape: as in `augment`.
      second: whether anything compares two views of a batch.
    """
    first_view, second_view = config.augment.to_dict(), config.view.to_dict()

    def views(key: Array, batch: Batch) -> Views:
        key, view_key = jax.random.split(key)
        batch = batch._replace(image=augment(key, batch.image, image_shape, **first_view))
        if not second:
            return Views(batch, batch.image)
        origin = batch.image if batch.partner is None else batch.partner
        return Views(batch._replace(partner=None), augment(view_key, origin, image_shape, **second_view))

    return views


def warp(images: Array, image_shape: ImageShape, angle: Array, factor: Array, shift: Array) -> Array:
    """Move the content of every image: x'(p) = x(R(−θ)(p − c − t) / s + c), bilinear, zero outside.

    Args:
      images: [B, H·W·C], channel last.
      image_shape: (H, W, C).
      angle: [B], radians, from the x axis (right) towards the y axis (down).
      factor: [B], s > 0; above 1 enlarges.
      shift: [B, 2], pixels down and to the right.

    Returns:
      [B, H·W·C].

    Raises:
      ValueError: where the rows of `images` are not H·W·C long.
    """
    height, width, channels = image_shape
    if images.shape[-1] != height * width * channels:
        raise ValueError(f"images of {images.shape[-1]} numbers do not have the shape {image_shape}")
    centre_y, centre_x = (height - 1) / 2, (width - 1) / 2
    row, column = jnp.meshgrid(
        jnp.arange(height, dtype=images.dtype) - centre_y,
        jnp.arange(width, dtype=images.dtype) - centre_x,
        indexing="ij",
    )

    def one(image: Array, angle: Array, factor: Array, shift: Array) -> Array:
        cos, sin = jnp.cos(angle) / factor, jnp.sin(angle) / factor
        y, x = row - shift[0], column - shift[1]
        where = [cos * y - sin * x + centre_y, sin * y + cos * x + centre_x]
        # Mapped over the batch this beats hand-written gathers and two-pass (separable) forms on a CPU.
        return jax.vmap(lambda plane: map_coordinates(plane, where, order=1), in_axes=-1, out_axes=-1)(image)

    stacked = images.reshape(-1, height, width, channels)
    return jax.vmap(one)(stacked, angle, factor, shift).reshape(images.shape)


def rotate_points(points: Array, angle: Array) -> Array:
    """Turn points of the unit square about its centre: p' = R(θ)(p − ½) + ½ ([B, 2], [B] → [B, 2])."""
    x, y = points[:, 0] - 0.5, points[:, 1] - 0.5
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([cos * x - sin * y, sin * x + cos * y], axis=-1) + 0.5
