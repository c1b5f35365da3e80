"""Topology of surfaces whose topology is known, read off learned charts: verdicts, errors, and what they took.

  python -m topojax.benchmarks.surfaces --workdir=runs/surfaces [--seeds=5] [--jobs=2] [--pages]

Trains `configs/manifolds.py` on each surface from each seed, in a process of its own, and asks `topojax topology`. What
is finished in WORKDIR is read. Writes docs/surfaces.json and the table of docs/topology.md; --pages writes that alone.
"""

import json
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np

from topojax.commands import Parser
from topojax.errors import UserError, exit_status

FILE, PAGE = pathlib.Path("docs/surfaces.json"), pathlib.Path("docs/topology.md")
_MARKED = re.compile(r"(<!-- surfaces -->\n)(.*?)(<!-- /surfaces -->)", re.S)


class Surface(NamedTuple):
    """What is known of a surface."""

    words: str
    orientable: str
    euler: int


SURFACES = {
    "sphere_3d": Surface("sphere", "orientable", 2),
    "torus_3d": Surface("torus", "orientable", 0),
    "moebius_3d": Surface("Möbius band", "non-orientable", 0),
    "klein_4d": Surface("Klein bottle", "non-orientable", 0),
    "projective_plane_4d": Surface("projective plane", "non-orientable", 1),
}
_KEPT = ("orientability", "euler", "cocycle_error", "cocycle_error_drawn", "transition_error", "cycle_error", "charts")


def measure(name: str, seed: int, folder: pathlib.Path) -> dict[str, Any]:
    """Train one run, unless it is finished, and read its topology.

    Raises:
      UserError: a command that failed, with its own last line.
    """
    begun, file = time.monotonic(), folder / "topology.json"
    if not file.exists():
        _call("train", f"--config=configs/manifolds.py:{name}", f"--config.seed={seed}", f"--workdir={folder}")
        _call("topology", f"--workdir={folder}")
        seconds = round(time.monotonic() - begun, 1)
        (folder / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")
    found, result = (
        json.loads((folder / part).read_text(encoding="utf-8")) for part in ("topology.json", "result.json")
    )
    seconds = json.loads((folder / "seconds.json").read_text(encoding="utf-8"))
    return {key: found[key] for key in _KEPT} | {"mse": result["test/mse_by_chart"], "seconds": seconds}


def _call(*arguments: str) -> None:
    ended = subprocess.run([sys.executable, "-m", "topojax", *arguments], capture_output=True, text=True)
    if ended.returncode:
        last = (ended.stderr.strip() or "it said nothing").splitlines()[-1]
        raise UserError(f"topojax {' '.join(arguments)} ended with status {ended.returncode}: {last}")


def table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """A line a surface, and the count of verdicts."""
    rows: list[Sequence[str]] = [
        ("surface", "verdict", "Euler characteristic", "cocycle error", "… drawn", "MSE by chart", "seconds"),
        ("---",) * 7,
    ]
    right = wrong = runs = 0
    for name, known in SURFACES.items():
        seeds = list(found.get(name, {}).values())
        if not seeds:
            continue
        said, euler = [one["orientability"] for one in seeds], [one["euler"] for one in seeds]
        here = said.count(known.orientable)
        other = len(said) - here - said.count("undetermined")
        runs, right, wrong = runs + len(said), right + here, wrong + other
        verdict = f"{known.orientable} {here} of {len(said)}, wrong {other}"
        agreed = f"{known.euler}: {euler.count(known.euler)} of {len(euler)}, undetermined {euler.count(None)}"
        errors = (f"{np.mean([one[key] for one in seeds]):.3f}" for key in ("cocycle_error", "cocycle_error_drawn"))
        mse, seconds = (np.mean([one[key] for one in seeds]) for key in ("mse", "seconds"))
        rows.append((known.words, verdict, agreed, *errors, f"{mse:.1e}", f"{seconds:.0f}"))
    every = [one for seeds in found.values() for one in seeds.values()]
    mean = np.mean([one["cocycle_error"] for one in every])
    words = f"{right} of {runs} verdicts right, {wrong} wrong; mean cocycle error {mean:.3f}."
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + f"\n\n{words}\n"


def write_page(root: pathlib.Path) -> None:
    """Put the table of docs/surfaces.json into docs/topology.md."""
    found = json.loads((root / FILE).read_text(encoding="utf-8"))
    page = root / PAGE
    text = _MARKED.sub(lambda match: f"{match[1]}{table(found)}{match[3]}", page.read_text(encoding="utf-8"))
    page.write_text(text, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 on a UserError."""
    return exit_status(lambda: _carry_out(argv))


def _carry_out(argv: Sequence[str] | None) -> None:
    parser = Parser(prog="python -m topojax.benchmarks.surfaces", description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/surfaces"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--pages", action="store_true", help="only write the page from docs/surfaces.json")
    options = parser.parse_args(argv)
    root = pathlib.Path()
    if not options.pages:
        begun = time.monotonic()
        with futures.ThreadPoolExecutor(max(options.jobs, 1)) as pool:
            begun_runs = {
                (name, seed): pool.submit(measure, name, seed, options.workdir / name / f"seed{seed}")
                for name in SURFACES
                for seed in range(options.seeds)
            }
            found: dict[str, dict[str, Any]] = {}
            for (name, seed), one in begun_runs.items():
                found.setdefault(name, {})[str(seed)] = one.result()
                print(f"{name} {seed}: {found[name][str(seed)]}", flush=True)
        (root / FILE).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        print(f"{table(found)}\n{time.monotonic() - begun:.0f} s in all")
    write_page(root)


if __name__ == "__main__":
    sys.exit(main())
