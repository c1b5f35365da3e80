"""How good an atlas is on a split: reconstruction, charts against labels, information, accuracies."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from topojax.types import Array, Batch

BATCH_SIZE = 512


def predict(
    evaluate: Callable[[Any, Batch], Mapping[str, Array]], state: Any, split: Batch, size: int = BATCH_SIZE
) -> dict[str, np.ndarray]:
    """Evaluate a whole split in batches of one shape; the last one is padded and the padding dropped.

    Args:
      evaluate: `Program.evaluate`, jitted: (state, batch [size]) → arrays of one row for each example.
      state: the training state; not changed.
      split: n ≥ 1 examples.
      size: examples in a batch; a smaller split is one batch of its own size.

    Returns:
      The same names, n rows each, in the order of the split.
    """
    n = len(split.label)
    size = min(size, n)
    parts = []
    for start in range(0, n, size):
        rows = np.minimum(np.arange(start, start + size), n - 1)
        out = jax.device_get(evaluate(state, Batch(split.image[rows], split.label[rows])))
        parts.append({name: value[: n - start] for name, value in out.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def scores(predictions: Mapping[str, np.ndarray], labels: np.ndarray, prefix: str = "test/") -> dict[str, float]:
    """What a table of results is made of.

    Args:
      predictions: of `predict`: chart, code, router [n, N], squared_error, consistency, readout_prediction,
        and class_prediction where labels trained the charts.
      labels: [n].
      prefix: of the names.

    Returns:
      mse: mean squared error, mean over inputs and examples.
      ami, nmi: adjusted and normalised mutual information of charts and labels.
      acc_supervised: accuracy of argmax Σ_k w_k P(y|k); left out where labels did not train the charts.
      acc_readout: accuracy of the detached readout, which always sees labels.
      acc_matched: accuracy of the best one-to-one match of charts and labels (clustering accuracy).
      H_K, H_K_given_X, I_XK: nats, of the router's weights over the split; I = H(K) − H(K|X).
      perplexity: exp H of the (chart, code) pairs chosen, at most N K.
      consistency: mean divergence of the decoder's routing from the encoder's, nats.
    """
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

    labels = np.asarray(labels)
    chart, router = predictions["chart"], predictions["router"].astype(np.float64)
    h_k, h_k_given_x = _entropy(router.mean(axis=0)), _entropy(router)
    pairs = np.unique(np.stack([chart, predictions["code"]]), axis=1, return_counts=True)[1]
    out = {
        "mse": np.mean(predictions["squared_error"], dtype=np.float64),
        "ami": adjusted_mutual_info_score(labels, chart),
        "nmi": normalized_mutual_info_score(labels, chart),
        "acc_readout": np.mean(predictions["readout_prediction"] == labels),
        "acc_matched": matched_accuracy(chart, labels),
        "I_XK": max(h_k - h_k_given_x.mean(), 0.0),
        "H_K": h_k,
        "H_K_given_X": h_k_given_x.mean(),
        "perplexity": np.exp(_entropy(pairs / len(labels))),
        "consistency": np.mean(predictions["consistency"], dtype=np.float64),
    }
    if "class_prediction" in predictions:
        out["acc_supervised"] = np.mean(predictions["class_prediction"] == labels)
    return {prefix + name: float(value) for name, value in out.items()}


def matched_accuracy(chart: np.ndarray, labels: np.ndarray) -> float:
    """Largest share of examples whose chart is matched with their label, each with at most one of the other.

    Args:
      chart: [n] ≥ 0.
      labels: [n] ≥ 0.
    """
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((chart.max() + 1, labels.max() + 1))
    np.add.at(counts, (chart, labels), 1)
    rows, columns = linear_sum_assignment(-counts)
    return float(counts[rows, columns].sum() / len(labels))


def _entropy(p: np.ndarray) -> np.ndarray:
    """−Σ p log p over the last axis, nats, with 0 log 0 = 0."""
    return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)
