"""Small images: laid out in a sheet, drawn with labels by matplotlib, or behind one another in a sprite."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from topojax.report.still import png
from topojax.report.style import INK, QUIET

Shape = tuple[int, int, int]
_TEXT = 0.3


def visible(images: np.ndarray, shape: Shape) -> np.ndarray:
    """Rows [..., X] as pictures [..., H, W, 3] uint8; one channel is drawn as dark ink on white paper."""
    pixels = np.clip(images, 0.0, 1.0).reshape(*images.shape[:-1], *shape)
    if shape[2] == 1:
        pixels = 1.0 - np.repeat(pixels, 3, axis=-1)
    return np.round(255 * pixels[..., :3]).astype(np.uint8)


def sheet(pictures: np.ndarray, gap: int = 1) -> np.ndarray:
    """Pictures [rows, columns, H, W, 3] side by side on white, `gap` pixels apart: [H', W', 3]."""
    rows, columns, height, width, _ = pictures.shape
    out = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i in range(rows):
        for j in range(columns):
            y, x = i * (height + gap), j * (width + gap)
            out[y : y + height, x : x + width] = pictures[i, j]
    return out


def sprite(pictures: np.ndarray, columns: int) -> tuple[bytes, str]:
    """All pictures [n, H, W, 3] in one image: its bytes, and their kind; grey ones as PNG, coloured ones as JPEG."""
    from PIL import Image

    n, height, width, _ = pictures.shape
    rows = -(-n // columns)
    filled = np.concatenate([pictures, np.full((rows * columns - n, height, width, 3), 255, np.uint8)])
    whole = filled.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4).reshape(rows * height, -1, 3)
    grey = bool((pictures[..., :1] == pictures).all())
    image = Image.fromarray(whole[..., 0] if grey else whole)
    buffer = io.BytesIO()
    if grey:  # sixteen greys are enough for a thumbnail, and halve the file
        image.quantize(16).save(buffer, "PNG", optimize=True)
        return buffer.getvalue(), "png"
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue(), "jpeg"


def table(
    rows: Sequence[tuple[str, np.ndarray]],
    shape: Shape,
    *,
    heads: Sequence[str] = (),
    below: Sequence[Sequence[tuple[str, str]]] = (),
    side: float = 0.62,
) -> bytes:
    """Images in labelled rows and columns, as a PNG.

    Args:
      rows: (name, images [columns, X]); an image of NaN is an empty place.
      shape: (H, W, C).
      heads: names of the columns.
      below: for each row (text, colour) of each image, or an empty sequence: what stands below it.
      side: inches of an image.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    columns = max(len(images) for _, images in rows)
    under = [bool(texts) for texts in below] or [False] * len(rows)
    step = side * 1.1
    heights = [step + (_TEXT if text else 0.0) for text in under]
    left = 0.075 * max(len(name) for name, _ in rows) + 0.2
    top = (0.44 if any("\n" in head for head in heads) else 0.3) if heads else 0.08
    width, height = left + columns * step + 0.05, top + sum(heights) + 0.06
    figure = Figure(figsize=(width, height), facecolor="white")
    axis = figure.add_axes((0, 0, 1, 1))  # in inches: an axes for every image would take ten times as long
    y = height - top
    for number, (name, images) in enumerate(rows):
        y -= heights[number]
        base = y + (_TEXT if under[number] else 0.0)
        axis.text(left - 0.12, base + side / 2, name, ha="right", va="center", fontsize=8.5, color=INK)
        for column, image in enumerate(images):
            if not np.isfinite(image).all():
                continue
            x = left + column * step
            axis.imshow(visible(image, shape), interpolation="nearest", extent=(x, x + side, base, base + side))
            axis.add_patch(Rectangle((x, base), side, side, fill=False, ec="#d5d9e0", lw=0.5))
            if under[number]:
                text, paint = below[number][column]
                style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6.5, "color": paint}
                axis.text(x + side / 2, y + 0.05 + _TEXT / 2, text, **style)
    for column, head in enumerate(heads):
        x = left + column * step + side / 2
        axis.text(x, height - top + 0.05, head, ha="center", va="bottom", fontsize=7.5, color=QUIET)
    axis.set(xlim=(0, width), ylim=(0, height))
    axis.set_axis_off()
    return png(figure)
