"""The topology of what an atlas has learned, read off its charts: nerve, Euler characteristic, orientability.

Nothing is concluded from one reading: patches are taken at several sizes, and a verdict is given only where most of
them agree and the charts are charts, folded hardly anywhere. Signs of transitions may be wrong here and there: their
class is decoded (`orientation`).
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from topojax.analysis.cover import NEIGHBOURS, Cover, distances_to_cells, make_cover, make_graph
from topojax.analysis.gluing import Charted, Cocycle, Glue, Senders, charted, cocycles, folded, glue, home_of, sign_of
from topojax.analysis.orientation import Nerve, decode
from topojax.errors import UserError
from topojax.scoring.run import Run

EPSILONS = (2.5, 2.75, 3.0, 3.25, 3.5, 3.75, 4.0, 4.25, 4.5)
"""Sizes of patches beyond their cells, in spacings of the points; errors are measured at the middle one."""
PLATEAU = 3
"""Readings one after the other that must give the same Euler characteristic, more than give any other."""
UNANIMOUS = 0.75
"""Least share of the readings that must say the same of orientability."""
SURE = 0.9
"""Share of an overlap's points on which the Jacobian has its sign, below which the sign is told as uncertain."""
FOLDED = 0.05
"""Largest share of neighbours between which charts may turn over, over all of them."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """What was found, and the evidence.

    Attributes:
      orientability: `orientable`, `non-orientable` or `undetermined`.
      euler: the Euler characteristic; None is undetermined.
      readings: one a size of patches: epsilon, euler, components (of patches, overlaps of two, three, …), orientable
        (True, False or None), unexplained (share of the overlaps' signs, by how sure they are, that no orientation of
        the patches explains), twisted (the same, where the nerve may be turned around its holes), uncertain (overlaps
        on whose core signs differ).
      glue: every overlap of two charts.
      cocycle: of three charts → their errors.
      folded: of each chart, share of neighbours between which it turns over.
      points, charts: how many were looked at, and how many charts claim one.
      reasons: why something is undetermined.
    """

    orientability: str
    euler: int | None
    readings: list[dict[str, Any]]
    glue: list[Glue]
    cocycle: dict[tuple[int, ...], Cocycle]
    folded: np.ndarray
    points: int
    charts: int
    reasons: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        weight = [g.points for g in self.glue]
        found = {
            "orientability": self.orientability,
            "euler": self.euler,
            "points": self.points,
            "charts": self.charts,
            "transition_error": _mean([g.error for g in self.glue], weight),
            "cycle_error": _mean([g.cycle for g in self.glue], weight),
            "cocycle_error": _mean([c.error for c in self.cocycle.values()]),
            "cocycle_error_drawn": _mean([c.drawn for c in self.cocycle.values()]),
            "folded": [round(float(x), 4) for x in self.folded],
            "readings": self.readings,
            "nerve": [
                {**g._asdict(), "charts": list(g.charts), "parts": list(g.parts), "share": round(g.share, 4)}
                for g in self.glue
            ],
            "triangles": [{"charts": list(s), **c._asdict()} for s, c in self.cocycle.items()],
            "reasons": list(self.reasons),
        }
        return _known(found)


def topology(run: Run, points: np.ndarray) -> Topology:
    """Read the topology off the charts of a run whose latent is a plane.

    Args:
      run: restored.
      points: [n, X], a sample of the data, dense enough that cells hold a few dozen points each.

    Raises:
      UserError: charts that lie in one plane, a latent of other than two dimensions, or too few points.
    """
    if not run.config.model.discs or run.config.model.latent_dim != 2:
        raise UserError("topology needs charts of two dimensions, each in a disc: config.model.discs, latent_dim = 2")
    if len(points) <= NEIGHBOURS:
        raise UserError(f"topology needs more than {NEIGHBOURS} examples, there are {len(points)}")
    graph = make_graph(np.asarray(points, np.float64))
    found = charted(run, graph)
    distance = distances_to_cells(graph, found.chart, found.router.shape[1])
    turns = folded(graph, found)
    send = Senders(run)
    covers = [make_cover(graph, distance, found.local, epsilon) for epsilon in EPSILONS]
    middle = covers[len(covers) // 2]
    glued = glue(found, middle, send)
    readings = [_reading(cover, found) for cover in covers]
    euler, why_euler = plateau([r["euler"] for r in readings])
    oriented, why = _unanimous([r["orientable"] for r in readings])
    reasons = [*why_euler, *why]
    if np.isfinite(turns).any() and (share := float(np.nanmean(turns))) > FOLDED:
        reasons.append(f"charts turn over between {share:.1%} of neighbours")
        oriented = euler = None  # what is no chart covers nothing
    words = {True: "orientable", False: "non-orientable", None: "undetermined"}
    return Topology(
        orientability=words[oriented],
        euler=euler,
        readings=readings,
        glue=glued,
        cocycle=cocycles(found, middle, send),
        folded=turns,
        points=len(points),
        charts=len(np.unique(found.chart)),
        reasons=tuple(reasons),
    )


def text(found: Topology) -> str:
    """The verdict in words, with its evidence."""
    numbers = found.as_json()

    def number(name: str) -> str:
        return "–" if numbers[name] is None else f"{numbers[name]:.4f}"

    lines = [
        f"{found.orientability}, Euler characteristic {'undetermined' if found.euler is None else found.euler}",
        "",
        f"{found.points} points in {found.charts} charts",
        f"{len(found.glue)} overlaps of two charts, {len(found.cocycle)} of three",
        f"transition error  {number('transition_error')}   of φ_ij against what chart j says, in unit discs",
        f"cycle error       {number('cycle_error')}   of φ_ji φ_ij against the identity",
        f"cocycle error     {number('cocycle_error')}   of φ_jk φ_ij against φ_ik;"
        f" {number('cocycle_error_drawn')} between the points drawn, in the inputs' units",
        f"turning over      {_share(found.folded, np.nanmean)}   of neighbours, {_share(found.folded, np.nanmax)}"
        " in the worst",
        "",
        "patches reach  Euler  components of patches, overlaps of 2, 3, …  unexplained  twisted  uncertain",
    ]
    for r in found.readings:
        parts = ", ".join(map(str, r["components"]))
        said = [("–" if r[s] is None else f"{r[s]:.1%}").rjust(len(s)) for s in ("unexplained", "twisted")]
        shares = "  ".join([*said, f"{r['uncertain']:9d}"])
        lines.append(f"{r['epsilon']:13.2f}  {r['euler']:5d}  {parts:41s}  {shares}")
    return "\n".join([*lines, *(f"undetermined: {reason}" for reason in found.reasons)])


def _reading(cover: Cover, found: Charted) -> dict[str, Any]:
    """One size of patches."""
    nerve, signs, sure = nerve_of(cover, found)
    said = decode(nerve, signs, np.maximum(2.0 * sure - 1.0, 0.0))
    return {
        "epsilon": cover.epsilon,
        "euler": cover.euler,
        "components": cover.counts(),
        "orientable": said.orientable,
        "unexplained": _finite(said.unexplained),
        "twisted": _finite(said.twisted),
        "classes": said.classes,
        "uncertain": int((sure < SURE).sum()),
    }


def nerve_of(cover: Cover, found: Charted) -> tuple[Nerve, np.ndarray, np.ndarray]:
    """Patches and their overlaps, the sign of each overlap of two, and the share of its core that has it: [E], [E]."""
    number = {(k, i): 0 for (k, *more), parts in cover.overlaps.items() if not more for i in range(len(parts))}
    number = {patch: n for n, patch in enumerate(number)}
    edges, signs = [], []
    at: dict[tuple[tuple[int, ...], int], np.ndarray] = {}
    for charts, parts in cover.overlaps.items():
        if len(charts) == 2:
            for part in parts:
                at[charts, len(at)] = part
                edges.append([number[k, home_of(cover.overlaps[(k,)], part)] for k in charts])
                signs.append(sign_of(found, cover, charts, part))
    of_pair: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
    for (charts, edge), part in at.items():
        of_pair.setdefault(charts, []).append((edge, part))
    triangles = []
    for charts, parts in cover.overlaps.items():
        if len(charts) != 3:
            continue
        sides = [of_pair.get(pair, []) for pair in itertools.combinations(charts, 2)]
        for part in parts if all(sides) else []:
            triangles.append([side[home_of([whole for _, whole in side], part)][0] for side in sides])
    nerve = Nerve(len(number), np.reshape(edges, (-1, 2)).astype(int), np.reshape(triangles, (-1, 3)).astype(int))
    sign, share = np.reshape(signs, (-1, 2)).T if signs else np.zeros((2, 0))
    return nerve, sign, share


def plateau(values: list[int]) -> tuple[int | None, list[str]]:
    """The value of the longest run of equal readings, or None and why there is none."""
    runs = sorted(((len(list(same)), value) for value, same in itertools.groupby(values)), reverse=True)
    if runs and runs[0][0] >= PLATEAU and all(n < runs[0][0] for n, value in runs[1:] if value != runs[0][1]):
        return runs[0][1], []
    return None, [f"no size of patches has the last word on the Euler characteristic: {', '.join(map(str, values))}"]


def _unanimous(values: list[bool | None]) -> tuple[bool | None, list[str]]:
    """What nearly all readings say, or None and why."""
    for answer in (True, False):
        if sum(value is answer for value in values) >= UNANIMOUS * len(values):
            return answer, []
    if all(value is None for value in values):
        return None, ["at no size of patches do the signs of the transitions tell orientable from non-orientable"]
    words = {True: "yes", False: "no", None: "unclear"}
    return None, [f"sizes of patches differ on orientability: {', '.join(words[value] for value in values)}"]


def _finite(share: float) -> float | None:
    return round(share, 4) if np.isfinite(share) else None


def _known(tree: Any) -> Any:
    """Numbers that are not finite as None: JSON has no word for them."""
    if isinstance(tree, dict):
        return {name: _known(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_known(value) for value in tree]
    return None if isinstance(tree, float) and not np.isfinite(tree) else tree


def _share(values: np.ndarray, of: Callable) -> str:
    """A share of neighbours; of charts without points there is none."""
    return f"{of(values):.4f}" if np.isfinite(values).any() else "–"


def _mean(values: list[float], weights: list[int] | None = None) -> float:
    return float(np.average(values, weights=weights)) if values else float("nan")
