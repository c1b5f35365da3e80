"""Figures of the dynamics: the coupling window as a phase plot, and the drift scales against their barriers."""

import math
from typing import Any

import numpy as np

from topojax.atlas.hierarchy import BARRIERS
from topojax.report.block import Block, Figure, Note
from topojax.report.curves import UNLOGGED
from topojax.report.history import History, spans
from topojax.report.style import ALARM, GOOD, INK, QUIET, SEQUENTIAL, colour, line, own_legends, panels

SCALES = {"alpha": "α signal", "beta": "β routing", "gamma": "γ decoder", "delta": "δ latent"}


def window(history: History) -> list[Block]:
    """The run's path through the plane of H(K) and I(X;K), with the bounds of the coupling window."""
    import plotly.graph_objects as go

    entropy, information = history.column("window/H_K"), history.column("window/I_XK")
    epsilon = history.column("window/epsilon")
    if entropy is None or information is None or epsilon is None:
        return [Note(UNLOGGED)]
    log_charts = math.log(history.config.model.num_charts)
    figure = panels(
        ["Coupling window", "Inflow and mixing"], each=380, column_widths=[0.53, 0.47], horizontal_spacing=0.16
    )
    eps = float(epsilon[np.isfinite(epsilon)][-1])
    _polygon(figure, [(eps, eps), (log_charts, eps), (log_charts, log_charts)], GOOD, "grounded: ε ≤ I(X;K) ≤ H(K)")
    high, low = history.config.monitor.over_mixing_high, history.config.monitor.over_mixing_low
    left, top = (1 - high) * log_charts, low * log_charts
    corner = [(left, 0.0), (log_charts, 0.0), (log_charts, top), (left, top)]
    _polygon(figure, corner, ALARM, "over-mixed: all charts used, not by the data")
    figure.add_trace(
        go.Scatter(
            x=entropy,
            y=information,
            mode="lines+markers",
            name="the run",
            line={"color": QUIET, "width": 1},
            marker={
                "color": history.epoch,
                "colorscale": SEQUENTIAL,
                "size": 8,
                "line": {"color": "white", "width": 0.5},
                "colorbar": {"title": "epoch", "thickness": 10, "len": 0.9, "x": 0.455},
            },
            text=[f"epoch {epoch}" for epoch in history.epoch],
            hovertemplate="%{text}<br>H(K) %{x:.3f}, I(X;K) %{y:.3f} nats<extra></extra>",
        ),
        row=1,
        col=1,
    )
    for x, name in ((log_charts, "log N"), (log_charts - eps, "log N − ε")):
        figure.add_vline(x=x, line={"color": INK, "width": 1, "dash": "dot"}, row=1, col=1)
        place = {"xref": "x", "yref": "y domain", "xanchor": "right", "yanchor": "top", "xshift": -3}
        figure.add_annotation(text=name, x=x, y=0.98, showarrow=False, font={"size": 10, "color": QUIET}, **place)
    figure.update_xaxes(title_text="H(K), nats", range=[0, 1.05 * log_charts], row=1, col=1)
    figure.update_yaxes(title_text="I(X;K), nats", range=[0, 1.05 * log_charts], row=1, col=1)
    flows = {"window/lambda_in": "λ_in", "window/lambda_mix": "λ_mix", "window/epsilon": "ε"}
    for index, (name, values) in enumerate(history.columns(flows).items()):
        positive = np.where(values > 0, values, np.nan)
        line(figure, (1, 2), history.epoch, positive, flows[name], colour(index), dash=("solid", "dash", "dot")[index])
    figure.update_yaxes(type="log", exponentformat="power", title_text="nats", row=1, col=2)
    figure.update_xaxes(title_text="epoch", row=1, col=2)
    caption = (
        "Left: each point is a logged epoch, as the controllers read it. The blue region is grounded, with the last ε; "
        "above its diagonal nothing can lie. The theorem's second bound, H(K) ≤ log N − ε, is drawn but not enforced "
        "unless losses.window_two_sided is on: an even use of all charts breaks it without dispersion. "
        "Right: information that enters the charts, λ_in, against what mixing adds to their entropy, λ_mix."
    )
    return [Figure("window", own_legends(figure), caption)]


def _polygon(figure: Any, corners: list[tuple[float, float]], paint: str, name: str) -> None:
    import plotly.graph_objects as go

    x, y = zip(*corners, corners[0], strict=True)
    region = go.Scatter(
        x=x,
        y=y,
        mode="lines",
        fill="toself",
        fillcolor=_translucent(paint),
        line={"color": paint, "width": 0.5},
        name=name,
        hoverinfo="skip",
    )
    figure.add_trace(region, row=1, col=1)


def _translucent(paint: str) -> str:
    red, green, blue = (int(paint[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.13)"


def scales(history: History) -> list[Block]:
    """α, β, γ, δ, and each barrier's scale as a share of what it may be."""
    seen = history.columns(f"hierarchy/{name}" for name in SCALES)
    if not seen:
        return [Note(UNLOGGED)]
    figure = panels(["Drift scales", "Scale over its barrier"], each=270)
    for index, (name, values) in enumerate(seen.items()):
        positive = np.where(values > 0, values, np.nan)
        line(figure, (1, 1), history.epoch, positive, SCALES[name.split("/")[1]], colour(index))
    alpha, beta, gamma, delta = (seen.get(f"hierarchy/{name}", np.full(len(history.epoch), np.nan)) for name in SCALES)
    settings = history.config.hierarchy
    ratios = {
        "beta": ("β / α", beta, alpha),
        "gamma": (f"γ / {settings.gamma_alpha:g} α", gamma, settings.gamma_alpha * alpha),
        "delta": (f"δ / {settings.delta_gamma:g} γ", delta, settings.delta_gamma * gamma),
    }
    for index, (barrier, (name, scale, limit)) in enumerate(ratios.items(), start=1):
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where((scale > 0) & (limit > 0), scale / limit, np.nan)
        line(figure, (1, 2), history.epoch, ratio, name, colour(index))
        behind = history.column(f"hierarchy/behind_{barrier}")
        for start, end in spans(
            history.epoch, np.nan_to_num(behind) > 0 if behind is not None else np.zeros(len(history.epoch), bool)
        ):
            figure.add_vrect(x0=start, x1=end, fillcolor=colour(index), opacity=0.08, line_width=0, row=1, col=2)
    figure.add_hline(y=1.0, line={"color": INK, "width": 1, "dash": "dash"}, row=1, col=2)
    figure.update_yaxes(type="log", exponentformat="power")
    figure.update_xaxes(title_text="epoch")
    latched = [b for b in BARRIERS if any(e["event"] == "barrier" and e["scale"] == b for e in history.events)]
    caption = (
        "Dimensionless changes per update on the probe batch: sharpness of the signal α, routing β, decoder γ, latent "
        "δ. Right: a barrier latches above 1 (dashed) and slows the groups behind it while shaded; "
        f"it latched for {', '.join(latched) or 'none'}. The action is hierarchy.action = {settings.action}."
    )
    return [Figure("scales", own_legends(figure), caption)]
