"""Figures as pages show them: tables between markers, written from docs/figures.json and compared with it.

A page says where a table goes, `<!-- figures:NAME -->` … `<!-- /figures -->`; what stands between is replaced.
`BLOCKS` are the names. An entry of the JSON file is a set of runs that differ by their seed alone (`entry`):

  words         what tables call it; `config`: what it was trained with
  source        `measured` by `topojax.benchmarks.readme`, or `recorded`: copied from an earlier page
  version       of the package; `commits`: what its code was checked out at
  labels_used   whether labels trained the charts; `epochs`, the most and the `least`; `examples` of both
                splits
  cores         of the machine, `at_once`: how many runs shared them; null where it was not written down
  seeds         seed → name → number, as in result.json
  contracts     those that some seed did not keep: relation, target, least and most measured, how many seeds kept them;
                null where it is not known
"""

import json
import pathlib
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from topojax.errors import UserError

FILE = pathlib.Path("docs/figures.json")
NUMBERS = ("mse", "ami", "acc_matched", "acc_supervised", "acc_readout", "I_XK")
"""Of the atlas, on the test split."""
OF_BASELINES = ("mse", "ami", "acc_matched", "acc_probe")
BASELINES = {"": "atlas", "ae/": "autoencoder", "vq/": "VQ, one codebook"}
TIMES = ("time/first_epoch_s", "time/total_s")
_MARKED = re.compile(r"(<!-- figures:(\w+) -->\n)(.*?)(<!-- /figures -->)", re.S)
_RELATIONS = {"<=": "≤", ">=": "≥", "=": "="}


def entry(results: Mapping[int, Mapping[str, Any]], machines: Sequence[Mapping[str, int]]) -> dict[str, Any]:
    """A set of runs, from their result.json.

    Args:
      results: seed → result, of runs that differ by it alone; at least one.
      machines: of each, `cores` and `at_once`, where they were written down.

    Raises:
      UserError: they are of more than one version of the package.
    """
    every = list(results.values())
    found = sorted({result["versions"]["topojax"] for result in every})
    if len(found) > 1:
        both = " and ".join(found)
        raise UserError(
            f"runs of {every[0]['name']} are of versions {both}: delete the older, or take another --workdir"
        )
    names = [f"test/{name}" for name in NUMBERS]
    names += [f"test/{of}{name}" for of in BASELINES if of for name in OF_BASELINES]
    return {
        "source": "measured",
        "version": found[0],
        "commits": sorted({result["versions"].get("commit", "unknown") for result in every}),
        "labels_used": every[0]["labels_used"],
        "epochs": max(result["epochs"] for result in every),
        "epochs_least": min(result["epochs"] for result in every),
        "examples": {split: every[0]["data"][split]["examples"] for split in ("train", "test")},
        "cores": _same(machine.get("cores") for machine in machines),
        "at_once": _same(machine.get("at_once") for machine in machines),
        "seeds": {
            str(seed): {name: _short(result[name]) for name in (*names, *TIMES) if result.get(name) is not None}
            for seed, result in results.items()
        },
        "contracts": dict(_broken([result["contracts"] for result in every])),
    }


