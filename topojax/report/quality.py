"""Figures of how good charts, codes, class tables and jumps are: every number is `evaluation.Evaluation`'s."""

from typing import Any

import numpy as np

from topojax.report.block import Block, Figure, Note
from topojax.report.embedding import MODELS, Embedding
from topojax.report.style import AMOUNT, INK, MISSING, QUIET, colour, line, own_legends, panels

_MAX_TEXT = 24
"""Columns up to which a heat map writes its numbers."""


def usage(embedding: Embedding) -> list[Block]:
    """Examples of every code, and of every chart."""
    import plotly.graph_objects as go

    counts, charts = embedding.evaluation.tables["code_usage"], embedding.charts
    figure = panels(
        ["Examples by chart and code", "Share of each chart"], each=_height(charts), column_widths=[0.6, 0.4]
    )
    text = [[str(n) if n else "" for n in row] for row in counts]
    _heat(figure, (1, 1), counts, text, x=list(range(embedding.codes)), bar=0.545)
    n = embedding.population.sum()
    bars = (
        ("chosen", embedding.population / n, colour(0)),
        ("mean router weight", embedding.evaluation.tables["chart_usage"], colour(1)),
    )
    for number, (name, values, paint) in enumerate(bars):
        x = np.arange(charts) + (number - 0.5) * 0.38
        hover = f"chart %{{customdata}}<br>{name} %{{y:.4f}}<extra></extra>"
        trace = go.Bar(
            x=x, y=values, name=name, width=0.36, marker_color=paint, customdata=np.arange(charts), hovertemplate=hover
        )
        figure.add_trace(trace, row=1, col=2)
    figure.add_hline(y=1 / charts, line={"color": INK, "width": 1, "dash": "dash"}, row=1, col=2)
    _axes(figure, (1, 1), "code", "chart")
    figure.update_xaxes(title_text="chart", tickvals=list(range(charts)), showgrid=False, row=1, col=2)
    figure.update_layout(barmode="overlay")
    dead = int((counts == 0).sum())
    idle = np.flatnonzero(embedding.population == 0)
    caption = f"{counts.size - dead} of {counts.size} codes are chosen by an example. Dashed: an even use of charts."
    if idle.size:
        caption += f" Nobody uses chart {', '.join(map(str, idle))}."
    return [Figure("usage", own_legends(figure), caption)]


def classes(embedding: Embedding) -> list[Block]:
    """P(Y|K), measured and learned."""
    tables = embedding.evaluation.tables
    measured, learned = tables.get("class_given_chart"), tables.get("class_table")
    if measured is None:
        return [Note("No labels: P(Y|K) cannot be measured.")]
    maps = [("P(Y|K), measured", measured), *([("P(Y|K), learned", learned)] if learned is not None else [])]
    figure = panels([title for title, _ in maps], each=_height(embedding.charts), horizontal_spacing=0.1)
    for number, (_, table) in enumerate(maps, start=1):
        last = number == len(maps)
        text = [[f"{p:.2f}" if np.isfinite(p) and p >= 0.005 else "" for p in row] for row in table]
        _heat(figure, (1, number), table, text, x=list(range(table.shape[1])), top=1.0, bar=1.01 if last else None)
        _axes(figure, (1, number), "class", "chart")
    caption = f"Shares of the classes among the {embedding.evaluation.split} examples of each chart (labels used)"
    if learned is None:
        caption += ". The run was not trained with labels: it has learned no table"
    else:
        gap = embedding.evaluation.numbers["class_table_gap"]
        caption += (
            f", and the table that was trained with labels; their mean distance is {gap:.4f}" if gap is not None else ""
        )
    return [Figure("classes", figure, caption + ". A grey row is a chart that nobody uses.")]


def jump_errors(embedding: Embedding) -> list[Block]:
    """Error of every jump, and of the way there and back."""
    tables = embedding.evaluation.tables
    if np.isnan(tables["jump_error"]).all():
        return [Note("No two charts overlap: jump operators have nothing to agree on, and their errors are undefined.")]
    figure = panels(["Jump i → j", "Cycle i → j → i"], each=_height(embedding.charts), horizontal_spacing=0.15)
    for number, name in enumerate(("jump_error", "cycle_error"), start=1):
        table = tables[name]
        text = [[f"{1e3 * v:.1f}" if np.isfinite(v) else "" for v in row] for row in table]
        _heat(figure, (1, number), 1e3 * table, text, x=list(range(embedding.charts)), bar=(0.435, 1.01)[number - 1])
        _axes(figure, (1, number), "to chart j", "from chart i")
    jump, cycle = (embedding.evaluation.numbers[name] for name in ("jump_error", "cycle_error"))
    caption = (
        "Mean squared distance, in thousandths of latent units squared, between where a jump sends an example and "
        "where the next chart reads it, weighted by the overlap of the two. "
        f"Mean over pairs: {jump:.5f}; of cycles {cycle:.5f}. "
        "Pairs without overlap are grey."
    )
    return [Figure("jumps", figure, caption)]


