"""A `comparison.compare` as Markdown and as a picture."""

import pathlib
from collections.abc import Mapping
from typing import Any

COLUMNS = (
    ("AMI", "ami", "{:.3f}"),
    ("router accuracy", "router_accuracy", "{:.3f}"),
    ("readout accuracy", "readout_accuracy", "{:.3f}"),
    ("MSE", "mse", "{:.4f}"),
    ("I(X;K), nats", "I_XK", "{:.2f}"),
    ("epochs to 90 %", "epochs_to_90", "{:.0f}"),
    ("contracts kept", "satisfied", "{:.2f}"),
)
"""What the table says: words, measure, format."""
FIELDS = {"all": "all", "rate": "initial rate", "scale": "initial weights"}


def markdown(found: Mapping[str, Any]) -> str:
    """The table with its caption; a second one for the sweep, where there was one."""
    labels = (
        "labels train the charts in every arm"
        if found["labels_used"]
        else "labels train the readout alone; router accuracy is that of the best match"
    )
    lines = [
        f"{found['name']} ({found['data']}), {found['epochs']} epochs, test split, mean ± sd over {found['seeds']} "
        f"seeds; {labels}.",
        "",
        "| arm | " + " | ".join(words for words, _, _ in COLUMNS) + " | set by hand |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for name, arm in found["arms"].items():
        cells = [cell(arm[measure], form) for _, measure, form in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} | {by_hand(arm['setting'])} |")
    if "sweep" in found:
        lines += [
            "",
            "Test AMI over wrong guesses, mean over at most three seeds:",
            "",
            "| arm | guess | worst | mean | best |",
        ]
        lines.append("|---|---|---|---|---|")
        for name, swept in found["sweep"].items():
            for field, words in FIELDS.items():
                if field in swept:
                    numbers = " | ".join(f"{swept[field][which]:.3f}" for which in ("worst", "mean", "best"))
                    lines.append(f"| {name} | {words} | {numbers} |")
    return "\n".join(lines)


def by_hand(setting: Mapping[str, Any]) -> str:
    """What a hand has set, in words; a dash for nothing."""
    words = ", ".join(f"{field} {value:g}" for field, value in setting.items() if value is not None)
    return words.replace("gates 0", "no gates").replace("gates 1", "gates") or "–"


def cell(measure: Mapping[str, Any], form: str) -> str:
    """Mean ± sd; a dash where there is none, and how many runs have a number where not all do."""
    if measure["mean"] is None:
        return "–"
    text = form.format(measure["mean"])
    if measure["sd"] is not None:
        text += " ± " + form.format(measure["sd"])
    there = sum(value is not None for value in measure["values"])
    return text if there == len(measure["values"]) else f"{text} ({there} of {len(measure['values'])})"


def draw(found: Mapping[str, Any], path: pathlib.Path) -> None:
    """Test AMI of each arm with every seed a dot, its mean over the epochs, and AMI against each guess of the sweep."""
    from topojax.tracking.canvas import import_matplotlib

    import_matplotlib()
    from matplotlib.figure import Figure

    swept = [field for field in ("rate", "scale") if any(field in arm for arm in found.get("sweep", {}).values())]
    figure = Figure(figsize=(5 * (2 + len(swept)), 4), layout="constrained")
    axes = figure.subplots(1, 2 + len(swept))
    arms, colours = found["arms"], {name: f"C{i}" for i, name in enumerate(found["arms"])}
    for at, (name, arm) in enumerate(arms.items()):
        ami = arm["ami"]
        axes[0].barh(at, ami["mean"], xerr=ami["sd"] or 0.0, color=colours[name], alpha=0.6)
        axes[0].plot(ami["values"], [at] * len(ami["values"]), "k.", markersize=4)
        axes[1].plot(range(1, len(arm["curve"]) + 1), arm["curve"], color=colours[name], label=name)
    axes[0].set_yticks(range(len(arms)), list(arms))
    axes[0].invert_yaxis()
    axes[0].set_xlabel("test AMI, mean ± sd; a dot a seed")
    axes[1].set_xlabel("epoch")
    axes[1].set_ylabel("test AMI, mean over seeds")
    axes[1].legend(fontsize="small")
    for axis, field in zip(axes[2:], swept, strict=True):
        for name, arm in found["sweep"].items():
            points = [(point["value"], point["ami"]) for point in arm["points"] if point["field"] == field]
            axis.semilogx(*zip(*points, strict=True), "o-", color=colours[name], label=name)
        axis.set_xlabel({"rate": "initial rate", "scale": "factor on the initial weights"}[field])
        axis.set_ylabel("test AMI")
        axis.set_ylim(-0.02, 1.0)
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=110)
