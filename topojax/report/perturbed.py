"""Figures of `topojax.explore`: perturbed inputs before and after, ways through charts, charts as sheets."""

from collections.abc import Callable, Iterator

import numpy as np

from topojax.analysis import explore
from topojax.analysis.explore import Change, View
from topojax.report import grids
from topojax.report.block import Block, Figure, Note, Picture
from topojax.report.embedding import Embedding
from topojax.report.images import one_of_each
from topojax.report.still import png
from topojax.report.style import ALARM, INK, colour, line, own_legends, panels

POINTS_ONLY = "The data are points, not images: there is nothing to look at."
EXAMPLES, SAMPLE, SHEET = 4, 256, 7
"""Examples shown perturbed; examples behind the curves; points along each axis of a chart's sheet."""
ANGLES = (0.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0)
NOISE = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
COVERED = (0.0, 0.125, 0.25, 0.375, 0.5, 0.75)
"""Degrees; standard deviations; shares of an image's side."""


def before_and_after(embedding: Embedding) -> list[Block]:
    """A few examples rotated, in noise and occluded: chart, code, probability and reconstruction."""
    run, shape = embedding.run, embedding.run.image_shape
    if shape is None:
        return [Note(POINTS_ONLY)]
    chosen = one_of_each(embedding)
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(EXAMPLES, len(chosen))).astype(int)]
    x, side = embedding.image[chosen], min(shape[:2])
    square = {"size": max(side // 3, 1), "top": side // 3, "left": side // 3}
    changes: list[tuple[str, Change]] = [
        *((f"rotated {angle}°", explore.rotate(run, x, angle)) for angle in (15, 45, 90)),
        *((f"noise {std}", explore.noise(run, x, std)) for std in (0.1, 0.3)),
        ("occluded", explore.occlude(run, x, **square)),
    ]
    views: list[View] = [changes[0][1].before, *(change.after for _, change in changes)]
    rows: list[tuple[str, np.ndarray]] = []
    below: list[list[tuple[str, str]]] = []
    for i, example in enumerate(chosen):
        first = views[0]
        label = f"label {embedding.label[example]}" if embedding.label is not None else f"example {example}"
        rows.append((label, np.stack([view.image[i] for view in views])))
        below.append([])
        rows.append(("atlas", np.stack([view.reconstruction[i] for view in views])))
        texts = []
        for view in views:
            best = view.probabilities[i].argmax()
            said = f"chart {view.chart[i]}, code {view.code[i]}\nP({best}) = {view.probabilities[i, best]:.2f}"
            texts.append((said, INK if view.chart[i] == first.chart[i] else ALARM))
        below.append(texts)
    figure = grids.table(rows, shape, heads=["as it is", *(name for name, _ in changes)], below=below, side=0.86)
    caption = (
        "Inputs above their reconstructions, with the chart, the code and the likeliest class; in red where the chart "
        f"is no longer the same. {_source(embedding)}"
    )
    return [Picture("perturbed", figure, caption)]


def robustness(embedding: Embedding) -> list[Block]:
    """How chart, code and class hold as inputs are perturbed more and more."""
    kinds = list(_strengths(embedding))
    figure = panels([title for title, *_ in kinds], columns=3, each=250, horizontal_spacing=0.06)
    rows = np.linspace(0, len(embedding.image) - 1, min(SAMPLE, len(embedding.image))).astype(int)
    x = embedding.image[rows]
    for column, (_, unit, strengths, perturb) in enumerate(kinds, start=1):
        kept: dict[str, list[float]] = {"same chart": [], "same chart and code": [], "class of the label": []}
        for strength in strengths:
            change = perturb(x, strength)
            chart = change.after.chart == change.before.chart
            kept["same chart"].append(chart.mean())
            kept["same chart and code"].append((chart & (change.after.code == change.before.code)).mean())
            if embedding.label is not None:
                right = change.after.probabilities.argmax(axis=1) == embedding.label[rows]
                kept["class of the label"].append(right.mean())
        for index, (name, values) in enumerate(kept.items()):
            if values:
                line(figure, (1, column), strengths, values, name, colour(index), mode="lines+markers")
        figure.update_xaxes(title_text=unit, row=1, col=column)
        figure.update_yaxes(range=[0, 1.05], row=1, col=column)
    caption = (
        f"Share of {len(rows)} test examples that keep their chart and code, and whose likeliest class is their label. "
    )
    return [Figure("robustness", own_legends(figure), caption + _source(embedding))]


def _strengths(
    embedding: Embedding,
) -> Iterator[tuple[str, str, tuple[float, ...], Callable[[np.ndarray, float], Change]]]:
    """(title, unit, strengths, perturbation) of what these inputs can suffer."""
    run, shape = embedding.run, embedding.run.image_shape
    if shape is not None or run.input_dim == 2:
        yield "Rotation", "degrees", ANGLES, lambda x, angle: explore.rotate(run, x, angle)
    yield "Gaussian noise", "standard deviation", NOISE, lambda x, std: explore.noise(run, x, std)
    if shape is not None:
        side = min(shape[:2])

        def cover(x: np.ndarray, share: float) -> Change:
            size = round(share * side)
            if not size:
                return explore.noise(run, x, 0.0)
            return explore.occlude(run, x, size=size, top=(shape[0] - size) // 2, left=(shape[1] - size) // 2)

        yield "Occluded square", "share of the side", COVERED, cover


def paths(embedding: Embedding) -> list[Block]:
    """From one example of a chart to another, and along its axes, drawn by that chart alone."""
    run, shape = embedding.run, embedding.run.image_shape
    if shape is None:
        return [Note(POINTS_ONLY)]
    rows: list[tuple[str, np.ndarray]] = []
    for chart in np.argsort(-embedding.population, kind="stable")[:3]:
        members = np.flatnonzero(embedding.chart == chart)
        if len(members) < 2:
            continue
        z = embedding.encoding.z_geo[members]
        a = members[np.argmax(np.sum((z - z.mean(axis=0)) ** 2, axis=1))]
        b = members[np.argmax(np.sum((z - embedding.encoding.z_geo[a]) ** 2, axis=1))]
        between = explore.interpolate(run, embedding.image[a], embedding.image[b], steps=9, chart=int(chart))
        rows.append(
            (f"chart {chart}: between", np.concatenate([embedding.image[[a]], between.image, embedding.image[[b]]]))
        )
        nothing = np.full_like(embedding.image[:1], np.nan)
        for axis in range(min(run.config.model.latent_dim, 2)):
            along = explore.traverse(run, int(chart), axis=axis, steps=9)
            rows.append((f"along $z_{axis + 1}$", np.concatenate([nothing, along.image, nothing])))
    if not rows:
        return [Note("No chart has two examples: there is nothing to interpolate.")]
    heads = ["example", *[""] * 9, "example"]
    caption = (
        "The three most used charts. Between: the straight line in the latent between two examples of the chart that "
        "lie far apart, texture included, drawn by the chart alone. Along: its axes through the middle of its codes."
    )
    return [Picture("paths", grids.table(rows, shape, heads=heads, side=0.62), caption)]


def sheets(embedding: Embedding) -> list[Block]:
    """Every chart decoded on a lattice of its own plane."""
    run, shape = embedding.run, embedding.run.image_shape
    latent = run.config.model.latent_dim
    if shape is None or latent < 2:
        return [Note(POINTS_ONLY if shape is None else "The latent has one dimension: a chart is a line, not a sheet.")]
    drawn = [explore.grid(run, chart, size=SHEET) for chart in range(embedding.charts)]
    caption = (
        f"Each chart drawn alone on a {SHEET} × {SHEET} lattice over its disc"
        f"{', over the first two latent axes' if latent > 2 else ''}, z₁ to the right and z₂ up. "
        "Faint: there the decoder itself would choose another chart. In brackets: nobody uses the chart."
    )
    return [Picture("sheets", _draw_sheets(embedding, drawn, shape), caption)]


def _draw_sheets(embedding: Embedding, drawn: list[explore.Grid], shape: grids.Shape) -> bytes:
    from matplotlib.figure import Figure as Canvas

    columns = min(5, len(drawn))
    lines = -(-len(drawn) // columns)
    canvas = Canvas(figsize=(2.15 * columns, 2.4 * lines), layout="constrained", facecolor="white")
    axes = np.atleast_1d(canvas.subplots(lines, columns)).reshape(-1)
    for axis in axes:
        axis.set_axis_off()
    for axis, grid in zip(axes, drawn, strict=False):
        pictures = grids.visible(grid.image, shape).astype(np.float32)
        foreign = (grid.own != grid.chart)[..., None, None, None]
        faded = np.where(foreign, 255 - 0.3 * (255 - pictures), pictures).astype(np.uint8)
        axis.imshow(grids.sheet(faded), interpolation="nearest")
        used = embedding.population[grid.chart] > 0
        axis.set_title(f"chart {grid.chart}" if used else f"(chart {grid.chart})", fontsize=8.5, color=INK)
    return png(canvas)


def _source(embedding: Embedding) -> str:
    if embedding.run.config.supervised.enabled:
        return "Class probabilities are Σ_k w_k P(y|k): labels trained the charts."
    return "Class probabilities are the detached readout's: labels trained it, and not the charts."
