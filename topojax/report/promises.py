"""Figures of control: every weight beside the contract that moves it, and the contracts at the end."""

from typing import Any

import numpy as np

from topojax.console import number, verdict
from topojax.contracts import waits
from topojax.control.contracts import Contract
from topojax.report.block import Block, Figure, Note, Table
from topojax.report.history import History, spans
from topojax.report.style import ALARM, GOOD, INK, QUIET, empty, line, panels
from topojax.report.training import UNLOGGED

_WEIGHT = "#b35900"
MARKED = {
    "gate_opened": "gate opens",
    "grounding_lost": "grounding lost",
    "phase": "",
    "revived": "",
    "halted": "halted",
}
"""Events that touch every contract → what the top panel writes beside their line."""


def weights(history: History) -> list[Block]:
    """One row a contract: the signal against its target, and the weight that drives it."""
    if not history.rows or not history.contracts:
        return [Note(UNLOGGED if not history.rows else "The run has no contract: every weight is constant.")]
    rows = history.contracts
    titles = [text for row in rows for text in (f"{row.name}: {row.signal} {row.relation} target", "weight")]
    figure = panels(titles, columns=2, each=96, gap=46, shared_xaxes=True, column_widths=[0.58, 0.42])
    for index, contract in enumerate(rows, start=1):
        _contract(figure, index, contract, history)
    for event in (e for e in history.events if e["event"] in MARKED):
        figure.add_vline(x=event["epoch"], line={"color": GOOD, "width": 1, "dash": "dot"}, opacity=0.8)
    figure.update_annotations(selector={"name": "title"}, yshift=3, font={"size": 11.5})
    figure.update_xaxes(title_text="epoch", row=len(rows))
    figure.update_yaxes(nticks=4, rangemode="tozero")
    figure.update_layout(showlegend=False, margin={"t": 36})
    marked = [f"{e['event'].replace('_', ' ')} ({_detail(e)})" for e in history.events if e["event"] in MARKED]
    caption = (
        "Left: what is measured (blue) against its target (dashed); right: the weight. Red shade: the weight is at its "
        "maximum and the contract still violated; grey shade: its gate has not opened. A red triangle marks the report "
        f"of a contract that cannot be satisfied. Dotted lines: {'; '.join(marked[:10]) or 'none'}."
    )
    return [Figure("contracts", figure, caption)]


def _contract(figure: Any, index: int, contract: Contract, history: History) -> None:
    import plotly.graph_objects as go

    name, x = contract.name, history.epoch
    signal, target = (history.column(f"contract/{name}/{field}") for field in ("signal", "target"))
    weight, error = history.column(f"weight/{name}"), history.column(f"contract/{name}/error")
    if signal is None:
        empty(figure, (index, 1), "not measured: a constant weight")
    else:
        line(figure, (index, 1), x, signal, "measured", GOOD)
    if target is not None and signal is not None:
        line(figure, (index, 1), x, target, "target", INK, dash="dash")
    if weight is None:
        return
    line(figure, (index, 2), x, weight, "weight", _WEIGHT)
    stuck = np.zeros(len(x), bool)
    if error is not None:
        stuck = (weight >= contract.maximum * (1 - 1e-6)) & (error > 0) & (contract.mechanism != "constant")
    waiting = np.array([waits(contract.gate, row) for row in history.rows])
    for flag, paint in ((stuck, ALARM), (waiting, QUIET)):
        for start, end in spans(x, flag):
            for column in (1, 2):
                figure.add_vrect(x0=start, x1=end, fillcolor=paint, opacity=0.13, line_width=0, row=index, col=column)
    for event in history.events:
        if event["event"] == "constraint_unsatisfied" and event["name"] == name:
            marker = {"symbol": "triangle-up", "size": 10, "color": ALARM}
            reported = go.Scatter(
                x=[event["epoch"]],
                y=[event["weight"]],
                mode="markers",
                marker=marker,
                name="unsatisfied",
                hovertext=event["advice"],
            )
            figure.add_trace(reported, row=index, col=2)


def _detail(event: dict[str, Any]) -> str:
    said = f"{event['from']} → {event['to']}, " if "from" in event else ""
    return f"{said}epoch {event['epoch']}"


def contracts(audited: list[dict[str, Any]]) -> list[Block]:
    """The contracts as `python -m topojax.contracts` prints them.

    Args:
      audited: of `contracts.audit`.
    """
    if not audited:
        return []
    rows = [
        (
            row["contract"],
            f"{row['signal']} {row['relation']} {number(row['target'])}",
            number(row["value"]),
            number(row["weight"]),
            "–" if row["ripple"] is None else f"{row['ripple']:.1%}",
            verdict(row),
        )
        for row in audited
    ]
    head = ("contract", "promise", "measured", "weight", "ripple", "verdict")
    caption = "What was promised, what was measured in the last epoch, the weight, and its ripple over the last fifth."
    return [Table("audit", head, rows, caption)]
