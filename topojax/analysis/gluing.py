"""How charts are glued: the transition maps of a learned atlas, their errors, and the sign of their Jacobians.

  φ_ij = ξ_j ∘ D_i     from coordinates in chart i to those in chart j: decode in i, encode, read j

Errors are in the charts' own coordinates, unit discs: of φ_ij against what chart j says of the point itself; of the way
there and back; and of the cocycle φ_jk φ_ij = φ_ik where three charts meet.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax.analysis.cover import Cover, Graph
from topojax.scoring.run import Run
from topojax.types import Array

_STEP = 2e-3  # of differences along the tangent plane, in the inputs' units
_POINTS = 400
"""Points of an overlap that are sent across, at most."""


class Charted(NamedTuple):
    """What an atlas says of points, as a manifold's charts do."""

    chart: np.ndarray  # shape=(n,), int: the strongest
    router: np.ndarray  # shape=(n, N)
    local: np.ndarray  # shape=(n, N, D): coordinates in every chart
    orientation: np.ndarray  # shape=(n, N): det of the coordinates' Jacobian in a frame of the tangent plane
    frame: np.ndarray  # shape=(n, X, D): that frame


class Glue(NamedTuple):
    """One overlap of two charts, a component of it.

    Attributes:
      charts: (i, j), i < j.
      parts: which component of either patch it lies in.
      points: how many.
      sign: +1 or −1, of the Jacobian of φ_ij on most of them.
      share: of them that agree.
      error: mean ‖φ_ij(ξ_i) − ξ_j‖, of both directions.
      cycle: mean ‖φ_ji φ_ij(ξ_i) − ξ_i‖, of both.
    """

    charts: tuple[int, int]
    parts: tuple[int, int]
    points: int
    sign: int
    share: float
    error: float
    cycle: float


def charted(run: Run, graph: Graph) -> Charted:
    """Charts, coordinates and orientations of the graph's points.

    The frame of a point spans its neighbours' first D principal directions; orientations of two charts at one point may
    be compared, those at two points only through the frames.
    """
    latent = run.config.model.latent_dim
    near = graph.points[graph.neighbours] - graph.points[:, None]
    frame = np.linalg.svd(near, full_matrices=False)[2][:, :latent].transpose(0, 2, 1).astype(np.float32)

    @jax.jit
    def look(x: Array, frame: Array) -> tuple[Array, ...]:
        def along(step: Array) -> Array:  # central differences: the router has no forward-mode derivative
            ahead, behind = (run.model.encode(run.weights, x + s * step).local for s in (_STEP, -_STEP))
            return (ahead - behind) / (2.0 * _STEP)

        e = run.model.encode(run.weights, x)
        slopes = jnp.stack([along(frame[:, :, d]) for d in range(latent)], axis=-1)
        return e.chart, e.router, e.local, jnp.linalg.det(slopes)

    looked = look(jnp.asarray(graph.points, jnp.float32), jnp.asarray(frame))
    chart, router, local, orientation = (np.asarray(a) for a in looked)
    return Charted(chart, router, local, orientation, frame)


def folded(graph: Graph, found: Charted) -> np.ndarray:
    """Share of neighbours in one cell between which its coordinates turn over, [N]; NaN of a cell without points.

    A chart that is a chart turns nowhere.
    """
    other = graph.neighbours
    across = np.einsum("nxd,nkxe->nkde", found.frame, found.frame[other])
    same = np.sign(np.linalg.det(across))
    out = np.full(found.router.shape[1], np.nan)
    for k in range(len(out)):
        inside = (found.chart == k)[:, None] & (found.chart[other] == k)
        if inside.any():
            turned = found.orientation[:, None, k] * found.orientation[other, k] * same < 0
            out[k] = turned[inside].mean()
    return out


