"""Figures of control: every weight beside the contract that moves it, and the contracts at the end."""

from typing import Any

import numpy as np

from topojax.atlas.table import Contract
from topojax.report.block import Block, Figure, Note, Table
from topojax.report.curves import UNLOGGED
from topojax.report.history import History, spans
from topojax.report.style import ALARM, GOOD, INK, QUIET, line, mark, panels
from topojax.scoring.audit import waits
from topojax.tracking.console import CONTRACT_COLUMNS, contract_rows

_WEIGHT = "#b35900"
SIGNS = {"<=": "≤", ">=": "≥", "=": "="}
MARKED = ("phase", "gate_opened", "grounding_lost", "revived", "halted")
"""Events that touch every contract."""


def weights(history: History) -> list[Block]:
    """One row a contract: the signal against its target, and the weight that drives it."""
    if not history.rows:
        return [Note(UNLOGGED)]
    rows = [row for row in history.contracts if history.column(f"contract/{row.name}/signal") is not None]
    constant = [f"{row.name} ({row.initial:g})" for row in history.contracts if row not in rows]
    if not rows:
        return [Note(f"Every weight is constant: {', '.join(constant) or 'there is none'}.")]
    titles = [text for row in rows for text in (f"{row.name}: {row.signal} {SIGNS[row.relation]} target", "weight")]
    figure = panels(titles, columns=2, each=96, gap=46, shared_xaxes=True, column_widths=[0.58, 0.42])
    shapes = []
    for index, contract in enumerate(rows, start=1):
        shapes += _contract(figure, index, contract, history)
    events = [event for event in history.events if event["event"] in MARKED]
    shapes += [mark(n, e["epoch"], paint=GOOD, opacity=0.8) for e in events for n in range(1, 2 * len(rows) + 1)]
    figure.update_layout(shapes=shapes)
    figure.update_annotations(selector={"name": "title"}, yshift=3, font={"size": 11.5})
    figure.update_xaxes(title_text="epoch", row=len(rows))
    figure.update_yaxes(nticks=4, rangemode="tozero")
    figure.update_xaxes(range=[0, 1.01 * history.epoch[-1]])
    figure.update_layout(showlegend=False)
    marked = [f"{e['event'].replace('_', ' ')} ({_detail(e)})" for e in events]
    caption = (
        "Left: what is measured (blue) against its target (dashed); right: the weight. Red shade: the weight is at its "
        "maximum and the contract still violated; grey shade: its gate has not opened. A red triangle marks the report "
        f"of a contract that cannot be satisfied. Dotted lines: {'; '.join(marked[:10]) or 'none'}."
    )
    if constant:
        caption += f" Constant and not measured: {', '.join(constant)}."
    return [Figure("contracts", figure, caption)]


def _contract(figure: Any, index: int, contract: Contract, history: History) -> list[dict[str, Any]]:
    import plotly.graph_objects as go

    name, x = contract.name, history.epoch
    signal, target = (history.column(f"contract/{name}/{field}") for field in ("signal", "target"))
    weight, error = history.column(f"weight/{name}"), history.column(f"contract/{name}/error")
    line(figure, (index, 1), x, signal, "measured", GOOD)
    if target is not None:
        line(figure, (index, 1), x, target, "target", INK, dash="dash")
    shapes: list[dict[str, Any]] = []
    if weight is None:
        return shapes
    line(figure, (index, 2), x, weight, "weight", _WEIGHT)
    stuck = np.zeros(len(x), bool)
    if error is not None:
        stuck = (weight >= contract.maximum * (1 - 1e-6)) & (error > 0) & (contract.mechanism != "constant")
    waiting = np.array([waits(contract.gate, row) for row in history.rows])
    for flag, paint in ((stuck, ALARM), (waiting, QUIET)):
        for start, end in spans(x, flag):
            shapes += [mark(2 * index - side, start, end, paint=paint, opacity=0.13) for side in (1, 0)]
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
    return shapes


def _detail(event: dict[str, Any]) -> str:
    said = f"{event['from']} → {event['to']}, " if "from" in event else ""
    return f"{said}epoch {event['epoch']}"


def contracts(audited: list[dict[str, Any]]) -> list[Block]:
    """The contracts as `topojax contracts` prints them.

    Args:
      audited: of `contracts.audit`.
    """
    if not audited:
        return []
    caption = "What was promised, what was measured in the last epoch, the weight, and its ripple over the last fifth."
    return [Table("audit", (*CONTRACT_COLUMNS, "verdict"), contract_rows(audited), caption)]