def errors(embedding: Embedding) -> list[Block]:
    """Histogram of squared errors, of every model there is, and their mean by chart."""
    import plotly.graph_objects as go

    models = squared_errors(embedding)
    figure = panels(["Examples by squared error", "Mean squared error by chart"], each=270)
    high = max(float(np.quantile(values, 0.995)) for values in models.values())
    edges = np.linspace(0.0, high or 1.0, 41)
    for number, (name, values) in enumerate(models.items()):
        count, _ = np.histogram(np.minimum(values, edges[-1]), edges)
        step = {"shape": "hv", "color": colour(number), "width": 1.8}
        x, y = edges, np.append(count, 0)
        trace = go.Scatter(x=x, y=y, mode="lines", line=step, name=f"{name}, mean {values.mean():.4f}", fill=None)
        figure.add_trace(trace, row=1, col=1)
    chart = embedding.chart
    mean = [embedding.error[chart == k].mean() if (chart == k).any() else np.nan for k in range(embedding.charts)]
    bars = go.Bar(x=np.arange(embedding.charts), y=mean, width=0.7, marker_color=colour(0), showlegend=False)
    figure.add_trace(bars, row=1, col=2)
    figure.update_xaxes(title_text="squared error, mean over inputs", row=1, col=1)
    figure.update_xaxes(title_text="chart", tickvals=list(range(embedding.charts)), showgrid=False, row=1, col=2)
    figure.update_yaxes(rangemode="tozero")
    caption = "Squared error of each test example, by the decoder's own routing; the last bin holds all that is larger."
    return [Figure("errors", own_legends(figure), caption)]


def squared_errors(embedding: Embedding) -> dict[str, np.ndarray]:
    """Model → squared error of each example: the atlas, and the baselines of the run."""
    others = {
        MODELS[name.split("/")[0]]: values
        for name, values in embedding.evaluation.predictions.items()
        if name.endswith("/squared_error")
    }
    return {"atlas": embedding.error, **others}


def calibration(embedding: Embedding) -> list[Block]:
    """Reliability diagram of each classifying head."""
    heads = {"supervised": "router, P(y|k)", "readout": "detached readout"}
    found = embedding.evaluation.tables
    tables = {name: found[f"calibration_{name}"] for name in heads if f"calibration_{name}" in found}
    if not tables:
        return [Note("No labels: calibration cannot be measured.")]
    figure = panels([heads[name] for name in tables], each=270)
    for number, (name, table) in enumerate(tables.items(), start=1):
        at = table[:, 0] > 0
        line(figure, (1, number), [0, 1], [0, 1], "perfect", QUIET, dash="dash")
        sizes = 6 + 12 * np.sqrt(table[at, 0] / table[at, 0].max())
        shape: dict[str, Any] = {
            "mode": "lines+markers",
            "marker": {"size": sizes, "color": colour(0)},
            "line": {"color": colour(0), "width": 1.2},
        }
        hover = "%{customdata} examples<br>confidence %{x:.3f}<br>accuracy %{y:.3f}<extra></extra>"
        line(
            figure,
            (1, number),
            table[at, 1],
            table[at, 2],
            name,
            colour(0),
            customdata=table[at, 0],
            hovertemplate=hover,
            **shape,
        )
        figure.update_xaxes(title_text="confidence", range=[0, 1.02], row=1, col=number)
        figure.update_yaxes(title_text="accuracy", range=[0, 1.04], row=1, col=number)
    figure.update_layout(showlegend=False)
    ece = [f"{heads[name]} {embedding.evaluation.numbers[f'ece_{name}']:.4f}" for name in tables]
    caption = (
        "Accuracy against confidence in 15 bins, area by examples; expected calibration error (labels used): "
        f"{', '.join(ece)}."
    )
    return [Figure("calibration", figure, caption)]


def _heat(
    figure: Any,
    at: tuple[int, int],
    table: np.ndarray,
    text: list[list[str]],
    *,
    x: list[int],
    top: float | None = None,
    bar: float | None,
) -> None:
    import plotly.graph_objects as go

    trace = go.Heatmap(
        z=table,
        x=x,
        y=list(range(len(table))),
        colorscale=AMOUNT,
        zmin=0,
        zmax=top,
        xgap=1,
        ygap=1,
        hovertemplate="%{y}, %{x}: %{z:.4f}<extra></extra>",
        hoverongaps=False,
        showscale=bar is not None,
        colorbar={"thickness": 10, "x": bar, "outlinewidth": 0} if bar is not None else None,
    )
    if table.shape[1] <= _MAX_TEXT:
        trace.update(text=text, texttemplate="%{text}", textfont={"size": 10})
    figure.add_trace(trace, row=at[0], col=at[1])


def _axes(figure: Any, at: tuple[int, int], x: str, y: str) -> None:
    place = {"row": at[0], "col": at[1]}
    number = at[1] if at[1] > 1 else ""
    corners = {"x0": 0, "x1": 1, "y0": 0, "y1": 1, "xref": f"x{number} domain", "yref": f"y{number} domain"}
    figure.add_shape(type="rect", layer="below", fillcolor=MISSING, line_width=0, name="missing", **corners)
    figure.update_xaxes(title_text=x, showgrid=False, dtick=1, **place)
    figure.update_yaxes(title_text=y, showgrid=False, dtick=1, autorange="reversed", **place)


def _height(charts: int) -> int:
    return int(np.clip(30 * charts, 150, 720))
