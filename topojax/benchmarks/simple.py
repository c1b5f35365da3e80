"""Simple things that an atlas must beat, measured by the same evaluator: no atlas, no training, no labels but to score.

  python -m topojax.benchmarks.simple --config=configs/mnist.py:full

On the data's own splits, fitted on train and measured on test: mean squared error of predicting the mean input, of two
principal components, and of k-means' centres; and how k-means of the pixels agrees with the labels, over twenty starts
on 6,000 training examples, because its local optima differ: MNIST's official test split gives AMI 0.47 to 0.53.
"""

import statistics
import sys
from typing import Any

import numpy as np

from topojax.errors import run_process

STARTS = 20
EXAMPLES = 6000
"""That one start of k-means is fitted on, at most."""


def reconstruction(
    train: np.ndarray, test: np.ndarray, *, components: int, centers: int, seed: int
) -> dict[str, float]:
    """Mean squared error on test of three reconstructions fitted on train.

    Args:
      train: [m, X].
      test: [n, X].
      components: of the principal component analysis.
      centers: of k-means, in mini-batches.
      seed: of k-means.
    """
    from sklearn.cluster import MiniBatchKMeans

    train, test = train.astype(np.float64), test.astype(np.float64)
    mean = train.mean(axis=0)
    basis = np.linalg.eigh(np.cov(train.T))[1][:, -components:]
    centered = test - mean
    fitted = MiniBatchKMeans(centers, n_init=3, random_state=seed).fit(train)
    rebuilt = {
        "mean": mean[None],
        f"pca-{components}": mean + centered @ basis @ basis.T,
        f"k-means-{centers}": fitted.cluster_centers_[fitted.predict(test)],
    }
    return {name: float(np.mean((x_hat - test) ** 2)) for name, x_hat in rebuilt.items()}


def agreement(train: np.ndarray, test: np.ndarray, labels: np.ndarray, *, clusters: int) -> list[dict[str, float]]:
    """How k-means of the inputs agrees with the labels of test: `scores.clustering`, one for each start.

    Args:
      train: [m, X]; each start is fitted on 6,000 of them, at most, drawn by its seed.
      test: [n, X].
      labels: [n].
      clusters: how many.
    """
    from topojax.scoring.baseline_scores import fit_clusters
    from topojax.scoring.scores import clustering

    found = []
    for seed in range(STARTS):
        chosen = np.random.default_rng(seed).permutation(len(train))[:EXAMPLES]
        found.append(clustering(fit_clusters(train[chosen], clusters, seed, restarts=1)(test), labels))
    return found


def main(config: Any) -> None:
    """Print both tables."""
    from topojax.data import sets
    from topojax.tracking.console import columns, number

    dataset = sets.load(config.data, seed=config.seed)
    train, test, labels = dataset.train.image, dataset.test.image, np.asarray(dataset.test.label)
    codes = config.model.num_charts * config.model.codes_per_chart
    errors = reconstruction(
        np.asarray(train), np.asarray(test), components=config.model.latent_dim, centers=codes, seed=config.seed
    )
    print(columns([("test MSE", ""), *((name, number(value)) for name, value in errors.items())]))
    found = agreement(np.asarray(train), np.asarray(test), labels, clusters=config.model.num_charts)
    rows: list[tuple[str, ...]] = [("k-means of the inputs", "median", "least", "most")]
    for name in found[0]:
        values = [one[name] for one in found]
        rows.append((name, *(number(f(values)) for f in (statistics.median, min, max))))
    print(f"\n{columns(rows)}")


def _command() -> int:
    from topojax.config import command_line  # not before `run_process` stands: it takes seconds to import

    return command_line.carry_out(main, __doc__ or "", sys.argv)


if __name__ == "__main__":
    run_process(_command)
