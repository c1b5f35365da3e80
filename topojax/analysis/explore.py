"""What an atlas does with a perturbed input, and what lies where in one of its charts.

  run = topojax.restore("runs/digits")
  change = explore.rotate(run, images, degrees=30)
  change.before.chart, change.after.chart, change.after.reconstruction
  explore.grid(run, chart=3, size=12).image  # [12, 12, X]: the chart drawn as a sheet

Every function takes a restored run and examples, many or one, in the units of its data; returns NumPy arrays in these
units, and changes nothing. Of a table that has texts, what is returned is its rows in [0, 1].
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from topojax.atlas.model.discs import radii
from topojax.data.augment import rotate_points, warp
from topojax.errors import UserError
from topojax.scoring.run import Run
from topojax.types import Encoding

MARGIN = 0.25
"""How far beyond its codes a chart is drawn, as a share of their extent along each axis."""


class View(NamedTuple):
    """What the atlas makes of n inputs."""

    image: np.ndarray  # shape=(n, X), as given
    chart: np.ndarray  # shape=(n,), int32
    code: np.ndarray  # shape=(n,), int32
    router: np.ndarray  # shape=(n, N): w, sums to 1
    z_geo: np.ndarray  # shape=(n, D)
    probabilities: np.ndarray  # shape=(n, C): of the classes (`probabilities`)
    reconstruction: np.ndarray  # shape=(n, X), as `Run.reconstruct` gives it


class Change(NamedTuple):
    """The same inputs before and after a perturbation, row by row."""

    before: View
    after: View


class Path(NamedTuple):
    """A way through one chart, decoded by that chart alone."""

    chart: int
    z: np.ndarray  # shape=(steps, D)
    image: np.ndarray  # shape=(steps, X)
    own: np.ndarray  # shape=(steps,), int32: the chart that the decoder itself would choose there


class Grid(NamedTuple):
    """A sheet of one chart: a lattice over two of its axes, decoded by that chart alone."""

    chart: int
    axes: tuple[int, int]
    z: np.ndarray  # shape=(size, size, D): rows from the top, second axis falling; columns along the first axis
    image: np.ndarray  # shape=(size, size, X)
    own: np.ndarray  # shape=(size, size), int32: the chart that the decoder itself would choose there


def look(run: Run, x: ArrayLike) -> View:
    """Encode inputs and reconstruct them.

    Args:
      run: restored.
      x: as for `Run.encode`.

    Raises:
      UserError: another shape or scale, or values that are not finite.
    """
    return _look(run, _rows(run, x))


def _look(run: Run, rows: np.ndarray) -> View:
    encoding: Any = run.encode_rows(rows)
    run = _told(run)
    return View(
        image=run.units.back(rows),
        chart=encoding.chart,
        code=encoding.code,
        router=encoding.router,
        z_geo=encoding.z_geo,
        probabilities=probabilities(run, encoding),
        reconstruction=run.units.back(run.reconstruct_rows(rows)),
    )


def probabilities(run: Run, encoding: Encoding) -> np.ndarray:
    """Class probabilities [n, C]: Σ_k w_k P(y|k) where labels trained the charts, else the detached readout's.

    Args:
      run: restored.
      encoding: of `Run.encode`.
    """
    if run.config.supervised.enabled:
        table = run.model.class_table(run.weights, run.program.temperature(run.state))
        return np.asarray(encoding.router) @ np.asarray(table)
    logits = run.model.readout(run.weights, jnp.asarray(encoding.router), jnp.asarray(encoding.z_geo))
    return np.asarray(jax.nn.softmax(logits))


def rotate(run: Run, x: ArrayLike, degrees: ArrayLike) -> Change:
    """Turn images about their centre, bilinear, zero outside; points of the plane about (½, ½).

    Args:
      run: restored.
      x: [n, X] or [n, H, W, C].
      degrees: one angle, or [n]; from the x axis (right) towards the y axis (down).

    Raises:
      UserError: inputs that cannot be turned, or an angle that is not finite.
    """
    image = _rows(run, x)
    angle = np.deg2rad(_each("degrees", degrees, len(image)))
    if run.image_shape is not None:
        still = jnp.zeros((len(image), 2))
        turned = warp(jnp.asarray(image), run.image_shape, jnp.asarray(angle), jnp.ones(len(image)), still)
    elif run.input_dim == 2:
        turned = rotate_points(jnp.asarray(image), jnp.asarray(angle))
    else:
        raise UserError(f"inputs of {run.input_dim} numbers are no images and no points of a plane: nothing to rotate")
    return Change(_look(run, image), _look(run, np.asarray(turned)))


def noise(run: Run, x: ArrayLike, std: float, *, seed: int = 0) -> Change:
    """Add Gaussian noise; the result is not clipped, as in training.

    Args:
      run: restored.
      x: [n, X] or [n, H, W, C].
      std: standard deviation ≥ 0, in units of the inputs.
      seed: of the noise.

    Raises:
      UserError: a standard deviation that is negative or not finite.
    """
    if not (np.isfinite(std) and std >= 0):
        raise UserError(f"std = {std} must be finite and not negative")
    image = _rows(run, x)
    drawn = np.random.default_rng(seed).standard_normal(image.shape, np.float32)
    width = np.float32(1) if run.units.identity else np.maximum(run.units.width, 1e-30)[None]
    return Change(_look(run, image), _look(run, (image + np.float32(std) / width * drawn).astype(np.float32)))


def occlude(run: Run, x: ArrayLike, *, top: int, left: int, size: int, value: float = 0.0) -> Change:
    """Cover a square of every image.

    Args:
      run: restored; its inputs are images.
      x: [n, X] or [n, H, W, C].
      top: first row covered, pixels.
      left: first column covered, pixels.
      size: of the square's side, pixels ≥ 1; what lies outside the image is cut off.
      value: what it is covered with, in units of the inputs.

    Raises:
      UserError: inputs that are no images, or a square that misses them.
    """
    if run.image_shape is None:
        raise UserError("these inputs are points, not images: nothing to occlude")
    height, width, _ = run.image_shape
    if size < 1 or not (-size < top < height and -size < left < width):
        raise UserError(f"a square of {size} at ({top}, {left}) does not meet images of {height} × {width}")
    image = _rows(run, x)
    covered = image.reshape(-1, *run.image_shape).copy()
    covered[:, max(top, 0) : top + size, max(left, 0) : left + size] = (value - run.units.low[0]) / run.units.width[0]
    return Change(_look(run, image), _look(run, covered.reshape(image.shape)))


def interpolate(run: Run, a: ArrayLike, b: ArrayLike, *, steps: int = 9, chart: int | None = None) -> Path:
    """The straight line between the latents of two inputs, drawn by one chart.

    z(t) = (1 − t) z(a) + t z(b),   texture likewise

    z(a), z(b) are the places that the two have in that chart; where all charts lie in one plane, z_geo.

    Args:
      run: restored.
      a: one input, [X] or [H, W, C].
      b: the other.
      steps: points on the line, ends included, ≥ 2.
      chart: which chart draws; the one of `a`, unless told.

    Raises:
      UserError: fewer than two steps, a chart that does not exist, or inputs of another shape.
    """
    if steps < 2:
        raise UserError(f"steps = {steps} must be at least 2, the two ends")
    ends = run.encode_rows(np.concatenate([_rows(run, x) for x in (a, b)]))
    chart = int(ends.chart[0]) if chart is None else chart
    z = _places(run, ends, chart)
    t = np.linspace(0.0, 1.0, steps, dtype=np.float32)[:, None]
    line = lambda z: (1 - t) * z[0] + t * z[1]  # noqa: E731
    return _path(run, chart, line(z), line(ends.z_tex))


def traverse(
    run: Run,
    chart: int,
    *,
    axis: int = 0,
    steps: int = 9,
    center: ArrayLike | None = None,
    extent: float | None = None,
) -> Path:
    """A chart along one latent axis.

    Args:
      run: restored.
      chart: in [0, N).
      axis: in [0, D).
      steps: points on the way, ≥ 2.
      center: [D], the middle of the way; the middle of the chart's codes, unless told.
      extent: how far it goes to either side, latent units; as far as the codes and `MARGIN` beyond, unless told.

    Raises:
      UserError: an axis or chart that does not exist, fewer than two steps.
    """
    if steps < 2:
        raise UserError(f"steps = {steps} must be at least 2, the two ends")
    middle, reach = _region(run, chart, (axis,), center, extent)
    z = np.repeat(middle[None], steps, axis=0)
    z[:, axis] += np.linspace(-reach[axis], reach[axis], steps, dtype=np.float32)
    return _path(run, chart, z)


def grid(
    run: Run,
    chart: int,
    *,
    size: int = 12,
    axes: tuple[int, int] = (0, 1),
    center: ArrayLike | None = None,
    extent: float | None = None,
) -> Grid:
    """A chart as a sheet of decoded points, without texture.

    Args:
      run: restored; D ≥ 2.
      chart: in [0, N).
      size: points along each axis, ≥ 2.
      axes: the two latent axes: to the right, and up.
      center: [D], the middle of the sheet; the middle of the chart's codes, unless told.
      extent: half its side, latent units; as far as the codes and `MARGIN` beyond, unless told.

    Raises:
      UserError: axes or a chart that do not exist, fewer than two points along an axis.
    """
    if size < 2:
        raise UserError(f"size = {size} must be at least 2")
    if len(axes) != 2 or axes[0] == axes[1]:
        raise UserError(f"axes = {axes} must be two different axes")
    middle, reach = _region(run, chart, axes, center, extent)
    steps = np.linspace(-1.0, 1.0, size, dtype=np.float32)
    z = np.broadcast_to(middle, (size, size, len(middle))).copy()
    z[..., axes[0]] += steps[None, :] * reach[axes[0]]
    z[..., axes[1]] -= steps[:, None] * reach[axes[1]]
    path = _path(run, chart, z.reshape(size * size, -1))
    return Grid(chart, axes, z, path.image.reshape(size, size, *path.image.shape[1:]), path.own.reshape(size, size))


def codes(run: Run, chart: int) -> np.ndarray:
    """Where a chart's codes lie in the latent, c_k + r_k E_k, in one plane c_k + E_k: [K, D].

    Raises:
      UserError: a chart that does not exist.
    """
    charts = run.config.model.num_charts
    if not 0 <= chart < charts:
        raise UserError(f"chart must lie in [0, {charts}), got {chart}")
    encoder: Any = run.weights["encoder"]
    scale = radius(run, chart) if run.config.model.discs else 1.0
    return np.asarray(encoder["centers"])[chart] + scale * np.asarray(encoder["codebook"])[chart]


def radius(run: Run, chart: int) -> float:
    """Radius of a chart's disc, latent units."""
    return float(radii(run.weights["encoder"]["centers"])[chart])


