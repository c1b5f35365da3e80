"""The latent atlas: examples, charts, codes and jumps, in the latent's own coordinates."""

from typing import Any

import numpy as np

from topojax.analysis import explore
from topojax.report import grids, regions
from topojax.report.block import Block, Figure
from topojax.report.embedding import Embedding
from topojax.report.page import uri
from topojax.report.style import INK, SEQUENTIAL, blank, colour, symbol

SIDE, COLUMNS = 76, 50
"""Side of a thumbnail under the cursor, CSS pixels; thumbnails in a row of the sprite."""
OVERLAP = 0.02
"""Least w_i w_j of an example for which a jump from chart i to chart j is drawn."""
ARROWS = 80

_SCRIPT = f"""
const plot = document.getElementById('{{plot_id}}'), find = () => document.getElementById('thumbnails');
plot.on('plotly_hover', (e) => {{
  const i = (e.points[0].customdata || [])[0], card = find();
  if (i === undefined || !card) return;
  for (const tile of card.querySelectorAll('i'))
    tile.style.backgroundPosition = `${{-{SIDE} * (i % {COLUMNS})}}px ${{-{SIDE} * Math.floor(i / {COLUMNS})}}px`;
  card.hidden = false;
}});
plot.on('plotly_unhover', () => {{ if (find()) find().hidden = true; }});
plot.addEventListener('mousemove', (e) => {{
  if (find()) find().style.translate = `${{e.clientX + 14}}px ${{e.clientY + 44}}px`;
}});
"""


def atlas(embedding: Embedding) -> list[Block]:
    """Charts as regions, and examples by label, chart, code, error or routing entropy, as a menu says.

    Codes, and the jumps between charts, are there to be switched on in the legend.
    """
    flat = embedding.project(embedding.encoding.z_geo[:1]).shape[1] == 2
    figure = blank(680)
    groups: list[tuple[str, list[Any]]] = []
    if embedding.label is not None:
        groups.append(("label", _categories(embedding, embedding.label, "label", flat)))
    groups.append(("chart", _categories(embedding, embedding.chart, "chart", flat)))
    groups.append(("code", _categories(embedding, embedding.evaluation.predictions["code"], "code", flat)))
    groups.append(("error", [_continuous(embedding, embedding.error, "squared error", flat)]))
    groups.append(("entropy", [_continuous(embedding, _entropy(embedding), "H(K|x), nats", flat)]))
    for number, (_, traces) in enumerate(groups):
        for trace in traces:
            trace.visible = number == 0
            figure.add_trace(trace)
    over, jumps, length = _overlays(embedding, flat)
    for trace in over:
        figure.add_trace(trace)
    for picture in _pictures(embedding) if flat else ():
        figure.add_layout_image(picture)
    sizes = [len(traces) for _, traces in groups]
    buttons = []
    for number, (name, _) in enumerate(groups):
        shown = [group == number for group, size in enumerate(sizes) for _ in range(size)]
        args = [{"visible": shown + [trace.visible for trace in over]}]
        buttons.append({"label": name, "method": "restyle", "args": args})
    menu = {
        "buttons": buttons,
        "type": "buttons",
        "direction": "right",
        "x": 0,
        "y": 1.0,
        "xanchor": "left",
        "yanchor": "bottom",
        "pad": {"b": 8},
        "bgcolor": "white",
        "bordercolor": "#c9ced8",
        "font": {"size": 11},
    }
    below = {"orientation": "h", "x": 0, "y": -0.09, "yanchor": "top", "itemsizing": "constant", "font": {"size": 11}}
    margin = {"l": 44, "r": 12, "t": 76, "b": 130}
    figure.update_layout(updatemenus=[menu], legend=below, dragmode="pan", margin=margin)
    names = embedding.projection[2]
    if flat:
        figure.update_xaxes(title_text=names[0])
        second = names[1] if len(names) > 1 else ""
        figure.update_yaxes(title_text=second, scaleanchor="x", scaleratio=1, visible=len(names) > 1)
        if embedding.run.config.model.discs:
            figure.update_xaxes(range=[-1.05, 1.05])  # the ball, and pictures at its rim
            figure.update_yaxes(range=[-1.05, 1.05])
    else:
        axis = {"backgroundcolor": "white", "gridcolor": "#dfe3ea", "zeroline": False}
        scene = {f"{a}axis": axis | {"title": {"text": n}} for a, n in zip("xyz", names, strict=True)}
        figure.update_layout(scene=scene | {"aspectmode": "data", "dragmode": "orbit"}, margin={"l": 0, "b": 0})
    return [Figure("atlas", figure, _caption(embedding, jumps, length), _SCRIPT, _card(embedding))]


