"""A run on TensorBoard: scalars, hyperparameters, the atlas and reconstructions as images, contracts as histograms.

  tensorboard --logdir=runs

Through clu's writers, in a thread of theirs. TensorFlow and matplotlib load when a writer is made, not before.
TensorBoard's step is the training step.
"""

import logging
import os
import pathlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas import optim
from topojax.atlas.controllers import make_control
from topojax.atlas.model import Model
from topojax.config.io import telling
from topojax.data.sets import Dataset
from topojax.errors import needing
from topojax.storage.logs import Row, Sink
from topojax.tracking.canvas import import_matplotlib
from topojax.tracking.event_files import cut

POINTS = 2000
"""Test points in the picture of the atlas, at most."""
COLUMNS = 10
"""Examples in the picture of reconstructions, at most: the first of every class."""
DRAWING = 0.02
"""Share of a run's time that pictures may take: they wait until it has come down to this. The last is always drawn."""


class TensorBoard(Sink):
    """Event files of a run.

    Args:
      directory: where they go.
      config: the whole configuration.
      model: the atlas.
      dataset: its test split is drawn.
      step: that the run goes on from; events of later ones are dropped.
      rows: of its metrics.jsonl: scalars of which no file has the step yet are written again, as after a kill, which
        loses what waits to be written.

    Raises:
      UserError: TensorFlow or tensorboard cannot be imported.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        config: Any,
        model: Model,
        dataset: Dataset,
        *,
        step: int = 0,
        rows: Iterable[Mapping[str, Any]] = (),
    ):
        there = _cut(directory, step)
        self._writer, self._directory = _writer(directory), directory
        self._labels, self._shape = np.asarray(dataset.test.label), dataset.image_shape
        first = np.unique(self._labels, return_index=True)[1][:COLUMNS]
        self._images = np.asarray(dataset.test.image)[first]
        control, _ = make_control(config, num_classes=dataset.num_classes)

        def look(state: Any, images: jax.Array) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
            params = optim.eval_params(config.optim, state)["atlas"]
            weights, _ = model.normalise(params, state.spectral)
            return model(weights, images)[1].x_hat, params["encoder"]["centers"], control.weights(state.control)

        self._look = jax.jit(look)
        self._since, self._drawing_s = time.perf_counter(), 0.0
        self._undrawn: tuple[Any, ...] | None = None
        self._writer.write_hparams(
            {
                name: value if isinstance(value, (bool, int, float)) else str(value)
                for name, value in telling(config).items()
            }
        )
        for row in rows:
            if row["step"] <= step and row["step"] not in there:
                values = {name: value for name, value in row.items() if name not in ("epoch", "step")}
                self.metrics(row["epoch"], row["step"], values)

    def metrics(self, epoch: int, step: int, values: Row) -> None:
        """Every finite scalar, and the errors of all contracts as one histogram."""
        finite = {name: float(value) for name, value in values.items() if value is not None}
        self._writer.write_scalars(step, finite)
        errors = [v for name, v in finite.items() if name.startswith("contract/") and name.endswith("/error")]
        if errors:
            self._writer.write_histograms(step, {"contracts/error": np.array(errors)})

    def view(self, epoch: int, step: int, state: Any, predictions: Mapping[str, np.ndarray]) -> None:
        """Weights in force of all contracts, and of each chart; the atlas and reconstructions as images, not always."""
        x_hat, centers, weights = jax.device_get(self._look(state, jnp.asarray(self._images)))
        every = np.concatenate([np.ravel(weight) for weight in weights.values()]) if weights else np.zeros(0)
        histograms = {f"contracts/weight/{name}": weight for name, weight in weights.items() if np.ndim(weight)}
        if every.size:
            self._writer.write_histograms(step, {"contracts/weight": every, **histograms})
        self._undrawn = step, x_hat, centers, predictions["z_geo"], predictions["chart"]
        if self._drawing_s <= DRAWING * (time.perf_counter() - self._since):
            self._draw(*self._undrawn)

    def _draw(self, step: int, x_hat: np.ndarray, centers: np.ndarray, z_geo: np.ndarray, chart: np.ndarray) -> None:
        since = time.perf_counter()
        images = {"atlas": draw_atlas(z_geo, centers, self._labels, chart)[None]}
        if self._shape is not None:
            images["reconstructions"] = pairs(self._images, x_hat, self._shape)[None]
        self._writer.write_images(step, images)
        self._undrawn = None
        self._drawing_s += time.perf_counter() - since

    def finish(self, result: Mapping[str, Any]) -> None:
        """Say where it is."""
        print(f"TensorBoard: tensorboard --logdir={self._directory}")

    def close(self) -> None:
        """Draw the last pictures, flush and close."""
        if self._undrawn is not None:
            self._draw(*self._undrawn)
        self._writer.close()


def draw_atlas(z: np.ndarray, centers: np.ndarray, labels: np.ndarray, charts: np.ndarray) -> np.ndarray:
    """Test points in the first two latent coordinates, by label and by chart, with the charts' centres.

    Args:
      z: [n, D], latent units.
      centers: [N, D].
      labels: [n].
      charts: [n].

    Returns:
      [H, W, 3] uint8.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plane, marks = (np.pad(x, ((0, 0), (0, max(0, 2 - x.shape[1]))))[:, :2] for x in (z[:POINTS], centers))
    seen = np.concatenate([plane, marks])
    margin = 0.05 * np.ptp(seen, axis=0).max() + 1e-3
    (left, bottom), (right, top) = seen.min(axis=0) - margin, seen.max(axis=0) + margin
    figure = Figure(figsize=(8, 4), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for index, (colour, title) in enumerate(((labels, "label"), (charts, "chart")), start=1):
        axes = figure.add_subplot(1, 2, index)
        axes.scatter(plane[:, 0], plane[:, 1], c=colour[:POINTS], cmap="tab10", s=4, linewidths=0)
        axes.set(title=f"test points by {title}", aspect="equal", xlim=(left, right), ylim=(bottom, top))
    for chart, center in enumerate(marks):
        axes.text(center[0], center[1], str(chart), ha="center", va="center", weight="bold")
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def pairs(x: np.ndarray, x_hat: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Inputs above their reconstructions, [2 H, n W, C], in [0, 1]."""
    rows = [np.concatenate(list(images.reshape(-1, *shape)), axis=1) for images in (x, x_hat)]
    return np.clip(np.concatenate(rows), 0.0, 1.0)


def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with needing("tf", "config.log.tensorboard"):
        import tensorflow as tf
    return tf


def _cut(directory: pathlib.Path, step: int) -> set[int]:
    """`event_files.cut` of what an earlier process has written."""
    return cut(directory, step, _tensorflow().compat.v1.Event.FromString) if directory.is_dir() else set()


def _writer(directory: pathlib.Path) -> Any:
    tf = _tensorflow()
    with needing("tf", "config.log.tensorboard"):
        from clu import metric_writers
    import_matplotlib()  # here, so that the first picture's time is a picture's

    class Scalars(metric_writers.SummaryWriter):
        """One event for all scalars of a row; clu makes an operation for each, which takes longer than an epoch may."""

        def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
            proto = tf.compat.v1.Summary
            row = proto(value=[proto.Value(tag=name, simple_value=value) for name, value in scalars.items()])
            with self._summary_writer.as_default():
                tf.summary.experimental.write_raw_pb(row.SerializeToString(), step=step)

    logging.getLogger("absl").addFilter(_told_elsewhere)
    return metric_writers.AsyncWriter(Scalars(str(directory)))


def _told_elsewhere(record: logging.LogRecord) -> bool:
    """Whether a line of clu's is shown: what fails in its thread is raised again here, and `logs.Writers` says it."""
    return not str(record.msg).startswith("Error in producer thread")
