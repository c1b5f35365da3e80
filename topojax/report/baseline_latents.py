"""The latents of the baselines beside the atlas's: the same examples, in the same colours."""

import numpy as np

from topojax.report.block import Block, Figure
from topojax.report.embedding import MODELS, Embedding
from topojax.report.style import colour, panels, symbol
from topojax.tracking.console import number


def side_by_side(embedding: Embedding) -> list[Block]:
    """A panel for each model of the run, coloured by label, or by the atlas's chart where there are none."""
    found = embedding.evaluation.predictions
    latents = {name: np.asarray(found[f"{name}/z"]) for name in MODELS if f"{name}/z" in found}
    if not latents:
        return []
    import plotly.graph_objects as go

    latents = {"atlas": embedding.encoding.z_geo, **latents}
    by, values = ("label", embedding.label) if embedding.label is not None else ("chart", embedding.chart)
    assert values is not None
    shown = np.asarray(values)[embedding.drawn]
    figure = panels([_title(embedding, name) for name in latents], columns=len(latents), each=330)
    for column, (_, z) in enumerate(latents.items(), start=1):
        points = planar(z)[embedding.drawn]
        for value in np.unique(shown):
            at = shown == value
            marker = {"size": 4, "color": colour(int(value)), "symbol": symbol(int(value)), "opacity": 0.75}
            trace = go.Scatter(
                x=points[at, 0],
                y=points[at, 1],
                mode="markers",
                marker=marker,
                name=f"{by} {value}",
                legendgroup=str(value),
                showlegend=column == len(latents),
                hovertemplate=f"{by} {value}<extra></extra>",
            )
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(showgrid=False, row=1, col=column)
        figure.update_yaxes(showgrid=False, row=1, col=column)
    figure.update_layout(legend={"x": 1.01, "y": 1, "xanchor": "left"})
    axes = "" if next(iter(latents.values())).shape[1] <= 2 else "; two principal axes of each"
    caption = (
        f"Latents of the {embedding.evaluation.split} split in the models of this run, coloured by {by}{axes}. AMI is "
        "of the atlas's charts, and of k-means clusters of a baseline's training latents, as many as there are charts."
    )
    return [Figure("latents", figure, caption)]


def planar(z: np.ndarray) -> np.ndarray:
    """Points [n, D] in a plane: as they are in one or two dimensions, else along their two principal axes."""
    if z.shape[1] == 1:
        return np.concatenate([z, np.zeros_like(z)], axis=1)
    if z.shape[1] == 2:
        return z
    centred = z - z.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    return centred @ axes[:2].T


def _title(embedding: Embedding, name: str) -> str:
    prefix = "" if name == "atlas" else f"{name}/"
    numbers = embedding.evaluation.numbers
    found = {what: numbers.get(prefix + key) for key, what in (("ami", "AMI"), ("mse", "MSE"))}
    told = [f"{what} {number(value)}" for what, value in found.items() if value is not None]
    return f"{MODELS[name]}: {', '.join(told)}" if told else MODELS[name]
