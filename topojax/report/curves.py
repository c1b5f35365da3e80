"""Figures of training: curves, loss terms, the rate and what set it, events."""

import numpy as np

from topojax.report.block import Block, Figure, Note
from topojax.report.history import History
from topojax.report.style import ALARM, INK, PALETTE, QUIET, colour, line, own_legends, panels, styled
from topojax.tracking.console import number
from topojax.tracking.events import CAPS

UNLOGGED = "No epoch has been logged yet: there are no curves to draw."
_DASHES = ("solid", "dash", "dot")

CURVES = (
    ("Training loss", "log", {"signal/task": "task", "loss/recon": "reconstruction", "loss/codebook": "codebook"}),
    ("Test error", "log", {"test/mse": "mean squared error"}),
    ("Information, test, nats", "linear", {"test/I_XK": "I(X;K)", "test/H_K": "H(K)", "test/H_K_given_X": "H(K|X)"}),
    (
        "Test agreement with labels",
        "linear",
        {"test/ami": "AMI", "test/acc_supervised": "accuracy, router", "test/acc_readout": "accuracy, readout"},
    ),
)
"""Panels of the training curves: title, scale of y, metric → name."""


def curves(history: History) -> list[Block]:
    """Losses, test error, information and agreement with labels, over epochs."""
    if not history.rows:
        return [Note(UNLOGGED)]
    figure = panels([title for title, _, _ in CURVES])
    for number_, (_, scale, names) in enumerate(CURVES):
        at = (number_ // 2 + 1, number_ % 2 + 1)
        for index, (metric, values) in enumerate(history.columns(names).items()):
            line(figure, at, history.epoch, values, names[metric], colour(index))
        figure.update_yaxes(type=scale, row=at[0], col=at[1])
    figure.update_xaxes(title_text="epoch", row=2)
    used = "Labels trained the charts" if history.config.supervised.enabled else "Labels did not train the charts"
    caption = (
        "Training and test curves. Task is reconstruction, quantisation and, with labels, the route term, each "
        f"unweighted. {used}; the readout always sees them and never shapes the atlas."
    )
    return [Figure("curves", own_legends(figure), caption)]


def losses(history: History) -> list[Block]:
    """Every loss term, unweighted, on one logarithmic axis."""
    names = sorted({name for row in history.rows for name in row if name.startswith("loss/")} - {"loss/total"})
    figure = panels(["Loss terms, unweighted"], columns=1, each=340)
    drawn = history.columns(names)
    for index, (name, values) in enumerate(drawn.items()):
        shown = np.where(values > 0, values, np.nan)  # a hinge at rest is 0, which a log axis has no place for
        dash = _DASHES[index // len(PALETTE) % 3]
        line(figure, (1, 1), history.epoch, shown, name.removeprefix("loss/"), colour(index), dash=dash)
    if not drawn:
        return [Note(UNLOGGED)]
    figure.update_yaxes(type="log", exponentformat="power", dtick=1)
    figure.update_xaxes(title_text="epoch")
    figure.update_layout(legend={"x": 1.01, "y": 1, "xanchor": "left"})
    return [
        Figure("losses", figure, "Mean over each epoch of every term of the loss before its weight. Zero is a gap.")
    ]


def rate(history: History) -> list[Block]:
    """The learning rate with the bound that set it, and the shares of the parameter groups."""
    lr, cap = history.column("lr"), history.column("lr_cap")
    if lr is None:
        return [Note(UNLOGGED)]
    figure = panels(["Learning rate", "Share of the rate of each parameter group"], each=270)
    bounds = {"lr_governor": "governor's rate", "probe/speed_cap": "latent-speed cap"}
    for index, (name, values) in enumerate(history.columns(bounds).items()):
        line(figure, (1, 1), history.epoch, values, bounds[name], QUIET, dash=("dash", "dot")[index], opacity=0.8)
    line(figure, (1, 1), history.epoch, lr, "in force", INK)
    if cap is not None:
        import plotly.graph_objects as go

        for code, name in enumerate(CAPS):
            at = cap == code
            if at.any():
                marker = {"color": colour(code), "size": 7, "symbol": ("circle", "square", "diamond", "cross")[code]}
                trace = go.Scatter(
                    x=history.epoch[at],
                    y=lr[at],
                    mode="markers",
                    marker=marker,
                    name=f"set by {name.replace('_', ' ')}",
                    hovertemplate="epoch %{x}, rate %{y:.3g}<extra>%{fullData.name}</extra>",
                )
                figure.add_trace(trace, row=1, col=1)
    for event in (e for e in history.events if e["event"] == "rate" and e["to"] < e["from"]):
        figure.add_vline(x=event["epoch"], line={"color": ALARM, "width": 1, "dash": "dot"}, row=1, col=1)
    groups = sorted({name for row in history.rows for name in row if name.startswith("rate/")})
    for index, (name, values) in enumerate(history.columns(groups).items()):
        dash = _DASHES[index % 3]  # most groups stay at 1, on top of each other
        line(figure, (1, 2), history.epoch, values, name.removeprefix("rate/"), colour(index), dash=dash)
    figure.update_yaxes(type="log", exponentformat="power", row=1, col=1)
    figure.update_yaxes(range=[0, 1.08], row=1, col=2)
    figure.update_xaxes(title_text="epoch")
    cuts = [f"epoch {e['epoch']}: {e['cause']}" for e in history.events if e["event"] == "rate" and e["to"] < e["from"]]
    said = (
        f"Cuts by the governor: {'; '.join(cuts[:8])}{' …' if len(cuts) > 8 else ''}." if cuts else "It was never cut."
    )
    caption = f"The rate of the last step of each logged epoch; a marker names the bound that was the least. {said}"
    return [Figure("rate", own_legends(figure), caption)]


def events(history: History) -> list[Block]:
    """Every event of the run on a time line."""
    import plotly.graph_objects as go

    if not history.events:
        return [Note("The run has no events: no gate, cut, barrier, revival or violated contract so far.")]
    kinds = sorted({event["event"] for event in history.events}, reverse=True)
    details = [
        "<br>".join(f"{k} {number(v)}" for k, v in event.items() if k not in ("event", "epoch", "step", "advice"))
        for event in history.events
    ]
    paint = [colour(kinds.index(event["event"])) for event in history.events]
    trace = go.Scatter(
        x=[event["epoch"] for event in history.events],
        y=[event["event"].replace("_", " ") for event in history.events],
        mode="markers",
        marker={"size": 9, "symbol": "diamond", "color": paint, "line": {"width": 0.5, "color": "white"}},
        text=details,
        hovertemplate="epoch %{x}: %{y}<br>%{text}<extra></extra>",
        showlegend=False,
    )
    figure = styled(go.Figure(trace), 110 + 26 * len(kinds))
    order = [kind.replace("_", " ") for kind in kinds]
    figure.update_yaxes(categoryorder="array", categoryarray=order, automargin=True)
    figure.update_xaxes(title_text="epoch")
    figure.update_layout(margin={"t": 36})
    caption = f"{len(history.events)} events; hovering shows what was decided and why (events.jsonl holds them all)."
    return [Figure("events", figure, caption)]
