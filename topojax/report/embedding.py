"""A trained atlas on its test split: everything that figures of the latent are drawn from, computed once."""

import dataclasses
import functools
from typing import Any

import numpy as np

from topojax.scoring.run import Run
from topojax.scoring.split import Evaluation, evaluate_run, known_labels
from topojax.types import Batch

MODELS = {"atlas": "atlas", "ae": "autoencoder", "vq": "VQ"}
"""What figures call the models of a run."""
POINTS = 2000
"""Most points drawn in the atlas; of more examples, as many evenly spaced ones are."""


@dataclasses.dataclass(frozen=True)
class Embedding:
    """n examples of a split, seen by one checkpoint.

    Attributes:
      run: restored.
      evaluation: of the split: its numbers and tables are the ones every figure shows.
      image: [n, X].
      label: [n], None where there are none.
      encoding: of all examples.
      x_hat: [n, X], the main reconstruction (`Run.reconstruct`).
      drawn: [m] indices of the examples drawn as points.
    """

    run: Run
    evaluation: Evaluation
    image: np.ndarray
    label: np.ndarray | None
    encoding: Any  # an Encoding of NumPy arrays
    x_hat: np.ndarray
    drawn: np.ndarray

    @property
    def charts(self) -> int:
        """N."""
        return self.run.config.model.num_charts

    @property
    def codes(self) -> int:
        """K."""
        return self.run.config.model.codes_per_chart

    @property
    def error(self) -> np.ndarray:
        """shape=(n,): squared error of each example, mean over inputs."""
        return self.evaluation.predictions["squared_error"]

    @functools.cached_property
    def chart(self) -> np.ndarray:
        """shape=(n,): chart of each example."""
        return self.evaluation.predictions["chart"]

    @functools.cached_property
    def population(self) -> np.ndarray:
        """shape=(N,): examples of each chart."""
        return self.evaluation.tables["code_usage"].sum(axis=1)

    @functools.cached_property
    def projection(self) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        """(origin [D], axes [D, d], their names): the identity up to three dimensions, else two principal axes."""
        z = self.encoding.z_geo
        latent = z.shape[1]
        if latent <= 3:
            return (
                np.zeros(latent, np.float32),
                np.eye(latent, dtype=np.float32),
                ("z<sub>1</sub>", "z<sub>2</sub>", "z<sub>3</sub>")[:latent],
            )
        origin = z.mean(axis=0)
        _, strength, axes = np.linalg.svd(z - origin, full_matrices=False)
        share = strength**2 / max(float(np.sum(strength**2)), 1e-12)
        return origin, axes[:2].T, tuple(f"principal axis {i + 1} ({share[i]:.0%})" for i in range(2))

    def project(self, z: np.ndarray) -> np.ndarray:
        """Latent points [..., D] as drawn [..., d]; a latent of one dimension lies on the first of two axes."""
        origin, axes, _ = self.projection
        out = (z - origin) @ axes
        return np.concatenate([out, np.zeros_like(out)], axis=-1) if out.shape[-1] == 1 else out


def embed(run: Run, split: Batch, train: Batch | None) -> Embedding:
    """Evaluate, encode and decode a split.

    Args:
      run: restored.
      split: n ≥ 1 examples; label None: nothing is coloured by it.
      train: what baselines are clustered on.
    """
    run, image = run.prepared, np.asarray(split.image, np.float32)
    encoding = run.encode_rows(image)
    n = len(image)
    return Embedding(
        run=run,
        evaluation=evaluate_run(run, split, train),
        image=image,
        label=known_labels(split),
        encoding=encoding,
        x_hat=run.reconstruct_rows(image),
        drawn=np.arange(n) if n <= POINTS else np.linspace(0, n - 1, POINTS).astype(np.int64),
    )