def style(embedding: Embedding | None) -> str:
    """CSS of the thumbnails under the cursor, with the sprites of inputs and reconstructions inside."""
    if embedding is None or embedding.run.image_shape is None:
        return ""
    rules = [
        "#thumbnails{position:fixed;left:0;top:0;z-index:9;background:white;border:1px solid #c9ced8;padding:6px;"
        "pointer-events:none;display:flex;gap:6px;font-size:11px;line-height:1.4;color:#667085;"
        "box-shadow:0 2px 10px rgba(20,30,50,.12)}#thumbnails[hidden]{display:none}",
        f"#thumbnails i{{display:block;width:{SIDE}px;height:{SIDE}px;image-rendering:pixelated;"
        f"background-size:{SIDE * COLUMNS}px auto}}",
    ]
    for name, rows in (("input", embedding.image), ("dream", embedding.x_hat)):
        pictures = grids.visible(rows[embedding.drawn], embedding.run.image_shape)
        data, kind = grids.sprite(pictures, COLUMNS)
        rules.append(f"#thumbnails i.{name}{{background-image:url({uri(data, kind)})}}")
    return "".join(rules)


def _card(embedding: Embedding) -> str:
    if embedding.run.image_shape is None:
        return ""
    cells = "".join(
        f'<span>{text}<i class="{name}"></i></span>' for name, text in (("input", "input"), ("dream", "atlas"))
    )
    return f'<div id="thumbnails" hidden>{cells}</div>'


def _entropy(embedding: Embedding) -> np.ndarray:
    w = embedding.encoding.router
    return -np.sum(w * np.log(np.maximum(w, 1e-12)), axis=1)


def _facts(embedding: Embedding, at: np.ndarray) -> tuple[np.ndarray, str]:
    """What hovering says of the drawn points `at`, as numbers for a template; the first is the thumbnail's place."""
    example = embedding.drawn[at]
    columns = [at, example, embedding.chart[example], embedding.evaluation.predictions["code"][example]]
    columns += [embedding.error[example]]
    text = "example %{customdata[1]}<br>chart %{customdata[2]}, code %{customdata[3]}"
    text += "<br>squared error %{customdata[4]:.4f}"
    if embedding.label is not None:
        columns.append(embedding.label[example])
        text = "label %{customdata[5]}, " + text
    if embedding.run.image_shape is None:
        start = len(columns)
        columns += list(embedding.image[example].T)
        coordinates = ", ".join(f"%{{customdata[{start + i}]:.3f}}" for i in range(min(embedding.image.shape[1], 3)))
        text += f"<br>input ({coordinates})"
    return np.stack(columns, axis=1).astype(np.float32), text + "<extra></extra>"


def _scatter(embedding: Embedding, flat: bool, at: np.ndarray, marker: dict[str, Any], **options: Any) -> Any:
    import plotly.graph_objects as go

    facts, text = _facts(embedding, at)
    points = embedding.project(embedding.encoding.z_geo[embedding.drawn[at]]).astype(np.float32)
    size = 6.5 if len(embedding.drawn) < 1000 else 5.0
    common = {"mode": "markers", "customdata": facts, "hovertemplate": text, **options}
    if flat:
        style = marker | {"size": size, "opacity": 0.8, "line": {"width": 0.3, "color": "white"}}
        return go.Scatter(x=points[:, 0], y=points[:, 1], marker=style, **common)
    plain = {"star": "x", "triangle-up": "diamond"}
    style = marker | {"size": 0.6 * size, "opacity": 0.8}
    style["symbol"] = plain.get(style.get("symbol", "circle"), style.get("symbol", "circle"))
    return go.Scatter3d(x=points[:, 0], y=points[:, 1], z=points[:, 2], marker=style, **common)


def _categories(embedding: Embedding, values: np.ndarray, name: str, flat: bool) -> list[Any]:
    shown = values[embedding.drawn]
    traces = []
    for value in np.unique(shown):
        marker = {"color": colour(int(value)), "symbol": symbol(int(value))}
        at = np.flatnonzero(shown == value)
        traces.append(_scatter(embedding, flat, at, marker, name=f"{name} {value}", legendgroup=f"{name} {value}"))
    return traces


