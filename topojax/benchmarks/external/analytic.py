"""Every mechanism of three libraries on problems whose x* and λ* are known: which gains are tried, and the table.

Each mechanism of ours is tried with all of `GAINS`, and `analytic_scores.rank` picks. A step of the other libraries
takes a hundred times as long: they are tried with what was picked for the same mechanism and its neighbours in the
list, by the same rule. Primal descent, start and steps are the problem's. λ starts at 0.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from topojax.benchmarks.external.analytic_problems import Problem, problems
from topojax.benchmarks.external.analytic_scores import OVERSHOOT, REACHED, Score, rank, score
from topojax.benchmarks.external.jobs import Job, Records, table

_RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_COEFFICIENTS = (0.3, 1.0, 3.0)
GAINS: Mapping[str, Sequence[tuple[float, ...]]] = {
    "simultaneous": [(rate,) for rate in _RATES],
    "alternating": [(rate,) for rate in _RATES],
    "optimistic": [(rate,) for rate in _RATES],
    "damped": list(itertools.product(_RATES, (3.0, 10.0, 30.0))),
    "pi": list(itertools.product(_RATES, (10.0, 100.0))),
    "nupi": [(*pair, 0.0) for pair in itertools.product(_RATES, (10.0, 30.0, 100.0))],
    "augmented": list(itertools.product(_COEFFICIENTS, (1.0, 0.1, 0.03, 0.01))),
    "penalty": [(coefficient,) for coefficient in _COEFFICIENTS],
    "default": [()],
    "default_augmented": [()],
}
"""Mechanism → gains to try: the dual rate (K_i); K_p or the damping over it, and ν; c, and the dual rate over c."""

MECHANISMS = {
    "simultaneous": "dual ascent, simultaneous",
    "alternating": "dual ascent, dual first",
    "optimistic": "optimistic (cooper: extrapolation)",
    "damped": "damped dual ascent",
    "pi": "PI",
    "nupi": "ν-PI",
    "augmented": "augmented Lagrangian",
    "penalty": "quadratic penalty, no λ",
    "default": "our default, ν-PI(0.3, 0.01), no gain given",
    "default_augmented": "our default with a penalty of 1",
}
LIBRARIES = {
    "topojax": tuple(MECHANISMS),
    "cooper": ("simultaneous", "alternating", "optimistic", "nupi", "augmented", "penalty"),
    "humancompatible-train": ("alternating", "nupi", "augmented"),
}


def jobs(records: Records) -> Iterator[Job]:
    """One for each problem, library and mechanism; ours first, since the others ask what they found."""
    for name, problem in problems().items():
        for library, mechanisms in LIBRARIES.items():
            for mechanism in mechanisms:
                yield Job((f"{name}/{library}/{mechanism}",), _runner(problem, name, library, mechanism, records))


def near(gains: Sequence[tuple[float, ...]], picked: tuple[float, ...]) -> list[tuple[float, ...]]:
    """Of the gains those that differ from the picked ones by at most one place in each column."""
    columns = [sorted(set(column)) for column in zip(*gains, strict=True)]
    places = [[column.index(value) for column, value in zip(columns, choice, strict=True)] for choice in gains]
    at = places[list(gains).index(picked)]
    return [
        choice
        for choice, place in zip(gains, places, strict=True)
        if all(abs(one - other) <= 1 for one, other in zip(place, at, strict=True))
    ]


def _runner(problem: Problem, name: str, library: str, mechanism: str, records: Records) -> Any:
    def run() -> list[dict[str, Any]]:
        gains = GAINS[mechanism]
        if library != "topojax":
            gains = near(gains, tuple(records[f"{name}/topojax/{mechanism}"]["gains"]))
        runs = _runs(problem, library, mechanism, gains)
        scores = [score(*found, problem.multipliers, problem.solution) for found in runs]
        best = min(range(len(gains)), key=lambda i: rank(scores[i]))
        return [{"gains": list(gains[best]), "steps": problem.steps} | _finite(scores[best])]

    return run


def _runs(
    problem: Problem, library: str, mechanism: str, gains: Sequence[tuple[float, ...]]
) -> Iterator[tuple[np.ndarray | None, np.ndarray]]:
    if library == "topojax":
        from topojax.benchmarks.external.analytic_ours import ours

        multipliers, solutions = ours(problem, mechanism, np.array(gains, np.float32).reshape(len(gains), -1))
        for i in range(len(gains)):
            yield None if multipliers is None else multipliers[i], solutions[i]
        return
    from topojax.benchmarks.external import analytic_peers

    solve = analytic_peers.cooper if library == "cooper" else analytic_peers.humancompatible
    for choice in gains:
        yield solve(problem, mechanism, choice)


def _finite(found: Score) -> dict[str, Any]:
    return {name: value if np.isfinite(value) else None for name, value in found._asdict().items()}


def misses(records: Records) -> list[str]:
    """Where a mechanism of ours that claims λ* falls short of a bar, one line each."""
    lines = []
    for key, found in records.items():
        problem, library, mechanism = key.split("/")
        if library != "topojax" or mechanism == "penalty":
            continue
        where = f"{problem}, {MECHANISMS[mechanism]}"
        if found["multiplier"] is None or found["multiplier"] > REACHED:
            lines.append(f"{where}: |λ − λ*| is {_number(found['multiplier'])}, not ≤ {REACHED}")
        if found["overshoot"] is None or found["overshoot"] > OVERSHOOT:
            lines.append(f"{where}: overshoot is {_percent(found['overshoot'])}, not ≤ {OVERSHOOT:.0%}")
        peer = records.get(f"{problem}/cooper/{mechanism}")
        if peer and found["settled"] > 2 * peer["settled"]:
            lines.append(f"{where}: settled after {found['settled']} steps, cooper after {peer['settled']}")
    return lines


def markdown(records: Records) -> str:
    """A table for each problem that has records, and what was missed."""
    parts = []
    for name, problem in problems().items():
        rows: list[Sequence[str]] = [
            ("mechanism", "library", "gains", "\\|λ − λ*\\|", "\\|x − x*\\|", "overshoot", "settled", "λ* to 1e-3")
        ]
        for mechanism, words in MECHANISMS.items():
            for library in LIBRARIES:
                found = records.get(f"{name}/{library}/{mechanism}")
                if found:
                    rows.append((words, library, *_cells(found)))
        if len(rows) > 1:
            parts.append(f"**{problem.words}** ({problem.steps:,} steps)\n\n{table(rows)}")
    short = misses(records)
    words = "No bar is missed." if not short else "Missed:\n\n" + "\n".join(f"- {line}" for line in short)
    beside = [f"{name}/cooper/{mechanism}" for name in problems() for mechanism in LIBRARIES["cooper"]]
    known = sum(key in records for key in beside)
    if known < len(beside):
        words += (
            f"\n\nCooper was run to the end in {known} of {len(beside)} rows; where it was not, nothing is compared."
        )
    return "\n\n".join([*parts, words])


def _cells(found: Mapping[str, Any]) -> tuple[str, ...]:
    gains = ", ".join(f"{gain:g}" for gain in found["gains"]) or "–"
    x = _number(found["solution"])
    if found["multiplier"] is None and found["overshoot"] is None and not found["settled"]:
        return gains, "–", x, "–", "–", "–"
    steps = [str(found[name]) if found[name] <= found["steps"] else "no" for name in ("settled", "reached")]
    return gains, _number(found["multiplier"]), x, _percent(found["overshoot"]), *steps


def _number(value: float | None) -> str:
    return "∞" if value is None else f"{value:.1e}"


def _percent(value: float | None) -> str:
    return "∞" if value is None else f"{value:.0%}"
