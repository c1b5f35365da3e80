"""What control loses to constants tuned on each data set, and what others lose, from results of `benchmarks.control`.

  python -m topojax.benchmarks.regret runs/control/* --out=docs/regret
  python -m topojax.benchmarks.regret docs/control/*/ --out=docs/control/regret --page=docs/what-control-gains.md

Each argument is a folder with a control.json, named after its data. Regret in AMI is oracle − arm, in MSE arm /
oracle − 1, of means over the seeds; the oracle is the arm `constants`, tuned on the training split of the data set at
hand. Positive is a loss. Writes OUT.json and OUT.png, and prints the tables; --page puts them between its marks,
<!-- gains:regret -->, <!-- gains:sets -->, <!-- gains:each --> and <!-- /gains -->.
"""

import json
import pathlib
import re
import statistics
import sys
from collections.abc import Mapping
from typing import Any

from topojax.benchmarks.comparison_report import by_hand, markdown
from topojax.commands import Parser
from topojax.errors import UserError, run_process
from topojax.storage.logs import write_json, write_text

ORACLE = "constants"
ABOUT = ("epochs", "seeds", "labels_used", "sweep")
"""What is kept of a control.json beside its regrets."""


def regrets(found: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Arm → regret in AMI and in MSE, and contracts kept, of one control.json."""
    arms, out = found["arms"], {}
    for name, arm in arms.items():
        ami, mse = arm["ami"]["mean"], arm["mse"]["mean"]
        best_ami, best_mse = arms[ORACLE]["ami"]["mean"], arms[ORACLE]["mse"]["mean"]
        out[name] = {
            "ami": None if ami is None or best_ami is None else best_ami - ami,
            "mse": None if mse is None or not best_mse else mse / best_mse - 1,
            "kept": arm["satisfied"]["mean"],
        }
    return out


def table(by_set: dict[str, dict[str, dict[str, float | None]]]) -> str:
    """Markdown: a row an arm, regrets by data set as `AMI / MSE in per cent`, and their means."""
    arms = list(dict.fromkeys(name for found in by_set.values() for name in found))
    lines = ["| arm | " + " | ".join(by_set) + " | mean | contracts kept |", "|---" * (len(by_set) + 3) + "|"]
    for arm in arms:
        cells = [_cell(found.get(arm)) for found in by_set.values()]
        there = [found[arm] for found in by_set.values() if arm in found]
        kept = [one["kept"] for one in there if one["kept"] is not None]
        mean = {key: _mean([one[key] for one in there]) for key in ("ami", "mse")}
        lines.append(f"| {arm} | {' | '.join(cells)} | {_cell(mean)} | {_mean(kept) or 0:.2f} |")
    return "\n".join(lines)


def _mean(values: list[Any]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None


def _cell(one: dict[str, float | None] | None) -> str:
    if one is None:
        return "–"
    ami = "–" if one["ami"] is None else f"{one['ami']:+.3f}"
    return ami + (" / –" if one["mse"] is None else f" / {100 * one['mse']:+.1f} %")


def settings(whole: dict[str, dict[str, Any]]) -> str:
    """Markdown: what each data set was trained for, and what its search came to."""
    lines = ["| data set | labels | epochs | seeds | tuned by hand to |", "|---|---|---|---|---|"]
    for name, found in whole.items():
        labels = "train the charts" if found["labels_used"] else "only score"
        tuned = by_hand(found["arms"][ORACLE]["setting"])
        lines.append(f"| {name} | {labels} | {found['epochs']} | {found['seeds']} | {tuned} |")
    return "\n".join(lines)


def each(whole: dict[str, dict[str, Any]]) -> str:
    """Markdown: the arms of every data set, and what wrong guesses cost where they were made."""
    parts = []
    for name, found in whole.items():
        known = markdown({key: value for key, value in found.items() if key != "sweep"})
        parts.append(f"### {name}\n\n{known}")
        for arm, swept in found.get("sweep", {}).items():
            worst = swept["all"]
            parts.append(
                f"Wrong guesses, {arm}: AMI {worst['worst']:.3f} to {worst['best']:.3f}, "
                f"MSE {worst['mse_best']:.4g} to {worst['mse_worst']:.4g}."
            )
    return "\n\n".join(parts)


def draw(by_set: dict[str, dict[str, dict[str, float | None]]], path: pathlib.Path) -> None:
    """Regret in AMI and in MSE of each arm, a dot a data set."""
    from topojax.tracking.canvas import import_matplotlib

    import_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    arms = list(dict.fromkeys(name for found in by_set.values() for name in found))
    for ax, key, factor, words in ((axes[0], "ami", 1.0, "AMI lost"), (axes[1], "mse", 100.0, "error more, per cent")):
        for i, (name, found) in enumerate(by_set.items()):
            values = {at: found[arm][key] for at, arm in enumerate(arms) if arm in found}
            points = [(factor * value, at) for at, value in values.items() if value is not None]
            if points:
                ax.plot(*zip(*points, strict=True), "o", color=f"C{i}", label=name, alpha=0.8)
        ax.axvline(0.0, color="black", linewidth=0.8)
        ax.set_xscale("symlog", linthresh=0.01 if key == "ami" else 1.0)
        ax.set_xlabel(f"{words} against constants tuned there")
    axes[0].set_yticks(range(len(arms)), arms)
    axes[0].invert_yaxis()
    axes[1].legend(fontsize=7)
    figure.savefig(path, dpi=120)


def put(page: pathlib.Path, tables: Mapping[str, str]) -> None:
    """Put tables between the marks of their names in a page."""

    def marked(match: re.Match[str]) -> str:
        return f"{match[1]}\n{tables[match[2]]}\n{match[3]}"

    pattern = rf"(<!-- gains:({'|'.join(tables)}) -->\n).*?\n(<!-- /gains -->)"
    write_text(page, re.sub(pattern, marked, page.read_text(encoding="utf-8"), flags=re.DOTALL))


def main(argv: list[str]) -> int:
    """Read, print, draw."""
    parser = Parser(prog="python -m topojax.benchmarks.regret", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("regret"))
    parser.add_argument("--page", type=pathlib.Path, help="a Markdown page with marks")
    given = parser.parse_args(argv)
    if given.page is not None and not given.page.is_file():
        raise UserError(f"--page={given.page}: there is no such page")
    if not given.out.parent.is_dir():
        raise UserError(f"--out={given.out}: the folder {given.out.parent} does not exist")
    by_set, whole = {}, {}
    for folder in given.folders:
        try:
            found = json.loads((folder / "control.json").read_text(encoding="utf-8"))
            name = folder.resolve().name  # own data share a configuration's
            by_set[name] = regrets(found)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder}: no results of topojax.benchmarks.control ({error})") from error
        whole[name] = found
    tables = {"regret": table(by_set), "sets": settings(whole), "each": each(whole)}
    print("\n\n".join(tables.values()))
    if given.page is not None:
        put(given.page, tables)
    about = {name: {key: found.get(key) for key in ABOUT} for name, found in whole.items()}
    write_json(given.out.with_suffix(".json"), {"regret": by_set, "about": about})
    draw(by_set, given.out.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    run_process(lambda: main(sys.argv[1:]))
