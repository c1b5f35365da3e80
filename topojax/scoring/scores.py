"""Numbers of a split from what an atlas said of its examples: reconstruction, charts against labels, information."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

BINS = 15
"""Of calibration: equal widths of confidence."""


class Number(NamedTuple):
    """What a number is.

    Attributes:
      about: in words, with its unit where it has one.
      labels: which labels it needs whatever trained the atlas: `none`; `score`, those of the split, to compare with;
        `head`, those that a detached head was trained with; `train`, those that the charts were trained with.
    """

    about: str
    labels: str = "none"


NUMBERS: dict[str, Number] = {
    "mse": Number(
        "mean squared error of the reconstruction from the places in all charts, mixed by the encoder's routing"
    ),
    "mse_by_chart": Number("the same, drawn by the encoder's strongest chart alone, at the place in it"),
    "mse_dream": Number("the same, decoded from that place alone, by the decoder's own routing"),
    "mse_worst": Number("largest error of one example, mean over inputs, of the three"),
    "chart_agreement": Number("share of examples whose strongest chart is the decoder's at their place, too"),
    "ami": Number("adjusted mutual information of charts and labels", "score"),
    "nmi": Number("normalised mutual information of charts and labels", "score"),
    "ari": Number("adjusted Rand index of charts and labels", "score"),
    "acc_matched": Number("accuracy of the best one-to-one match of charts and labels (Hungarian)", "score"),
    "acc_supervised": Number("accuracy of argmax Σ_k w_k P(y|k)", "train"),
    "acc_readout": Number("accuracy of the detached readout", "head"),
    "ece_supervised": Number("expected calibration error of Σ_k w_k P(y|k), 15 bins", "train"),
    "ece_readout": Number("expected calibration error of the detached readout, 15 bins", "head"),
    "I_XK": Number("I(X;K) = H(K) − H(K|X) of the router's weights over the split, nats"),
    "H_K": Number("H(K) of the router's mean weights, nats"),
    "H_K_given_X": Number("H(K|X), mean entropy of the router's weights, nats"),
    "perplexity": Number("exp H of the (chart, code) pairs chosen, at most N K"),
    "perplexity_chart": Number("exp H of the charts chosen, at most N"),
    "perplexity_code": Number("exp H(code | chart) of the codes chosen, at most K"),
    "charts_used": Number("charts that an example of the split is routed to"),
    "codes_used": Number("(chart, code) pairs that an example of the split chooses, of N K"),
    "consistency": Number("mean divergence of the decoder's routing from the encoder's, nats"),
    "effective_rank": Number("exp H of the normalised singular values of the centred latent, at most D"),
}
"""Every number of `scores`."""


def scores(predictions: Mapping[str, np.ndarray], labels: np.ndarray | None, prefix: str = "test/") -> dict[str, float]:
    """What a table of results is made of: `NUMBERS`, as far as they can be had.

    Args:
      predictions: of `predict`: chart, code, router [n, N], z_geo [n, D], squared_error, consistency,
        readout_prediction, readout_probability [n, C], and class_prediction, class_probability where labels trained the
        charts.
      labels: [n], −1 where one is missing; None where there are none: what is compared with them is NaN.
      prefix: of the names.

    Returns:
      Name → number. acc_supervised and ece_supervised are left out where labels did not train the charts. Of a split
      of one class, ami, nmi and ari are NaN: there is nothing to tell apart.
    """
    chart, router = predictions["chart"], predictions["router"].astype(np.float64)
    h_k, h_k_given_x = entropy(router.mean(axis=0)), entropy(router)
    pairs, charts = _shares(np.stack([chart, predictions["code"]])), _shares(chart[None])
    h_pair, h_chart = entropy(pairs), entropy(charts)
    out = {
        "mse": np.mean(predictions["squared_error"], dtype=np.float64),
        "mse_by_chart": np.mean(predictions["squared_error_by_chart"], dtype=np.float64),
        "mse_dream": np.mean(predictions["squared_error_dream"], dtype=np.float64),
        "mse_worst": max(predictions[f"squared_error{of}"].max() for of in ("", "_by_chart", "_dream")),
        "chart_agreement": np.mean(predictions["decoder_chart"] == chart),
        **clustering(chart, labels),
        **_head(predictions, "readout", labels),
        "I_XK": max(h_k - h_k_given_x.mean(), 0.0),
        "H_K": h_k,
        "H_K_given_X": h_k_given_x.mean(),
        "perplexity": np.exp(h_pair),
        "perplexity_chart": np.exp(h_chart),
        "perplexity_code": np.exp(h_pair - h_chart),
        "charts_used": len(charts),
        "codes_used": len(pairs),
        "consistency": np.mean(predictions["consistency"], dtype=np.float64),
        "effective_rank": effective_rank(predictions["z_geo"]),
    }
    if "class_prediction" in predictions:
        out |= _head(predictions, "class", labels, name="supervised")
    return {prefix + name: float(out[name]) for name in NUMBERS if name in out}


def clustering(cluster: np.ndarray, labels: np.ndarray | None) -> dict[str, float]:
    """How clusters agree with labels: ami, nmi, ari and acc_matched.

    Args:
      cluster: [n] ≥ 0.
      labels: [n], or None: all are NaN; −1 is left out. Where all labels are equal, the first three are NaN.
    """
    out = dict.fromkeys(("ami", "nmi", "ari", "acc_matched"), float("nan"))
    if labels is None:
        return out
    cluster, labels = labelled(np.asarray(labels), cluster)
    if not len(labels):
        return out
    out["acc_matched"] = matched_accuracy(cluster, labels)
    if (labels != labels[0]).any():
        from sklearn import metrics

        out["ami"] = float(metrics.adjusted_mutual_info_score(labels, cluster))
        out["nmi"] = float(metrics.normalized_mutual_info_score(labels, cluster))
        out["ari"] = float(metrics.adjusted_rand_score(labels, cluster))
    return out


def matched_accuracy(cluster: np.ndarray, labels: np.ndarray) -> float:
    """Largest share of examples whose cluster is matched with their label, each with at most one of the other.

    Args:
      cluster: [n] ≥ 0.
      labels: [n] ≥ 0.
    """
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((cluster.max() + 1, labels.max() + 1))
    np.add.at(counts, (cluster, labels), 1)
    rows, columns = linear_sum_assignment(-counts)
    return float(counts[rows, columns].sum() / len(labels))


def calibration(probability: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Confidence against accuracy, in `BINS` equal bins of confidence (Guo et al. 2017).

    Args:
      probability: [n, C], rows sum to 1; confidence is a row's maximum.
      labels: [n].

    Returns:
      [BINS, 3]: examples, their mean confidence, their accuracy; NaN, NaN where there are none.
    """
    confidence = probability.max(axis=1).astype(np.float64)
    correct = probability.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)  # of (i / BINS, (i + 1) / BINS]
    count = np.bincount(bins, minlength=BINS)
    sums = [np.bincount(bins, weights=value, minlength=BINS) for value in (confidence, correct)]
    means = [np.where(count > 0, total / np.maximum(count, 1), np.nan) for total in sums]
    return np.stack([count, *means], axis=1)