def _continuous(embedding: Embedding, values: np.ndarray, title: str, flat: bool) -> Any:
    shown = values[embedding.drawn]
    high = float(np.quantile(shown, 0.99)) or 1.0  # one outlier must not make all others look alike
    bar = {"title": {"text": title}, "thickness": 12, "len": 0.6, "y": 0.3}
    marker = {"color": shown, "colorscale": SEQUENTIAL, "cmin": float(shown.min()), "cmax": high, "colorbar": bar}
    return _scatter(embedding, flat, np.arange(len(shown)), marker, name=title, showlegend=False)


def _overlays(embedding: Embedding, flat: bool) -> tuple[list[Any], int, float]:
    """Traces of jumps, codes and charts; how many jumps are drawn, and their mean length."""
    import plotly.graph_objects as go

    start, end = jumps(embedding)
    codes = np.stack([explore.codes(embedding.run, chart) for chart in range(embedding.charts)])
    used = embedding.evaluation.tables["code_usage"] > 0
    points = embedding.project(codes[used])
    names = [f"chart {k}, code {c}" for k, c in np.argwhere(used)]
    centers = embedding.project(np.asarray(embedding.run.weights["encoder"]["centers"]))
    alive = embedding.population > 0
    inside = embedding.project(embedding.encoding.z_geo)
    for k in np.flatnonzero(alive):  # where the chart's examples are
        centers[k] = np.median(inside[embedding.chart == k], axis=0)
    numbers = [str(k) if on else f"({k})" for k, on in enumerate(alive)]
    lengths = np.linalg.norm(end - start, axis=-1)
    traces = [*(_regions(embedding) if flat else ()), *_arrows(embedding, start, end, flat)]
    kind = go.Scatter if flat else go.Scatter3d
    at = dict(zip("xy" if flat else "xyz", points.T, strict=True))
    style = {"symbol": "diamond-open", "size": 8 if flat else 4, "color": INK, "line": {"width": 1.2, "color": INK}}
    traces.append(
        kind(
            **at,
            mode="markers",
            marker=style,
            name="codes",
            text=names,
            hovertemplate="%{text}<extra></extra>",
            visible="legendonly",
        )
    )
    at = dict(zip("xy" if flat else "xyz", centers.T, strict=True))
    disc = {"symbol": "circle", "size": 17 if flat else 8, "color": "white", "line": {"width": 1.2, "color": INK}}
    said = [f"chart {k}: {n} examples" for k, n in enumerate(embedding.population)]
    traces.append(
        kind(
            **at,
            mode="markers+text",
            marker=disc,
            text=numbers,
            textfont={"size": 11, "color": INK},
            name="charts",
            visible=True,
            hovertext=said,
            hovertemplate="%{hovertext}<extra></extra>",
        )
    )
    return traces, len(start), float(lengths.mean()) if len(lengths) else 0.0


def _arrows(embedding: Embedding, start: np.ndarray, end: np.ndarray, flat: bool) -> list[Any]:
    """Jumps, to be switched on in the legend; nothing where there are none."""
    import plotly.graph_objects as go

    if not len(start):
        return []
    segments = np.stack([start, end, np.full_like(start, np.nan)], axis=1).reshape(-1, start.shape[-1])
    at = dict(zip("xy" if flat else "xyz", embedding.project(segments).T, strict=False))
    common = {"name": "jumps", "hoverinfo": "skip", "visible": "legendonly"}
    if not flat:
        return [go.Scatter3d(**at, mode="lines", line={"color": INK, "width": 3}, **common)]
    heads = np.tile([0, 7, 0], len(start))
    marker = {"symbol": "arrow", "angleref": "previous", "size": heads, "color": INK}
    return [go.Scatter(**at, mode="lines+markers", line={"color": INK, "width": 1.2}, marker=marker, **common)]


def _regions(embedding: Embedding) -> list[Any]:
    """A filled hull for every chart's examples; and rings at both places of examples that two charts claim."""
    import plotly.graph_objects as go

    traces: list[Any] = []
    for k, corners in enumerate(regions.outlines(embedding)):
        if len(corners) < 4:
            continue
        paint = {"color": colour(k), "width": 1.2}
        common = {"mode": "lines", "fill": "toself", "fillcolor": colour(k), "opacity": 0.18, "hoverinfo": "skip"}
        name = {"name": "regions", "legendgroup": "regions", "showlegend": not traces, "visible": True}
        traces.append(go.Scatter(x=corners[:, 0], y=corners[:, 1], line=paint, **common, **name))
    first, second, pairs = regions.both_places(embedding)
    if len(pairs) and embedding.run.config.model.discs:
        at, other = np.concatenate([first, second]), np.concatenate([pairs[:, 1], pairs[:, 0]])
        marker = {"symbol": "circle-open", "size": 9, "color": [colour(int(k)) for k in other], "line": {"width": 1.5}}
        said = [f"also in chart {k}" for k in other]
        traces.append(
            go.Scatter(
                x=at[:, 0],
                y=at[:, 1],
                mode="markers",
                marker=marker,
                name="borders",
                text=said,
                visible=True,
                hovertemplate="%{text}<extra></extra>",
            )
        )
    return traces


