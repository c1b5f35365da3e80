"""A plotly figure drawn by matplotlib: the parts that this report uses, so that a PNG needs no browser."""

import io
import re
from typing import Any

import numpy as np

from topojax.report.style import GRID, INK, MISSING, QUIET

_DASH = {"dash": "--", "dot": ":", "solid": "-", None: "-"}
_MARK = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "cross": "P",
    "triangle-up": "^",
    "star": "*",
    "x": "x",
    "diamond-open": "D",
    "circle-open": "o",
}
PNG_DPI = 160
FONTS = ("Liberation Sans", "Arial", "Helvetica", "DejaVu Sans")
_WIDTH, _DPI = 1030, 96  # the page's column, in CSS pixels


def draw(figure: Any) -> Any:
    """The visible traces, shapes and texts of a figure of this package, as a figure of matplotlib.

    Args:
      figure: of plotly; scatter, scatter3d, bar and heatmap traces.
    """
    from matplotlib.figure import Figure

    layout = figure.layout
    height, margin = layout.height or 400, layout.margin
    canvas = Figure(figsize=(_WIDTH / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    left, top = (margin.l or 64) + 8, margin.t if margin.t is not None else 56
    width, tall = _WIDTH - left - (150 if _legend_outside(layout) else 40), height - top - (margin.b or 48)

    def place(x: Any, y: Any) -> tuple[float, float, float, float]:
        return (
            (left + x[0] * width) / _WIDTH,
            1 - (top + (1 - y[0]) * tall) / height,
            (x[1] - x[0]) * width / _WIDTH,
            (y[1] - y[0]) * tall / height,
        )

    axes: dict[str, Any] = {}
    for trace in figure.data:
        if trace.visible in (False, "legendonly"):
            continue
        if trace.type == "scatter3d":
            key = "scene"
            if key not in axes:
                axes[key] = canvas.add_axes(place((0, 0.9), (0, 1)), projection="3d")
            _points_3d(axes[key], trace)
            continue
        key = (trace.xaxis or "x")[1:]
        if key not in axes:
            x, y = layout[f"xaxis{key}"], layout[f"yaxis{(trace.yaxis or 'y')[1:]}"]
            axes[key] = canvas.add_axes(place(x.domain or (0, 1), y.domain or (0, 1)))
        {"scatter": _scatter, "scattergl": _scatter, "bar": _bars, "heatmap": _heat}[trace.type](axes[key], trace)
    for key, axis in axes.items():
        if key != "scene":
            _dress(axis, layout[f"xaxis{key}"], layout[f"yaxis{key}"])
        _legend(axis, outside=_legend_outside(layout), hidden=layout.showlegend is False)
    for shape in layout.shapes:
        _shape(axes.get(re.sub(r"\D", "", shape.xref or "")), shape)
    for note in layout.annotations:
        _text(axes.get(re.sub(r"\D", "", note.xref or "")), note)
    return canvas


def png(figure: Any) -> bytes:
    """A figure of matplotlib as a PNG."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"font.sans-serif": FONTS}):
        figure.savefig(buffer, format="png", dpi=PNG_DPI)
    return buffer.getvalue()


def _legend_outside(layout: Any) -> bool:
    return layout.legend.x is not None and layout.legend.x >= 1


def _scatter(axis: Any, trace: Any) -> None:
    mode, x, y = trace.mode or "lines", np.asarray(trace.x), np.asarray(trace.y)
    label = trace.name if trace.showlegend is not False else None
    if trace.fill == "toself":
        axis.fill(x, y, color=trace.line.color, alpha=0.13, lw=0, label=label)
        return
    alpha = 1.0 if trace.opacity is None else trace.opacity
    if trace.marker.symbol == "arrow":  # segments, with gaps of NaN between them
        style = {
            "arrowstyle": "-|>",
            "color": trace.line.color,
            "lw": 0.7,
            "mutation_scale": 5,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        for start in range(0, len(x) - 1, 3):
            axis.annotate("", (x[start + 1], y[start + 1]), (x[start], y[start]), arrowprops=style)
        axis.plot([], [], color=trace.line.color, lw=0.7, label=label)
        return
    if "lines" in mode:
        style = {"lw": 0.75 * (trace.line.width or 1.5), "ls": _DASH[trace.line.dash], "alpha": alpha}
        axis.plot(x.astype(float), y.astype(float), color=trace.line.color, label=label, **style)
        label = None
    if "markers" in mode:
        _markers(axis, trace, (x, y), label, alpha)
    if "text" in mode:
        for at_x, at_y, text in zip(x, y, trace.text, strict=True):
            paint = trace.textfont.color or INK
            axis.text(at_x, at_y, plain(text), ha="center", va="center", fontsize=8, weight="bold", color=paint)


def _markers(axis: Any, trace: Any, at: tuple[Any, ...], label: str | None, alpha: float) -> None:
    marker = trace.marker
    scale = marker.colorscale is not None
    shape = marker.symbol if isinstance(marker.symbol, str) else "circle"
    hollow = shape.endswith("-open")
    size = np.asarray(marker.size if marker.size is not None else 6, float)
    colours = {"c": marker.color, "cmap": _map(marker.colorscale)} if scale else {"color": marker.color}
    if scale and marker.cmin is not None:
        colours |= {"vmin": marker.cmin, "vmax": marker.cmax}
    if hollow:
        colours = {"facecolors": "none", "edgecolors": marker.color}
    edge = {} if hollow else {"edgecolors": marker.line.color or "white", "linewidths": 0.75 * (marker.line.width or 0)}
    opacity = alpha if marker.opacity is None else marker.opacity
    drawn = axis.scatter(
        *at, s=(0.75 * size) ** 2, marker=_MARK.get(shape, "o"), alpha=opacity, label=label, **colours, **edge
    )
    if scale and marker.colorbar.title.text:
        axis.figure.colorbar(drawn, ax=axis, fraction=0.035, pad=0.02).set_label(marker.colorbar.title.text, size=8)


def _points_3d(axis: Any, trace: Any) -> None:
    x, y, z = (np.asarray(v, float) for v in (trace.x, trace.y, trace.z))
    if "lines" in (trace.mode or ""):
        axis.plot(x, y, z, color=trace.line.color, lw=0.8)
    if "markers" in (trace.mode or ""):
        _markers(axis, trace, (x, y, z), trace.name if trace.showlegend is not False else None, 0.8)


def _bars(axis: Any, trace: Any) -> None:
    width = trace.width if isinstance(trace.width, int | float) else 0.8
    paint = trace.marker.color or QUIET
    axis.bar(
        np.asarray(trace.x),
        np.asarray(trace.y, float),
        width=width,
        color=paint,
        alpha=trace.opacity or 1.0,
        label=trace.name,
    )


def _heat(axis: Any, trace: Any) -> None:
    z = np.asarray(trace.z, float)
    x, y = (np.arange(n) if v is None else np.asarray(v) for v, n in ((trace.x, z.shape[1]), (trace.y, z.shape[0])))
    drawn = axis.imshow(
        z, cmap=_map(trace.colorscale), aspect="auto", vmin=trace.zmin, vmax=trace.zmax, interpolation="nearest"
    )
    axis.set_xticks(np.arange(len(x)), [str(v) for v in x], fontsize=8)
    axis.set_yticks(np.arange(len(y)), [str(v) for v in y], fontsize=8)
    axis.set_facecolor(MISSING)
    if trace.text is not None:
        middle = np.nanmean([drawn.norm.vmin, drawn.norm.vmax])
        for (i, j), text in np.ndenumerate(np.asarray(trace.text)):
            if text:
                paint = "white" if np.isfinite(z[i, j]) and z[i, j] > middle else INK
                axis.text(j, i, text, ha="center", va="center", fontsize=6.5, color=paint)
    if trace.showscale is not False:
        axis.figure.colorbar(drawn, ax=axis, fraction=0.04, pad=0.02)


def _dress(axis: Any, x: Any, y: Any) -> None:
    heat = bool(axis.images)
    for name, source in (("x", x), ("y", y)):
        if not heat:
            getattr(axis, f"set_{name}scale")("log" if source.type == "log" else "linear") if source.type in (
                "log",
                "linear",
            ) else None
            if source.range is not None:
                limits = [10**v for v in source.range] if source.type == "log" else source.range
                getattr(axis, f"set_{name}lim")(limits)
            elif source.rangemode == "tozero" and source.type != "log":
                low, high = getattr(axis, f"get_{name}lim")()
                getattr(axis, f"set_{name}lim")(min(low, 0) if low < 0 else 0, high)
        getattr(axis, f"set_{name}label")(plain(source.title.text or ""), fontsize=8.5, color=INK)
        if source.visible is False:
            getattr(axis, f"get_{name}axis")().set_visible(False)
    if y.scaleanchor:
        axis.set_aspect("equal", adjustable="box")
    if y.autorange == "reversed" and not heat:
        axis.invert_yaxis()
    axis.tick_params(labelsize=8, colors=INK, color=QUIET)
    if not heat:
        axis.grid(color=GRID, lw=0.6)
    axis.set_axisbelow(True)
    for side, spine in axis.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=QUIET, linewidth=0.8)


def _legend(axis: Any, *, outside: bool, hidden: bool) -> None:
    _, labels = axis.get_legend_handles_labels()
    if hidden or not labels:
        return
    common = {"frameon": False, "fontsize": 8, "labelcolor": INK, "handlelength": 1.6, "columnspacing": 1.2}
    if outside:
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), **common)
    else:
        axis.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.99), ncols=min(len(labels), 4), borderpad=0, **common)


def _shape(axis: Any, shape: Any) -> None:
    if axis is None or shape.name == "missing":
        return
    paint = shape.line.color or INK
    style = {"color": paint, "lw": 0.75 * (shape.line.width or 1), "ls": _DASH[shape.line.dash], "zorder": 1}
    if shape.type == "rect":
        axis.axvspan(shape.x0, shape.x1, color=shape.fillcolor, alpha=shape.opacity, lw=0)
    elif shape.x0 == shape.x1:
        axis.axvline(shape.x0, **style)
    else:
        axis.axhline(shape.y0, **style)


def _text(axis: Any, note: Any) -> None:
    if axis is None or not note.text:
        return
    across, up = ("domain" in (ref or "") for ref in (note.xref, note.yref))
    transform = axis.transAxes if across and up else axis.get_xaxis_transform() if up else axis.transData
    if note.name == "title":
        axis.annotate(
            plain(note.text),
            (0, 1),
            xycoords=transform,
            xytext=(0, 0.75 * (note.yshift or 6)),
            textcoords="offset points",
            fontsize=9.5,
            weight="bold",
            color=INK,
        )
        return
    anchors = {"auto": "center", None: "center", "middle": "center"}
    axis.text(
        note.x,
        note.y,
        plain(note.text),
        transform=transform,
        ha=anchors.get(note.xanchor, note.xanchor),
        va=anchors.get(note.yanchor, note.yanchor),
        fontsize=8,
        color=note.font.color or QUIET,
    )


def _map(scale: Any) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    stops = [(at, _hex(paint)) for at, paint in scale]
    return LinearSegmentedColormap.from_list("scale", stops)


def _hex(paint: str) -> str:
    if paint.startswith("#"):
        return paint
    return "#" + "".join(f"{round(float(v)):02x}" for v in re.findall(r"[\d.]+", paint)[:3])


def plain(text: str) -> str:
    """Text of a plotly figure without its tags; subscripts as mathematics."""
    text = re.sub(r"<sub>(.*?)</sub>", r"$_{\1}$", text)
    return re.sub(r"</?[a-z]+>", "", text.replace("<br>", "\n"))
