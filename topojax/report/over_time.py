"""The atlas over several checkpoints of a run: one picture each, at the same scale, behind a slider."""

import dataclasses
import html
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from topojax.errors import UserError, tell
from topojax.report.baseline_latents import planar
from topojax.report.block import Block, Markup
from topojax.report.page import uri
from topojax.report.still import png
from topojax.report.style import INK, QUIET, colour
from topojax.scoring.run import Run
from topojax.scoring.scores import scores
from topojax.step.predict import compile_evaluate, predict
from topojax.storage.checkpoint import Checkpoints, Damaged
from topojax.types import Batch

MOST = 60
"""Pictures behind one slider."""
_POINTS = 1500


@dataclasses.dataclass(frozen=True)
class Frame:
    """One checkpoint on a split: m examples drawn, N charts, D latent."""

    epoch: int
    z: np.ndarray  # shape=(m, D)
    chart: np.ndarray  # shape=(m,)
    centers: np.ndarray  # shape=(N, D)
    numbers: dict[str, float]


def frames(run: Run, workdir: pathlib.Path, split: Batch, *, every: int) -> list[Frame]:
    """Each saved epoch that is a multiple of `every`, and the last.

    Args:
      run: restored from the last of them, whose program serves all.
      workdir: of the run.
      split: n ≥ 1 examples.
      every: epochs.

    Raises:
      UserError: `every` is not positive; more than 60 pictures.
    """
    if every < 1:
        raise UserError(f"--every={every}: must be a number of epochs, 1 or more")
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        saved = [epoch for epoch in checkpoints.epochs() if epoch <= run.epoch]
        chosen = [epoch for epoch in saved if epoch % every == 0 or epoch == run.epoch]
        if len(chosen) > MOST:
            raise UserError(f"--every={every} makes {len(chosen)} pictures, at most {MOST}: choose a larger number")
        image = np.asarray(split.image, np.float32)
        label = None if split.label is None else np.asarray(split.label)
        rows = Batch(image, np.zeros(len(image), np.int32) if label is None else label)  # type: ignore[arg-type]
        compiled = compile_evaluate(run.program.evaluate, run.state, rows)
        abstract = jax.eval_shape(run.program.init)
        found = []
        for epoch in chosen:
            try:
                state = run.state if epoch == run.epoch else checkpoints.restore(abstract, epoch)[0]
            except Damaged as damage:
                tell(f"topojax: warning: {damage.what}: the slider leaves it out")
                continue
            at = dataclasses.replace(run, state=state, epoch=epoch)
            predictions = predict(compiled, state, rows)
            drawn = drawn_of(len(image))
            centers = np.asarray(at.weights["encoder"]["centers"])
            z, chart = predictions["z_geo"][drawn], predictions["chart"][drawn]
            found.append(Frame(epoch, z, chart, centers, scores(predictions, label, prefix="")))
        return found
    finally:
        checkpoints.close()


def drawn_of(n: int) -> np.ndarray:
    """Indices of the examples in a picture."""
    return np.arange(n) if n <= _POINTS else np.linspace(0, n - 1, _POINTS).astype(np.int64)


def slider(found: Sequence[Frame], label: np.ndarray | None, charts: int) -> list[Block]:
    """The pictures behind a slider; the last one is shown first.

    Args:
      found: of `frames`, at least one.
      label: [n] of the split.
      charts: N.
    """
    flat = [_flattened(frame, found[-1]) for frame in found]
    low, high = (f(np.concatenate([np.concatenate(both) for both in flat]), axis=0) for f in (np.min, np.max))
    limits = low - 0.05 * (high - low), high + 0.05 * (high - low)
    shown = None if label is None else label[drawn_of(len(label))]
    pictures = [_picture(frame, both, limits, shown) for frame, both in zip(found, flat, strict=True)]
    caption = (
        f"The test split at {len(found)} checkpoints (epochs {', '.join(str(f.epoch) for f in found)}), all at one "
        "scale; centres with the numbers of their charts. AMI compares charts with labels."
    )
    if len(found) == 1:
        caption += " More checkpoints are kept by --config.checkpoint.keep."
    files = {f"epoch_{frame.epoch:05d}.png": data for frame, data in zip(found, pictures, strict=True)}
    return [Markup("over_time", _html(found, pictures), caption, files)]


def _flattened(frame: Frame, last: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Examples and centres in a plane: of a latent of more dimensions, that of the last checkpoint's principal axes."""
    if frame.z.shape[1] <= 2:
        return planar(frame.z), planar(frame.centers)
    origin = last.z.mean(axis=0)
    _, _, axes = np.linalg.svd(last.z - origin, full_matrices=False)
    return (frame.z - origin) @ axes[:2].T, (frame.centers - origin) @ axes[:2].T


def _picture(frame: Frame, both: tuple[np.ndarray, np.ndarray], limits: Any, label: np.ndarray | None) -> bytes:
    from matplotlib.figure import Figure

    groups = [("chart", frame.chart), *([("label", label)] if label is not None else [])]
    canvas = Figure(figsize=(4.6 * len(groups), 4.5), layout="constrained", facecolor="white")
    points, centers = both
    for axis, (name, values) in zip(np.ravel(canvas.subplots(1, len(groups))), groups, strict=True):
        axis.scatter(*points.T, c=[colour(int(v)) for v in values], s=7, alpha=0.8, linewidths=0)
        if name == "chart":
            for chart, center in enumerate(centers):
                disc = {"boxstyle": "circle,pad=0.2", "fc": "white", "ec": INK, "lw": 0.7}
                axis.annotate(str(chart), center, ha="center", va="center", fontsize=7, bbox=disc)
        axis.set(xlim=(limits[0][0], limits[1][0]), ylim=(limits[0][1], limits[1][1]), aspect="equal")
        axis.set_title(f"by {name}", fontsize=9, color=INK)
        axis.tick_params(labelsize=7, color=QUIET)
        axis.spines[["top", "right"]].set_visible(False)
    canvas.suptitle(_told(frame), fontsize=10, color=INK)
    return png(canvas)


def _told(frame: Frame) -> str:
    parts = [f"epoch {frame.epoch}"]
    for key, name in (("ami", "AMI"), ("mse", "MSE"), ("I_XK", "I(X;K)")):
        value = frame.numbers.get(key)
        if value is not None and np.isfinite(value):
            parts.append(f"{name} {value:.3g}")
    return ", ".join(parts)


def _html(found: Sequence[Frame], pictures: Sequence[bytes]) -> str:
    last = len(found) - 1
    images = "".join(
        f'<img alt="{html.escape(_told(frame))}" src="{uri(data)}"{"" if i == last else " hidden"}>'
        for i, (frame, data) in enumerate(zip(found, pictures, strict=True))
    )
    move = (
        "const f=this.closest('figure');f.querySelectorAll('img').forEach((g,i)=>g.hidden=i!=this.value);"
        "this.nextElementSibling.value=this.dataset.epochs.split(' ')[this.value]"
    )
    epochs = " ".join(str(frame.epoch) for frame in found)
    return (
        f'<label>epoch <input type="range" min="0" max="{last}" value="{last}" step="1" data-epochs="{epochs}" '
        f'oninput="{html.escape(move)}" style="width:60%;vertical-align:middle"> '
        f"<output>{found[-1].epoch}</output></label><div>{images}</div>"
    )
