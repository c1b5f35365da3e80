"""How figures look: one light theme, palettes that survive colour blindness and grey, panels with their own legends."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Petroff's ten (arXiv 2107.02270): apart from one another for every common colour vision, and in lightness.
PALETTE = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "star")
"""With more than ten categories the colours begin again, and the symbol changes."""
SEQUENTIAL = "Cividis"
AMOUNT = ((0.0, "#ffffff"), (0.25, "#cfe3f7"), (0.6, "#3f90da"), (1.0, "#0b2a5b"))
"""Of heat maps: nothing is white, and the paper saves ink."""
MISSING = "#e9ebef"
"""Behind cells of a heat map that have no value."""
TOP = 76
"""Pixels above a figure: the buttons of plotly, a title, a legend."""
INK, QUIET, GRID = "#1d2430", "#667085", "#e6e9ef"
ALARM, WAITING, GOOD = "#bd1f01", "#717581", "#3f90da"
FONT = "Inter, 'Source Sans 3', 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"


def colour(index: int) -> str:
    """The colour of a category."""
    return PALETTE[index % len(PALETTE)]


def symbol(index: int) -> str:
    """The marker of a category."""
    return SYMBOLS[index // len(PALETTE) % len(SYMBOLS)]


def blank(height: int) -> Any:
    """An empty figure of the house's style, `height` pixels high."""
    import plotly.graph_objects as go

    return styled(go.Figure(), height)


def styled(figure: Any, height: int) -> Any:
    """Set fonts, margins, grid and colours of a figure; returns it."""
    axis = {
        "showline": True,
        "linecolor": QUIET,
        "linewidth": 1,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": QUIET,
        "gridcolor": GRID,
        "zeroline": False,
        "title": {"standoff": 8},
        "minorloglabels": "none",
    }
    figure.update_layout(
        template="none",
        height=height,
        autosize=True,
        font={"family": FONT, "size": 12, "color": INK},
        colorway=PALETTE,
        paper_bgcolor="white",
        plot_bgcolor="white",
        margin={"l": 64, "r": 24, "t": TOP, "b": 48},
        hoverlabel={"font": {"family": FONT, "size": 12}, "bgcolor": "white"},
        legend={"bgcolor": "rgba(255,255,255,0)", "font": {"size": 11}},
    )
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure


def panels(titles: Sequence[str], *, columns: int = 2, each: int = 250, gap: int = 96, **options: Any) -> Any:
    """A figure of titled panels.

    Args:
      titles: of the panels, row by row.
      columns: of the layout.
      each: height of a panel, pixels.
      gap: pixels between rows: axis title, panel title, legend.
      **options: of plotly's `make_subplots`.
    """
    from plotly.subplots import make_subplots

    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    inner = rows * each + (rows - 1) * gap
    figure = make_subplots(
        rows=rows,
        cols=columns,
        vertical_spacing=gap / inner if rows > 1 else 0,
        **{"horizontal_spacing": 0.085} | options,
    )
    styled(figure, inner + TOP + 48)
    for number, title in enumerate(titles, start=1):
        suffix = "" if number == 1 else number
        place = {"xref": f"x{suffix} domain", "yref": f"y{suffix} domain", "xanchor": "left", "yanchor": "bottom"}
        figure.add_annotation(
            text=f"<b>{title}</b>", x=0, y=1, yshift=22, showarrow=False, font={"size": 12.5}, name="title", **place
        )
    return figure


def own_legends(figure: Any) -> Any:
    """Give every panel of `panels` its own legend, in one line below its title; returns the figure.

    Panels with the same curves share one, above the first: legends side by side run into one another.
    """
    figure.update_layout(showlegend=True)  # one curve alone has a name, too
    names: dict[str, list[tuple[Any, Any]]] = {}
    for trace in figure.data:
        names.setdefault(getattr(trace, "xaxis", None) or "x", []).append((trace.name, trace.type))
    if len(names) > 1 and all(curves == names["x"] for curves in names.values()):
        for trace in figure.data:
            trace.showlegend = (getattr(trace, "xaxis", None) or "x") == "x"
        place = {"x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom", "yref": "container"}
        figure.update_layout(legend={"orientation": "h", "font": {"size": 11}, **place})
        figure.layout.legend.update(y=0.99, yanchor="top")
        return figure
    for trace in figure.data:
        number = (getattr(trace, "xaxis", None) or "x")[1:]
        trace.legend = f"legend{number}"
        name = f"xaxis{number}", f"yaxis{number}"
        x, y = (getattr(figure.layout, axis).domain for axis in name)
        figure.layout[f"legend{number}"] = {
            "orientation": "h",
            "x": x[0],
            "y": y[1],
            "xanchor": "left",
            "yanchor": "bottom",
            "font": {"size": 11},
            "bgcolor": "rgba(255,255,255,0)",
            "itemwidth": 30,
        }
    return figure


def line(
    figure: Any, at: tuple[int, int], x: Any, y: Any, name: str, paint: str, *, dash: str = "solid", **options: Any
) -> None:
    """A curve in panel `at` = (row, column); points that are not finite are gaps."""
    import plotly.graph_objects as go

    few = np.isfinite(np.asarray(y, float)).sum() < 3  # one point alone would be an invisible line
    style = {"mode": "lines+markers" if few else "lines", "line": {"color": paint, "width": 1.8, "dash": dash}}
    figure.add_trace(go.Scatter(x=x, y=y, name=name, **(style | options)), row=at[0], col=at[1])


def mark(
    number: int, start: float, end: float | None = None, *, paint: str, opacity: float = 1.0, dash: str = "dot"
) -> dict[str, Any]:
    """A vertical line at `start`, or a band from `start` to `end`, in panel `number` (from 1), as one of layout.shapes.

    A figure of many panels sets all of them at once: plotly's own add_vline looks at every panel for every line.
    """
    suffix = "" if number == 1 else number
    place = {"xref": f"x{suffix}", "yref": f"y{suffix} domain", "y0": 0, "y1": 1, "x0": start, "opacity": opacity}
    if end is None:
        return place | {"type": "line", "x1": start, "line": {"color": paint, "width": 1, "dash": dash}}
    return place | {"type": "rect", "x1": end, "fillcolor": paint, "line": {"width": 0}, "layer": "below"}