class Senders:
    """φ of a run, compiled once for all pairs."""

    def __init__(self, run: Run):
        def send(local: Array, source: Array) -> Array:
            """Coordinates [m, D] in charts [m] → coordinates in every chart, [m, N, D]."""
            weights = run.weights
            full = jnp.broadcast_to(local[:, None], (len(local), run.config.model.num_charts, local.shape[1]))
            routing = jax.nn.one_hot(source, run.config.model.num_charts)
            x_hat = run.model.draw(weights, full, routing)
            return run.model.encode(weights, x_hat).local

        def draw(local: Array, chart: Array) -> Array:
            """Coordinates [m, D] in charts [m] → inputs [m, X]."""
            full = jnp.broadcast_to(local[:, None], (len(local), run.config.model.num_charts, local.shape[1]))
            return run.model.draw(run.weights, full, jax.nn.one_hot(chart, run.config.model.num_charts))

        self._send, self._draw = jax.jit(send), jax.jit(draw)

    def drawn(self, local: np.ndarray, chart: int) -> np.ndarray:
        """D of coordinates in a chart, [m ≤ 400, D] → [m, X]."""
        return np.asarray(self._draw(_padded(local), np.full(_POINTS, chart, np.int32)))[: len(local)]

    def __call__(self, local: np.ndarray, source: int) -> np.ndarray:
        """ξ in a chart, [m ≤ 400, D], → ξ in all charts [m, N, D]."""
        return np.asarray(self._send(_padded(local), np.full(_POINTS, source, np.int32)))[: len(local)]


def _padded(local: np.ndarray) -> np.ndarray:
    padded = np.zeros((_POINTS, local.shape[1]), np.float32)
    padded[: len(local)] = local
    return padded


def sign_of(found: Charted, cover: Cover, charts: tuple[int, ...], part: np.ndarray) -> tuple[int, float]:
    """Sign of the Jacobian of the transition on a part of an overlap, and the share of its core that has it."""
    core = cover.core(charts, part)
    signs = np.sign(found.orientation[core, charts[0]] * found.orientation[core, charts[1]])
    sign = 1 if signs.sum() >= 0 else -1
    return sign, float((signs == sign).mean())


def glue(found: Charted, cover: Cover, send: Senders) -> list[Glue]:
    """Every component of every overlap of two patches."""
    out = []
    for charts, parts in cover.overlaps.items():
        if len(charts) != 2:
            continue
        i, j = charts
        for part in parts:
            some = cover.core(charts, part)[:_POINTS]
            sign, share = sign_of(found, cover, charts, part)
            errors, cycles = [], []
            for a, b in ((i, j), (j, i)):
                there = send(found.local[some, a], a)[:, b]
                errors.append(_distance(there, found.local[some, b]))
                cycles.append(_distance(send(there, b)[:, a], found.local[some, a]))
            homes = tuple(home_of(cover.overlaps[(k,)], part) for k in charts)
            numbers = (float(np.mean(errors)), float(np.mean(cycles)))
            out.append(Glue((i, j), (homes[0], homes[1]), len(part), sign, share, *numbers))
    return out


class Cocycle(NamedTuple):
    """How well an overlap of three charts fits together.

    Attributes:
      error: mean ‖φ_jk φ_ij(ξ_i) − φ_ik(ξ_i)‖ of (i, j, k) in both senses, in unit discs.
      drawn: the same of the points that chart k draws there, in the inputs' units: how charts stretch does not count.
    """

    error: float
    drawn: float


def cocycles(found: Charted, cover: Cover, send: Senders) -> dict[tuple[int, ...], Cocycle]:
    """Every overlap of three patches."""
    out: dict[tuple[int, ...], Cocycle] = {}
    for charts, parts in cover.overlaps.items():
        if len(charts) != 3:
            continue
        some = np.concatenate([cover.core(charts, part) for part in parts])[:_POINTS]
        errors, drawn = [], []
        for i, j, k in (charts, charts[::-1]):
            from_i = send(found.local[some, i], i)
            around, straight = send(from_i[:, j], j)[:, k], from_i[:, k]
            errors.append(_distance(around, straight))
            drawn.append(_distance(send.drawn(around, k), send.drawn(straight, k)))
        out[charts] = Cocycle(float(np.mean(errors)), float(np.mean(drawn)))
    return out


def home_of(parts: Sequence[np.ndarray], part: np.ndarray) -> int:
    """Which of some sets of points a part shares most with: the component of a patch that it lies in."""
    return int(np.argmax([np.isin(part, whole).sum() for whole in parts]))


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b, axis=-1).mean())
