"""Runs beside one another: their results in a table, their curves in one figure."""

from collections.abc import Sequence

import numpy as np

from topojax.config.io import flat
from topojax.report.block import Block, Figure, Note, Table
from topojax.report.curves import UNLOGGED
from topojax.report.facts import exact
from topojax.report.history import History
from topojax.report.style import colour, line, own_legends, panels
from topojax.tracking.console import number

CURVES = {
    "test/mse": ("Test MSE", "log"),
    "test/ami": ("Test AMI (labels used, to compare with)", "linear"),
    "test/acc_readout": ("Test accuracy of the readout (labels used)", "linear"),
    "test/I_XK": ("I(X;K), test, nats", "linear"),
    "signal/task": ("Task loss, training", "log"),
    "lr": ("Learning rate", "log"),
}
"""Metric → title of its panel, scale of y."""
_DASHES = ("solid", "dash", "dot", "dashdot")


def names(histories: Sequence[History]) -> list[str]:
    """What each run is called: its folder, and as much of the path before it as tells two runs apart."""
    paths = [history.workdir.absolute().parts for history in histories]
    for depth in range(1, max(map(len, paths)) + 1):
        found = ["/".join(parts[-depth:]) for parts in paths]
        if len(set(found)) == len(found):
            return found
    return [f"{name} ({i})" for i, name in enumerate(found, start=1)]


def curves(histories: Sequence[History]) -> list[Block]:
    """The curves of all runs, one panel a metric."""
    shown = {m: v for m, v in CURVES.items() if any(h.column(m) is not None for h in histories)}
    if not shown:
        return [Note(UNLOGGED)]
    figure = panels([title for title, _ in shown.values()])
    for index, (metric, (_, scale)) in enumerate(shown.items()):
        at = (index // 2 + 1, index % 2 + 1)
        for run, (name, history) in enumerate(zip(names(histories), histories, strict=True)):
            values = history.column(metric)
            if values is not None:
                dash = _DASHES[run % len(_DASHES)]
                line(figure, at, history.epoch, values, name, colour(run), dash=dash, showlegend=index == 0)
        figure.update_yaxes(type=scale, exponentformat="power", row=at[0], col=at[1])
    figure.update_xaxes(title_text="epoch")
    return [Figure("compared", own_legends(figure), "Runs over epochs; the legend of the first panel is that of all.")]


def results(histories: Sequence[History]) -> list[Block]:
    """One row a number, one column a run; then the fields in which their configurations differ."""
    head = ("", *names(histories))
    scored = list(dict.fromkeys(name for h in histories for name in (h.result or {}) if name.startswith("test/")))
    rows = [(name, *(number((h.result or {}).get(name)) for h in histories)) for name in scored]
    held = [
        [c["satisfied"] for c in (h.result or {}).get("contracts", ()) if c["satisfied"] is not None] for h in histories
    ]
    used = ["trained the charts" if h.config.supervised.enabled else "not used by the charts" for h in histories]
    rows = [
        ("labels", *used),
        ("epochs", *(str((h.result or {}).get("epochs", "not finished")) for h in histories)),
        ("parameters", *(number((h.result or {}).get("parameters")) for h in histories)),
        *rows,
        ("contracts held", *(f"{int(np.sum(kept))} of {len(kept)}" if kept else "–" for kept in held)),
        ("time, s", *(number((h.result or {}).get("time/total_s")) for h in histories)),
    ]
    fields = [dict(flat(h.config)) for h in histories]
    differ = [
        (name, *(exact(of.get(name)) for of in fields))
        for name in fields[0]
        if any(of.get(name) != fields[0][name] for of in fields)
    ]
    caption = "Results as each run's result.json has them, to four digits; acc_readout always sees labels."
    tables: list[Block] = [Table("results", head, rows, caption)]
    if differ:
        tables.append(Table("differences", ("field", *head[1:]), differ, "Fields in which the configurations differ."))
    return tables
