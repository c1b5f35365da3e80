"""Pictures of what the atlas draws: reconstructions, the prototype of every chart, and the atlas in one picture."""

from typing import Any

import numpy as np

from topojax.analysis import explore
from topojax.report import grids, regions
from topojax.report.block import Block, Figure, Note, Picture
from topojax.report.embedding import MODELS, Embedding
from topojax.report.still import plain, png
from topojax.report.style import INK, QUIET, blank, colour

COLUMNS = 12
"""Images in a row."""


def reconstructions(embedding: Embedding) -> list[Block]:
    """Examples above what each model makes of them; of points, a scatter of both."""
    if embedding.run.image_shape is None:
        return [_points(embedding)]
    chosen = one_of_each(embedding)[:COLUMNS]
    rows = [("input", embedding.image[chosen]), ("atlas", embedding.x_hat[chosen])]
    rows += [
        (MODELS[name], x_hat) for name, x_hat in embedding.run.reconstruct_baselines(embedding.image[chosen]).items()
    ]
    heads = [f"label {embedding.label[i]}" if embedding.label is not None else str(i) for i in chosen]
    figure = grids.table(rows, embedding.run.image_shape, heads=heads)
    caption = (
        f"The first examples of the {embedding.evaluation.split} split, one of each class, and their reconstructions "
        f"from the places in all charts. Mean squared error of the split: {embedding.evaluation.numbers['mse']:.3g}."
    )
    return [Picture("reconstructions", figure, caption)]


def one_of_each(embedding: Embedding) -> np.ndarray:
    """The first example of each class; without labels, the first of each chart in use."""
    values = embedding.chart if embedding.label is None else embedding.label
    first = np.array([np.flatnonzero(values == value)[0] for value in np.unique(values)])
    if len(first) >= COLUMNS:
        return first
    rest = np.setdiff1d(np.arange(len(values)), first)[: COLUMNS - len(first)]
    return np.concatenate([first, rest])


def prototypes(embedding: Embedding) -> list[Block]:
    """For every chart the example nearest to the middle of its examples, its reconstruction, and the chart's centre."""
    if embedding.run.image_shape is None:
        return [Note("The data are points, not images: charts have no prototypes to look at.")]
    z, size = embedding.encoding.z_geo, embedding.image.shape[1]
    nothing = np.full(size, np.nan, np.float32)
    middles = np.stack([explore.codes(embedding.run, k).mean(axis=0) for k in range(embedding.charts)])
    drawn = embedding.run.decode(middles, chart=np.arange(embedding.charts)).x_hat
    inputs, dreamt, idle = [], [], []
    for chart in range(embedding.charts):
        members = np.flatnonzero(embedding.chart == chart)
        if not len(members):
            inputs.append(nothing)
            dreamt.append(nothing)
            idle.append(str(chart))
            continue
        nearest = members[np.argmin(np.sum((z[members] - z[members].mean(axis=0)) ** 2, axis=1))]
        inputs.append(embedding.image[nearest])
        dreamt.append(embedding.x_hat[nearest])
    rows, heads = [], [f"chart {k}\nn = {n}" for k, n in enumerate(embedding.population)]
    for name, images in (("prototype", inputs), ("reconstruction", dreamt), ("middle of the codes", list(drawn))):
        rows.append((name, np.stack(images)[:COLUMNS]))
    caption = (
        "For each chart the example nearest to the mean of its examples in the latent, its reconstruction, and what "
        "the chart draws at the middle of its codes, without texture."
    )
    if embedding.charts > COLUMNS:
        caption += f" The first {COLUMNS} of {embedding.charts} charts."
    if idle:
        caption += f" Nobody uses chart {', '.join(idle)}: there is no prototype."
    return [
        Picture("prototypes", grids.table(rows, embedding.run.image_shape, heads=heads[:COLUMNS], side=0.72), caption)
    ]