def read(root: pathlib.Path) -> dict[str, Any]:
    """The sets of docs/figures.json, by name.

    Raises:
      UserError: there is no such file, or it is no JSON object.
    """
    try:
        found = json.loads((root / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{root / FILE} cannot be read ({error}): run this in the repository's root") from error
    if not isinstance(found, dict):
        raise UserError(f"{root / FILE}: must be an object, set by set")
    return found


def pages(root: pathlib.Path, found: Mapping[str, Any]) -> dict[pathlib.Path, tuple[str, str]]:
    """Pages with marked tables: path → (as it is, as it should be).

    Args:
      root: of the repository.
      found: sets of runs, by name.

    Raises:
      UserError: a page that asks for a table which is none of `BLOCKS`.
    """
    out = {}
    for path in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        text = path.read_text(encoding="utf-8")

        def table(match: re.Match[str], path: pathlib.Path = path) -> str:
            if match[2] not in BLOCKS:
                raise UserError(f"{path}: no table is called {match[2]!r}; there are {', '.join(BLOCKS)}")
            return f"{match[1]}{BLOCKS[match[2]](found)}\n{match[4]}"

        if _MARKED.search(text):
            out[path] = text, _MARKED.sub(table, text)
    return out


def check(root: pathlib.Path) -> None:
    """Compare the pages with what was measured; nothing is trained.

    Raises:
      UserError: a page that says otherwise, with the first line that does.
    """
    for path, (there, wanted) in pages(root, read(root)).items():
        if there != wanted:
            pairs = zip([*there.splitlines(), ""], [*wanted.splitlines(), ""], strict=False)
            line = next(i for i, (a, b) in enumerate(pairs, start=1) if a != b)
            how = "python -m topojax.benchmarks.readme --pages writes it"
            raise UserError(f"{path}, line {line}, is not what {FILE} holds: {how}")


def headline(found: Mapping[str, Any]) -> str:
    """One row a set: mean, least and most over seeds."""
    rows: list[tuple[str, ...]] = [
        ("test split, mean (least – most) over seeds", "labels", "AMI", "accuracy", "MSE", "whole run")
    ]
    for one in found.values():
        seeds, accuracy = one["seeds"].values(), _accuracy(one)
        rows.append(
            (
                f"{_words(one)}, {_seeds(one['seeds'])}",
                _labels(one),
                _spread(seeds, "test/ami", 3),
                _spread(seeds, accuracy, 3),
                _spread(seeds, "test/mse", 4),
                _time(one),
            )
        )
    return _table(rows, found)


def by_seed(found: Mapping[str, Any]) -> str:
    """One row a run."""
    rows = [
        ("test split", "labels", "seed", "AMI", "accuracy", "of the readout, which labels train", "MSE", "I(X;K), nats")
    ]
    for one in found.values():
        for seed, numbers in one["seeds"].items():
            names = (("test/ami", 3), (_accuracy(one), 3), ("test/acc_readout", 3), ("test/mse", 4), ("test/I_XK", 2))
            cells = [_spread([numbers], name, digits) for name, digits in names]
            rows.append((_words(one), _labels(one), seed, *cells))
    return _table(rows, found)


def baselines(found: Mapping[str, Any]) -> str:
    """The atlas and what was trained beside it."""
    rows: list[tuple[str, ...]] = [
        ("test split", "labels", "MSE", "AMI", "matched accuracy", "accuracy of a detached head")
    ]
    found = {name: one for name, one in found.items() if any("test/ae/mse" in run for run in one["seeds"].values())}
    for one in found.values():
        compared = {seed: numbers for seed, numbers in one["seeds"].items() if "test/ae/mse" in numbers}
        for of, words in BASELINES.items():
            head = "acc_probe" if of else "acc_readout"
            digits = {"mse": 4, "ami": 3, "acc_matched": 3, head: 3}
            cells = [_spread(compared.values(), f"test/{of}{name}", n) for name, n in digits.items()]
            labels = "only score it" if of else _labels(one)
            rows.append((f"{words}: {_words(one)}, {_seeds(compared)}", labels, *cells))
    return _table(rows, found)


def contracts(found: Mapping[str, Any]) -> str:
    """Contracts that some seed did not keep, of sets of which it is known."""
    found = {name: one for name, one in found.items() if one["contracts"] is not None}
    rows: list[tuple[str, ...]] = [("training split, last epoch", "labels", "contract", "asked", "measured", "kept by")]
    for one in found.values():
        if not one["contracts"]:
            rows.append((_words(one), _labels(one), "all", "", "", f"{len(one['seeds'])} of {len(one['seeds'])} seeds"))
        for name, broken in one["contracts"].items():
            ends = [broken["least"], broken["most"]]
            measured = " – ".join(dict.fromkeys(f"{end:.3g}" for end in ends if end is not None)) or "not written down"
            asked = f"{_RELATIONS[broken['relation']]} {broken['target']:.3g}"
            kept = f"{broken['kept']} of {broken['of']} seeds"
            rows.append((_words(one), _labels(one), f"`{name}`", asked, measured, kept))
    return _table(rows, found)


BLOCKS = {"headline": headline, "seeds": by_seed, "baselines": baselines, "contracts": contracts}
"""Tables that a page can ask for."""


def _broken(tables: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Contracts that not every run kept; those that one has and another has not are held against the runs that do."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for table in tables:
        for row in table:
            if row["satisfied"] is not None:
                by_name.setdefault(row["contract"], []).append(row)
    for name, rows in by_name.items():
        if not all(row["satisfied"] for row in rows):
            values = [row["value"] for row in rows if row["value"] is not None]
            yield (
                name,
                {
                    "relation": rows[0]["relation"],
                    "target": _short(rows[0]["target"]),
                    "least": _short(min(values)) if values else None,
                    "most": _short(max(values)) if values else None,
                    "kept": sum(bool(row["satisfied"]) for row in rows),
                    "of": len(rows),
                },
            )


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _same(values: Iterable[Any]) -> Any:
    """The one value that all have; None where they differ."""
    found = set(values)
    return found.pop() if len(found) == 1 else None


def _spread(runs: Iterable[Mapping[str, float]], name: str, digits: int) -> str:
    values = [numbers[name] for numbers in runs if numbers.get(name) is not None]
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} – {max(values):.{digits}f})"


def _accuracy(one: Mapping[str, Any]) -> str:
    return "test/acc_supervised" if one["labels_used"] else "test/acc_matched"


def _words(one: Mapping[str, Any]) -> str:
    least = one.get("epochs_least", one["epochs"])
    epochs = f"{one['epochs']}" if least == one["epochs"] else f"{least} to {one['epochs']}"
    return f"{one['words']}, {epochs} epochs"


def _labels(one: Mapping[str, Any]) -> str:
    return "**train it**" if one["labels_used"] else "only score it"


def _seeds(seeds: Iterable[str]) -> str:
    numbers = sorted(map(int, seeds))
    if len(numbers) == 1:
        return f"seed {numbers[0]}"
    whole = numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"seeds {f'{numbers[0]} to {numbers[-1]}' if whole else ', '.join(map(str, numbers))}"


def _time(one: Mapping[str, Any]) -> str:
    """Seconds, and what ran beside it."""
    seconds = _spread(one["seeds"].values(), "time/total_s", 0)
    if one["cores"] is None or seconds == "–":
        return seconds if seconds == "–" else f"{seconds} s"
    shared = f", {one['at_once']} runs at once" if (one["at_once"] or 1) > 1 else ""
    return f"{seconds} s on {one['cores']} core{'' if one['cores'] == 1 else 's'}{shared}"


def _caption(found: Mapping[str, Any]) -> str:
    """Which version the figures are of; set by set where they are not of one."""
    of: dict[str, list[str]] = {}
    for one in found.values():
        how = "" if one["source"] == "measured" else f", {one['source']} earlier and not measured again"
        of.setdefault(f"topojax {one['version']}{how}", []).append(one["words"])
    if len(of) == 1:
        return f"Figures of {next(iter(of))}."
    parts = [f"{version}: {', '.join(sets)}" for version, sets in of.items()]
    return f"Figures of {'; of '.join(parts)}."


def _table(rows: Sequence[Sequence[str]], found: Mapping[str, Any]) -> str:
    head, *rest = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *rest, "", _caption(found)])
