"""Figures of trust: conformal sets by chart, accuracy when the head may abstain, and strangers by router entropy."""

from typing import Any

import numpy as np

from topojax.report.block import Block, Figure, Note
from topojax.report.embedding import Embedding
from topojax.report.style import QUIET, colour, line, own_legends, panels
from topojax.scoring.conformal import auroc, conformal, entropy, scrambled, selective

ALPHA = 0.1
_HEADS = {"class": "router, P(y|k)", "readout": "detached readout"}


def conformal_sets(embedding: Embedding) -> list[Block]:
    """Coverage and size of the sets in each chart; of the head that trained the charts where there is one."""
    if embedding.label is None or len(embedding.label) < 4:
        return [Note("No labels: there are no conformal sets to calibrate.")]
    import plotly.graph_objects as go

    heads = _heads(embedding)
    name = next(iter(heads))
    found = conformal(heads[name], embedding.label, alpha=ALPHA)
    table = found.by_group(embedding.chart, embedding.charts)
    figure = panels([f"Coverage of {1 - ALPHA:.0%} sets by chart", "Classes in a set by chart"], each=250)
    charts = np.arange(embedding.charts)
    for column, (field, what) in enumerate(((1, "coverage"), (2, "mean size")), start=1):
        hover = f"chart %{{x}}<br>{what} %{{y:.3f}}<br>%{{customdata}} examples<extra></extra>"
        bars = go.Bar(
            x=charts,
            y=table[:, field],
            width=0.7,
            marker_color=colour(0),
            customdata=table[:, 0],
            hovertemplate=hover,
            showlegend=False,
        )
        figure.add_trace(bars, row=1, col=column)
        figure.update_xaxes(title_text="chart", tickvals=charts.tolist(), showgrid=False, row=1, col=column)
        figure.update_xaxes(range=[-0.5, embedding.charts - 0.5], row=1, col=column)
    edges = [-0.5, embedding.charts - 0.5]
    line(figure, (1, 1), edges, [1 - ALPHA] * 2, "promised", QUIET, dash="dash")
    line(figure, (1, 1), edges, [found.covered.mean()] * 2, "all charts", colour(2))
    figure.update_yaxes(range=[0, 1.05], row=1, col=1)
    figure.update_yaxes(rangemode="tozero", row=1, col=2)
    least = np.nanmin(table[:, 1])
    caption = (
        f"Split-conformal sets of the {_HEADS[name]}, calibrated on {len(found.calibrated)} test examples and counted "
        f"on the other {len(found.tested)}; labels used for both. Over all charts {found.covered.mean():.3f} of the "
        f"sets hold the class, {1 - ALPHA:.2f} is promised; the least covered chart {least:.3f}, for which nothing is. "
        f"A set has {found.size.mean():.2f} classes on average."
    )
    return [Figure("conformal", own_legends(figure), caption)]


def abstaining(embedding: Embedding) -> list[Block]:
    """Accuracy over the share of examples that are answered, and router entropy of examples and of strangers."""
    if embedding.label is None:
        return _strangers(embedding, None)
    figure = panels(["Accuracy when the least sure are left out", "Router entropy"], each=250)
    said = []
    for index, (name, probability) in enumerate(_heads(embedding).items()):
        correct = probability.argmax(axis=1) == embedding.label
        share, accuracy = selective(probability.max(axis=1), correct)
        line(figure, (1, 1), share, accuracy, _HEADS[name], colour(index))
        half = accuracy[max(len(share) // 2 - 1, 0)]
        said.append(f"{_HEADS[name]} {half:.4f} on the surer half, {accuracy[-1]:.4f} on all")
    figure.update_xaxes(title_text="share of examples answered", range=[0, 1.02], row=1, col=1)
    figure.update_yaxes(title_text="accuracy", row=1, col=1)
    return _strangers(embedding, (figure, f"Accuracy (labels used): {'; '.join(said)}. "))


def _strangers(embedding: Embedding, begun: tuple | None) -> list[Block]:
    figure, said = begun or (panels(["Router entropy"], each=250), "")
    column = 2 if begun else 1
    known = entropy(np.asarray(embedding.encoding.router))
    strange = entropy(np.asarray(embedding.run.encode(scrambled(embedding.image)).router))
    top = np.log(embedding.charts)
    edges = np.linspace(0.0, top, 31)
    for index, (name, values) in enumerate((("test examples", known), ("scrambled", strange))):
        count, _ = np.histogram(np.clip(values, 0.0, top), edges)
        shares = np.append(count / max(len(values), 1), 0.0)
        line(figure, (1, column), edges, shares, name, colour(index), **_step(colour(index)))
    figure.update_xaxes(title_text="H(K|x), nats", row=1, col=column)
    figure.update_yaxes(title_text="share of examples", rangemode="tozero", row=1, col=column)
    caption = (
        f"{said}Router entropy as the score of a stranger, no label used: test examples against the same with their "
        f"inputs in another order; area under the ROC curve {auroc(known, strange):.3f} (0.5 tells nothing, below it "
        "strangers are routed more firmly than examples)."
    )
    return [Figure("confidence", own_legends(figure), caption)]


def _step(paint: str) -> dict[str, Any]:
    return {"line": {"shape": "hv", "color": paint, "width": 1.8}, "mode": "lines"}


def _heads(embedding: Embedding) -> dict[str, np.ndarray]:
    found = embedding.evaluation.predictions
    return {name: found[f"{name}_probability"] for name in _HEADS if f"{name}_probability" in found}