def overview(embedding: Embedding) -> bytes:
    """The atlas in one picture: charts as regions with what they draw, labels, and reconstructions; a PNG."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(15, 5.2), layout="constrained", facecolor="white")
    left, middle, right = canvas.subplots(1, 3)
    _map_of_charts(left, embedding)
    _map_of_labels(middle, embedding)
    _inputs_and_images(right, embedding)
    return png(canvas)


def _dress(axis: Any, embedding: Embedding, title: str) -> None:
    names = (*embedding.projection[2], "")
    axis.set_title(title, fontsize=11, color=INK)
    axis.set(xlabel=plain(names[0]), ylabel=plain(names[1]), aspect="equal")
    axis.tick_params(labelsize=8, color=QUIET)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(0.06)


def _map_of_charts(axis: Any, embedding: Embedding) -> None:
    """Regions, each with its examples, its number, what it draws, and rings for those that another chart claims."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    points = embedding.project(embedding.encoding.z_geo[embedding.drawn])
    paint = [colour(int(k)) for k in embedding.chart[embedding.drawn]]
    axis.scatter(points[:, 0], points[:, 1], c=paint, s=5, alpha=0.65, linewidths=0)
    shape, flat = embedding.run.image_shape, points.shape[1] == 2
    if embedding.run.config.model.discs and flat:
        axis.set(xlim=(-1.08, 1.08), ylim=(-1.08, 1.08))
    pictures = None if shape is None else grids.visible(regions.images(embedding), shape)
    for k, corners in enumerate(regions.outlines(embedding)):
        if not len(corners):
            continue
        if len(corners) > 3 and flat:
            axis.fill(*corners[:, :2].T, color=colour(k), alpha=0.14, lw=0)
            axis.plot(*corners[:, :2].T, color=colour(k), lw=1.0)
        mine = points[embedding.chart[embedding.drawn] == k]
        at = np.median(mine if len(mine) else corners, axis=0)[:2]
        disc = {"boxstyle": "circle,pad=0.22", "fc": "white", "ec": colour(k), "lw": 1.2}
        axis.annotate(str(k), at, ha="center", va="center", fontsize=8, color=INK, bbox=disc)
        if pictures is not None and shape is not None and len(corners) > 3:
            spot = _beside(corners[:, :2], np.array(axis.get_xlim() + axis.get_ylim()).reshape(2, 2))
            box = OffsetImage(pictures[k], zoom=26 / max(shape[0], shape[1]), interpolation="nearest")
            frame = {"edgecolor": colour(k), "linewidth": 1.0, "boxstyle": "square,pad=0"}
            axis.add_artist(
                AnnotationBbox(box, (float(spot[0]), float(spot[1])), frameon=True, pad=0.05, bboxprops=frame)
            )
    first, second, pairs = regions.both_places(embedding)
    if len(pairs) and flat and embedding.run.config.model.discs:
        for at, other in ((first, pairs[:, 1]), (second, pairs[:, 0])):
            rings = [colour(int(k)) for k in other]
            axis.scatter(*at[:, :2].T, s=16, facecolors="none", edgecolors=rings, linewidths=0.9)
    _dress(axis, embedding, "charts: their examples, what they draw, rings where two meet")


def _beside(corners: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Where a tile of a twelfth of the axes covers nothing of a region: above it, on the side away from the middle."""
    half = np.ptp(limits, axis=1) / 24
    low, high = corners.min(axis=0), corners.max(axis=0)
    outwards = high[0] + half[0] if corners[:, 0].mean() > limits[0].mean() else low[0] - half[0]
    return np.clip([outwards, high[1] + half[1]], limits[:, 0] + half, limits[:, 1] - half)


def _map_of_labels(axis: Any, embedding: Embedding) -> None:
    from matplotlib.patheffects import Normal, Stroke

    points = embedding.project(embedding.encoding.z_geo[embedding.drawn])
    values = embedding.label
    shown = np.zeros(len(points), int) if values is None else values[embedding.drawn]
    axis.scatter(points[:, 0], points[:, 1], c=[colour(int(v)) for v in shown], s=8, alpha=0.8, linewidths=0)
    halo = Stroke(linewidth=2.5, foreground="white"), Normal()
    for value in np.unique(shown) if values is not None else ():
        where = np.median(points[shown == value], axis=0)
        style = {"ha": "center", "va": "center", "weight": "bold", "color": INK, "path_effects": halo}
        axis.annotate(str(value), where[:2], **style)
    if embedding.run.config.model.discs and points.shape[1] == 2:
        axis.set(xlim=(-1.08, 1.08), ylim=(-1.08, 1.08))
    _dress(axis, embedding, "test examples by label" if values is not None else "test examples (no labels)")


def _inputs_and_images(axis: Any, embedding: Embedding) -> None:
    if embedding.run.image_shape is None:
        axis.scatter(*embedding.image[:, :2].T, s=6, c="0.75", label="input")
        paint = [colour(int(k)) for k in embedding.chart]
        axis.scatter(*embedding.x_hat[:, :2].T, s=6, c=paint, label="reconstruction")
        axis.legend(frameon=False, fontsize=8)
        axis.set_aspect("equal")
    else:
        chosen = one_of_each(embedding)[:10]
        both = [
            np.stack([embedding.image[half], embedding.x_hat[half]]) for half in np.array_split(chosen, 2) if len(half)
        ]
        widest = max(rows.shape[1] for rows in both)
        both = [np.pad(rows, ((0, 0), (0, widest - rows.shape[1]), (0, 0))) for rows in both]
        pictures = grids.sheet(grids.visible(np.concatenate(both), embedding.run.image_shape))
        axis.imshow(pictures, interpolation="nearest")
        axis.set_axis_off()
    error = embedding.evaluation.numbers["mse"]
    axis.set_title(f"inputs above reconstructions, MSE {error:.3g}", fontsize=11, color=INK)


def _points(embedding: Embedding) -> Figure:
    import plotly.graph_objects as go

    figure = blank(520)
    solid = embedding.image.shape[1] > 2
    for name, values, style in (
        ("input", embedding.image, {"color": "#c3c8d1"}),
        ("reconstruction", embedding.x_hat, {"color": [colour(int(k)) for k in embedding.chart[embedding.drawn]]}),
    ):
        x = values[embedding.drawn]
        if solid:
            trace = go.Scatter3d(
                x=x[:, 0], y=x[:, 1], z=x[:, 2], mode="markers", marker=style | {"size": 2.5}, name=name
            )
        else:
            trace = go.Scatter(x=x[:, 0], y=x[:, 1], mode="markers", marker=style | {"size": 5}, name=name)
        figure.add_trace(trace)
    if not solid:
        figure.update_yaxes(scaleanchor="x")
    else:
        figure.update_layout(scene={"aspectmode": "data"})
    error = embedding.evaluation.numbers["mse"]
    caption = f"Test points and their reconstructions, coloured by chart. Mean squared error of the split: {error:.3g}."
    return Figure("reconstructions", figure, caption)