def _pictures(embedding: Embedding) -> list[dict[str, Any]]:
    """What each chart draws in the middle of its examples, at the upper left of its region; nothing, of points."""
    shape, charts = embedding.run.image_shape, regions.outlines(embedding)
    if shape is None:
        return []
    drawn, found = grids.visible(regions.images(embedding), shape), []
    for picture, corners in zip(drawn, charts, strict=True):
        if len(corners) < 4:
            continue
        middle, reach = corners.mean(axis=0), float(np.ptp(corners, axis=0).max()) / 2
        x, y = middle + 0.75 * reach * np.array([-1.0, 1.0])
        size = 0.5 * reach
        data, kind = grids.sprite(picture[None], 1)
        place = {"xref": "x", "yref": "y", "xanchor": "right", "yanchor": "bottom", "layer": "above"}
        found.append({"source": uri(data, kind), "x": x, "y": y, "sizex": size, "sizey": size, **place})
    return found


def jumps(embedding: Embedding) -> tuple[np.ndarray, np.ndarray]:
    """The jump operators applied to examples between two charts, in the latent's coordinates.

    An example that charts i and j share has a place in each, c_i + δ_i as chart i alone reads it; its jump is to
    c_j + L_{i→j} δ_i, where chart j should read it. (In one plane, the original: c̄ + q_j + L_{i→j} z_n^i.)

    Returns:
      start [m, D] and end [m, D], of at most `ARROWS` examples with w_i w_j ≥ `OVERLAP`, i their own chart.
    """
    e = embedding.encoding
    rows = embedding.drawn
    others = np.where(np.eye(embedding.charts, dtype=bool)[e.chart[rows]], 0.0, e.router[rows])
    target = others.argmax(axis=1)
    mass = others.max(axis=1) * e.router[rows, e.chart[rows]]
    shared = np.flatnonzero(mass >= OVERLAP)
    if len(shared) > ARROWS:
        shared = shared[np.linspace(0, len(shared) - 1, ARROWS).astype(int)]
    rows, target = rows[shared], target[shared]
    source = e.chart[rows]
    jumped = np.asarray(embedding.run.model.jump(embedding.run.weights, e.offset[rows]))
    pick = np.arange(len(rows))
    origin = e.places[rows, target] - e.offset[rows, target]
    return e.places[rows, source], origin + jumped[pick, source, target]


def _caption(embedding: Embedding, jumps: int, length: float) -> str:
    latent, n = embedding.encoding.z_geo.shape[1], len(embedding.image)
    shown = f"{len(embedding.drawn)} of {n} test examples" if len(embedding.drawn) < n else f"All {n} test examples"
    where = (
        f"The latent has {latent} dimensions and is projected on its first two principal axes"
        if latent > 3
        else "The axes are the latent's own coordinates: nothing is projected"
    )
    arrows = (
        f"Switched on in the legend, {jumps} arrows are jump operators applied: from where an example's chart reads it "
        f"to where the operator sends it in the next chart, mean length {length:.3f}, for examples whose two weights "
        f"have a product of at least {OVERLAP}"
        if jumps
        else "No example is shared by two charts enough to draw a jump"
    )
    unused = [str(k) for k in np.flatnonzero(embedding.population == 0)]
    idle = f" No example uses chart {', '.join(unused)} (number in brackets)." if unused else ""
    hover = " Hovering shows the image and its reconstruction." if embedding.run.image_shape else ""
    seen = (
        "Filled: where each chart's examples are, in its own colour, with its number among them"
        f"{' and what it draws there' if embedding.run.image_shape else ''}; rings: both places of an example that a "
        f"second chart claims with a weight of {regions.SHARED} or more, in that other chart's colour. "
        if latent <= 2 or latent > 3
        else "White discs: charts. "
    )
    return f"{shown}. {where}. {seen}{arrows}.{idle}{hover}"
