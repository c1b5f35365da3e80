"""Pictures of what the atlas draws: reconstructions, the prototype of every chart, and the atlas in one picture."""

import numpy as np

from topojax.analysis import explore
from topojax.report import grids
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
        f"by the decoder's own routing. Mean squared error of the split: {embedding.evaluation.numbers['mse']:.4f}."
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
    """The atlas in one picture: by label, by chart, and reconstructions; a PNG."""
    from matplotlib.figure import Figure as Canvas
    from matplotlib.patheffects import Normal, Stroke

    canvas = Canvas(figsize=(13.5, 4.7), layout="constrained", facecolor="white")
    axes = canvas.subplots(1, 3)
    halo = Stroke(linewidth=2.5, foreground="white"), Normal()
    points = embedding.project(embedding.encoding.z_geo[embedding.drawn])
    names = (*embedding.projection[2], "")
    groups = [("label", embedding.label), ("chart", embedding.chart)]
    for axis, (name, values) in zip(axes, groups, strict=False):
        shown = np.zeros(len(points), int) if values is None else values[embedding.drawn]
        paint = [colour(int(value)) for value in shown]
        axis.scatter(points[:, 0], points[:, 1], c=paint, s=9, alpha=0.8, linewidths=0)
        title = f"test examples by {name}" if values is not None else "test examples (no labels)"
        axis.set_title(title, fontsize=10, color=INK)
        axis.set(xlabel=plain(names[0]), ylabel=plain(names[1]), aspect="equal")
        axis.tick_params(labelsize=8, color=QUIET)
        axis.spines[["top", "right"]].set_visible(False)
        for value in np.unique(shown) if name == "label" and values is not None else ():
            where = np.median(points[shown == value], axis=0)
            axis.annotate(str(value), where[:2], ha="center", va="center", weight="bold", color=INK, path_effects=halo)
    centers = embedding.project(np.asarray(embedding.run.weights["encoder"]["centers"]))
    axes[1].scatter(*centers[:, :2].T, s=0)  # the axes make room for them
    for chart, center in enumerate(centers):
        disc = {"boxstyle": "circle,pad=0.25", "fc": "white", "ec": INK, "lw": 0.8}
        axes[1].annotate(str(chart), center[:2], ha="center", va="center", fontsize=8, bbox=disc)
    if embedding.run.image_shape is None:
        axes[2].scatter(*embedding.image[:, :2].T, s=6, c="0.75", label="input")
        axes[2].scatter(
            *embedding.x_hat[:, :2].T, s=6, c=[colour(int(k)) for k in embedding.chart], label="reconstruction"
        )
        axes[2].legend(frameon=False, fontsize=8)
        axes[2].set_aspect("equal")
    else:
        chosen = one_of_each(embedding)[:10]
        both = [
            np.stack([embedding.image[half], embedding.x_hat[half]]) for half in np.array_split(chosen, 2) if len(half)
        ]
        widest = max(rows.shape[1] for rows in both)
        both = [np.pad(rows, ((0, 0), (0, widest - rows.shape[1]), (0, 0))) for rows in both]
        axes[2].imshow(
            grids.sheet(grids.visible(np.concatenate(both), embedding.run.image_shape)), interpolation="nearest"
        )
        axes[2].set_axis_off()
    error = embedding.evaluation.numbers["mse"]
    axes[2].set_title(f"inputs above reconstructions, MSE {error:.4f}", fontsize=10, color=INK)
    return png(canvas)


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
    caption = f"Test points and their reconstructions, coloured by chart. Mean squared error of the split: {error:.4f}."
    return Figure("reconstructions", figure, caption)
