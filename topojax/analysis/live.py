"""A figure of a run while it trains, in a notebook: loss, weights and the atlas, drawn again every few epochs.

topojax.train_and_evaluate(config, workdir, callbacks=[topojax.live()])
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np

from topojax.analysis.surroundings import plane
from topojax.tracking.canvas import import_matplotlib
from topojax.training.callbacks import Epoch

_POINTS = 2000
_WEIGHTS = 6


class Live:
    """A callback that keeps what it was told, and shows it.

    Args:
      every: epochs between two pictures; the last epoch is always drawn.
      show: what is given each picture, a PNG; None: the output of the notebook's cell, which it replaces.
    """

    def __init__(self, every: int = 5, show: Callable[[bytes], None] | None = None):
        self.every, self._show = every, show or _in_the_notebook()
        self.epochs: list[int] = []
        self.rows: list[dict[str, Any]] = []

    def __call__(self, told: Epoch) -> None:
        """Take an epoch; draw where it is time to."""
        self.epochs.append(told.epoch)
        self.rows.append(dict(told.metrics))
        if told.epoch % self.every == 0 or told.epoch == told.epochs:
            self._show(self.picture(told))

    def picture(self, told: Epoch) -> bytes:
        """The figure as it stands, as a PNG."""
        import_matplotlib()
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, 3.6), layout="constrained", facecolor="white")
        loss, weights, atlas = figure.subplots(1, 3)
        for name in ("loss/recon", "loss/route"):
            if name in self.rows[-1]:
                loss.plot(self.epochs, self._of(name), label=name.removeprefix("loss/"))
        loss.set(xlabel="epoch", yscale="log", title=f"loss, epoch {told.epoch} of {told.epochs}")
        loss.legend(frameon=False)
        for name in self._moving():
            weights.plot(self.epochs, self._of(name), label=name.removeprefix("weight/"))
        weights.set(xlabel="epoch", title="weights that moved most")
        weights.legend(frameon=False, fontsize=7)
        found = told.test()
        index = np.linspace(0, len(found["chart"]) - 1, min(_POINTS, len(found["chart"]))).astype(int)
        x, y = plane(found["z_geo"][index]).T
        atlas.scatter(x, y, c=found["chart"][index], cmap="tab10", s=6)
        atlas.set(title="the atlas, coloured by chart", aspect="equal")
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=80)
        return file.getvalue()

    def _of(self, name: str) -> np.ndarray:
        return np.array([np.nan if row.get(name) is None else row[name] for row in self.rows], float)

    def _moving(self) -> list[str]:
        """Weights by how much they have moved, those that have."""
        names = [name for name in self.rows[-1] if name.startswith("weight/")]
        ranges = {name: np.ptp(np.nan_to_num(self._of(name))) for name in names}
        return [name for name in sorted(names, key=ranges.__getitem__, reverse=True) if ranges[name] > 0][:_WEIGHTS]


def live(every: int = 5) -> Live:
    """A callback that shows a run in the notebook while it trains.

    Args:
      every: epochs between two pictures.
    """
    return Live(every)


def _in_the_notebook() -> Callable[[bytes], None]:
    """Show a picture in the place of the last one; where there is no notebook, nowhere."""
    try:
        from IPython.core.getipython import get_ipython
        from IPython.display import Image, display
    except ImportError:
        return lambda picture: None
    if get_ipython() is None:
        return lambda picture: None
    handles: list[Any] = []

    def show(picture: bytes) -> None:
        image = Image(picture)
        if handles:
            handles[0].update(image)
        else:
            handles.append(display(image, display_id=True))

    return show