def _places(run: Run, encoding: Encoding, chart: int) -> np.ndarray:
    """Where inputs lie in a chart, [n, D]."""
    if not 0 <= chart < run.config.model.num_charts:
        raise UserError(f"chart must lie in [0, {run.config.model.num_charts}), got {chart}")
    return np.asarray(encoding.places)[:, chart] if run.config.model.discs else np.asarray(encoding.z_geo)


def _region(
    run: Run, chart: int, axes: tuple[int, ...], center: ArrayLike | None, extent: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Middle [D] and half-widths [D] of what is drawn of a chart."""
    at, latent = codes(run, chart), run.config.model.latent_dim
    if any(not 0 <= axis < latent for axis in axes):
        raise UserError(f"axes = {axes} must lie in [0, {latent}), the latent's")
    low, high = at.min(axis=0), at.max(axis=0)
    if run.config.model.discs:  # the disc is the chart
        at, within = np.asarray(run.weights["encoder"]["centers"])[chart], radius(run, chart) / (1 + 2 * MARGIN)
        low, high = at - within, at + within
    middle = (low + high) / 2 if center is None else np.asarray(center, np.float32)
    if middle.shape != (latent,):
        raise UserError(f"center has shape {list(middle.shape)}, must be [{latent}]")
    if extent is not None and not (np.isfinite(extent) and extent > 0):
        raise UserError(f"extent = {extent} must be finite and > 0")
    reach = (high - low) * (0.5 + MARGIN) if extent is None else np.full(latent, extent, np.float32)
    return middle.astype(np.float32), reach


def _path(run: Run, chart: int, z: np.ndarray, z_tex: np.ndarray | None = None) -> Path:
    image = np.asarray(_told(run).decode(z, z_tex, chart=chart).x_hat)
    own = np.asarray(run.decode(z, z_tex).router).argmax(axis=1).astype(np.int32)
    return Path(chart, z, image, own)


def _rows(run: Run, x: ArrayLike) -> np.ndarray:
    """[n, X] in [0, 1]; of one example, n = 1."""
    return run.units.rows(x)[0]


def _told(run: Run) -> Run:
    """The run in whose units arrays are returned."""
    return run.prepared if run.units.text else run


def _each(name: str, value: ArrayLike, n: int) -> np.ndarray:
    array = np.asarray(value, np.float32)
    if array.shape not in ((), (n,)) or not np.isfinite(array).all():
        raise UserError(f"{name} must be one finite number or [{n}] of them, got {array}")
    return np.broadcast_to(array, n)
