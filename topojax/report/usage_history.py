"""How the examples were shared out among the charts, over the epochs of a run."""

import json

import numpy as np

from topojax.report.block import Block, Figure
from topojax.report.history import History
from topojax.report.style import colour, line, own_legends, panels
from topojax.storage.logs import lines_until


def usage(history: History) -> list[Block]:
    """Share of the test examples in each chart at each logged epoch; nothing, of a run that logged none of it."""
    last = int(history.epoch[-1]) if len(history.rows) else 0
    rows = [json.loads(line) for line in lines_until(history.workdir / "usage.jsonl", last)]
    if not rows:
        return []
    epoch = np.array([row["epoch"] for row in rows])
    shares = np.array([row["charts"] for row in rows], float)
    figure = panels(["Share of the test examples in each chart", "Charts and codes in use"], each=270)
    for chart in range(shares.shape[1]):
        dash = ("solid", "dash", "dot")[chart // 10 % 3]
        line(figure, (1, 1), epoch, shares[:, chart], str(chart), colour(chart), dash=dash)
    line(figure, (1, 2), epoch, [row["codes_used"] for row in rows], "codes", colour(0))
    line(figure, (1, 2), epoch, (shares > 0).sum(axis=1), "charts", colour(1))
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(title_text="epoch")
    ends = shares[-1]
    caption = (
        f"Examples by their strongest chart; no label used. At epoch {epoch[-1]} the fullest chart has "
        f"{ends.max():.1%} of them, {(ends > 0).sum()} of {len(ends)} have any."
    )
    return [Figure("usage_history", own_legends(figure), caption)]
