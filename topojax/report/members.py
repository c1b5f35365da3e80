"""The page of a population: curves of all its members, and who came out where."""

import pathlib
from typing import Any

import numpy as np

from topojax.errors import UserError
from topojax.report.block import Block, Figure, Note, Table
from topojax.report.curves import UNLOGGED
from topojax.report.history import History, read
from topojax.report.page import Section
from topojax.report.style import INK, QUIET, colour, line, own_legends, panels
from topojax.storage import workdir as workdirs
from topojax.storage.population import FILE, read_population
from topojax.tracking.console import number

CURVES = (
    ("Training loss, task", "log", "signal/task"),
    ("Test error, mean squared", "log", "test/mse"),
    ("Test AMI of charts and labels", "linear", "test/ami"),
    ("Learning rate", "log", "lr"),
)
"""Panels: title, scale of y, metric."""
SCORES = ("test/ami", "test/mse", "test/acc_readout", "test/I_XK")
_PER_COLOUR = 10


def page_of(workdir: pathlib.Path) -> tuple[str, str, list[Section]]:
    """Title, lead and sections of a population's page.

    Args:
      workdir: of the population.

    Raises:
      UserError: no population.json there, or no configuration.
    """
    config = workdirs.read_config(workdir)
    found = read_population(workdir)
    if found is None:
        why = (
            "it is damaged, and training on writes it again" if (workdir / FILE).exists() else "nothing has been logged"
        )
        raise UserError(f"{workdir / FILE} cannot be read: {why}")
    histories = [read(workdir / line["folder"]) for line in found["members"]]
    used = "labels trained the charts" if config.supervised.enabled else "labels did not train the charts"
    lead = f"{config.data.name}, {len(histories)} members, epoch {found['epochs']} of {config.train.epochs}; {used}."
    sections = [
        Section("curves", "Training", "Every member, the best in black.", curves(histories, found)),
        Section("members", "Members", "What differs, and what came of it.", [_table(found), *_spread(found)]),
    ]
    return f"{config.name}: a population of attentive atlases", lead, sections


def curves(histories: list[History], found: dict[str, Any]) -> list[Block]:
    """The curves of all members, coloured by the first field that the sweep varies, but the seed if it can."""
    if not any(history.rows for history in histories):
        return [Note(UNLOGGED)]
    figure = panels([title for title, _, _ in CURVES])
    field = next((name for name in found["swept"] if name != "seed"), found["swept"][0])
    values = [member["numbers"][field] for member in found["members"]]
    order = sorted(set(values))
    shown: set[Any] = set()
    members = sorted(range(len(histories)), key=lambda i: i == found["best"])  # the best on top
    for panel, (_, scale, metric) in enumerate(CURVES):
        at = (panel // 2 + 1, panel % 2 + 1)
        for i in members:
            column = histories[i].column(metric)
            if column is None:
                continue
            best = i == found["best"]
            few = len(order) <= _PER_COLOUR
            paint = INK if best else colour(order.index(values[i])) if few else QUIET
            name = f"best, {found['members'][i]['folder']}" if best else number(values[i])
            legend = (few or best) and name not in shown
            shown.add(name)
            look: dict[str, Any] = {"showlegend": legend, "legendgroup": name, "opacity": 1.0 if best else 0.6}
            line(figure, at, histories[i].epoch, column, name, paint, hovertext=found["members"][i]["folder"], **look)
        figure.update_yaxes(type=scale, row=at[0], col=at[1])
    figure.update_xaxes(title_text="epoch", row=2)
    told = f", coloured by {field}" if len(order) <= _PER_COLOUR else ""
    caption = (
        f"Every member's curves{told}. The best has the least {found['score']}; labels take no part in that choice "
    )
    caption += (
        "where they do not train the charts. AMI compares charts with labels, which the charts need not have seen."
    )
    return [Figure("population", own_legends(figure), caption)]


def _table(found: dict[str, Any]) -> Table:
    head = ["member", *found["swept"], found["score"], *(name.removeprefix("test/") for name in SCORES), ""]
    rows = []
    for i, member in enumerate(found["members"]):
        result = member["result"] or {}
        state = member["reason"] or ("best" if i == found["best"] else "" if result else member["state"])
        numbers = [number(member["numbers"][name]) for name in found["swept"]]
        rows.append(
            [member["folder"], *numbers, number(member["score"]), *(number(result.get(n)) for n in SCORES), state]
        )
    return Table("members", head, rows, "Scores of the test split after the last epoch.")


def _spread(found: dict[str, Any]) -> list[Block]:
    rows = [
        [name.removeprefix("test/"), number(mean), number(found["sd"][name]), *_range(found, name)]
        for name, mean in found["mean"].items()
        if mean is not None
    ]
    caption = "Mean, sample standard deviation, least and largest over the members that finished."
    return [Table("spread", ["test", "mean", "sd", "least", "largest"], rows, caption)] if rows else []


def _range(found: dict[str, Any], name: str) -> list[str]:
    values = [member["result"][name] for member in found["members"] if member["result"]]
    known = [value for value in values if value is not None]
    return [number(float(np.min(known))), number(float(np.max(known)))] if known else ["–", "–"]