def calibration_error(table: np.ndarray) -> float:
    """ECE = Σ_bins (count / n) |accuracy − confidence| of `calibration`'s table."""
    count, confidence, accuracy = table[table[:, 0] > 0].T
    return float(np.sum(count * np.abs(accuracy - confidence)) / count.sum())


def effective_rank(z: np.ndarray) -> float:
    """Exp H(σ / Σσ), σ the singular values of the centred points (Roy & Vetterli 2007).

    NaN where all points coincide, or one is not finite.

    Args:
      z: [n, D].
    """
    if not np.isfinite(z).all():
        return float("nan")
    values = np.linalg.svd(z.astype(np.float64) - z.mean(axis=0, dtype=np.float64), compute_uv=False)
    total = values.sum()
    return float(np.exp(entropy(values / total))) if total > 0 else float("nan")


def entropy(p: np.ndarray) -> np.ndarray:
    """−Σ p log p over the last axis, nats, with 0 log 0 = 0."""
    return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)


def _head(
    predictions: Mapping[str, np.ndarray], head: str, labels: np.ndarray | None, name: str = ""
) -> dict[str, float]:
    """Accuracy and calibration of a classifying head."""
    name = name or head
    if labels is None or not (labels >= 0).any():
        return {f"acc_{name}": float("nan"), f"ece_{name}": float("nan")}
    prediction, probability, labels = labelled(
        labels, predictions[f"{head}_prediction"], predictions[f"{head}_probability"]
    )
    return {
        f"acc_{name}": float(np.mean(prediction == labels)),
        f"ece_{name}": calibration_error(calibration(probability, labels)),
    }


def labelled(labels: np.ndarray, *rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """(*rows, labels) of the examples that have a label, ≥ 0."""
    known = labels >= 0
    return (*rows, labels) if known.all() else (*(row[known] for row in rows), labels[known])


def _shares(symbols: np.ndarray) -> np.ndarray:
    """Share of each distinct column of [m, n]."""
    return np.unique(symbols, axis=1, return_counts=True)[1] / symbols.shape[1]
