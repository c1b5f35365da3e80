"""How good the baselines of a run are: clustered where they were trained, measured on the split.

The original fitted k-means on the test set and took a code's index modulo N for a cluster; here clusters are those of
the training latents, as many as the atlas has charts, and no label takes part in making them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas.baselines import Baselines, BaselineState
from topojax.data.padding import BATCH_SIZE, in_batches
from topojax.data.rows import Rows
from topojax.scoring.scores import Number, calibration, calibration_error, clustering, effective_rank, entropy, labelled
from topojax.storage.runtime import compile_program
from topojax.types import Batch

RESTARTS = 5
"""Of k-means."""

ABOUT: dict[str, Number] = {
    "mse": Number("mean squared error, mean over inputs and examples"),
    "ami": Number(
        "adjusted mutual information of labels and N k-means clusters of the latent, fitted on train", "score"
    ),
    "nmi": Number("normalised mutual information of the same", "score"),
    "ari": Number("adjusted Rand index of the same", "score"),
    "acc_matched": Number("accuracy of the best one-to-one match of the same", "score"),
    "acc_probe": Number("accuracy of the detached probe D-H-C", "head"),
    "ece_probe": Number("expected calibration error of the detached probe, 15 bins", "head"),
    "effective_rank": Number("exp H of the normalised singular values of the centred latent, at most D"),
    "ami_codes": Number("adjusted mutual information of labels and codes, as many clusters as codes in use", "score"),
    "acc_majority": Number("accuracy of a code's majority label in train", "score"),
    "perplexity": Number("exp H of the codes chosen"),
    "codes_used": Number("codes that an example of the split chooses"),
}
"""Every number of a baseline."""


def baseline_scores(
    baselines: Baselines,
    states: dict[str, BaselineState],
    predictions: dict[str, np.ndarray],
    labels: np.ndarray | None,
    train: Batch,
    *,
    clusters: int,
    seed: int,
) -> dict[str, float]:
    """Numbers of `ABOUT` for every baseline, under `ae/mse` and so on; NaN where labels are wanted and there are none.

    Args:
      baselines: of the run.
      states: trained.
      predictions: of the split (`predict.predict`).
      labels: of the split, [n], or None.
      train: what they were trained on.
      clusters: of k-means, N.
      seed: of k-means.
    """
    image = train.image if isinstance(train.image, Rows) else np.asarray(train.image, np.float32)
    latents = _latents(baselines, states, image)
    out: dict[str, float] = {}
    for name, (z, code) in latents.items():
        of = {key.partition("/")[2]: value for key, value in predictions.items() if key.startswith(f"{name}/")}
        found = {
            "mse": np.mean(of["squared_error"], dtype=np.float64),
            **clustering(fit_clusters(z, clusters, seed)(of["z"]), labels),
            **_probe(of, labels),
            "effective_rank": effective_rank(of["z"]),
        }
        if "code" in of:
            found["ami_codes"] = clustering(of["code"], labels)["ami"]
            found["acc_majority"] = _majority_accuracy(code, train.label, of["code"], labels)
            counts = np.bincount(of["code"])
            found["perplexity"] = np.exp(entropy(counts / counts.sum()))
            found["codes_used"] = float(np.count_nonzero(counts))
        out |= {f"{name}/{key}": float(value) for key, value in found.items()}
    return out


def _probe(of: dict[str, np.ndarray], labels: np.ndarray | None) -> dict[str, float]:
    if labels is None:
        return {"acc_probe": np.nan, "ece_probe": np.nan}
    prediction, probability, labels = labelled(labels, of["probe_prediction"], of["probe_probability"])
    return {
        "acc_probe": float(np.mean(prediction == labels)),
        "ece_probe": calibration_error(calibration(probability, labels)),
    }


def fit_clusters(points: np.ndarray, clusters: int, seed: int, restarts: int = RESTARTS) -> Any:
    """k-means: a function from points [n, D] to clusters [n]; of fewer distinct points than clusters, each is one.

    Args:
      points: [n, D], what it is fitted on.
      clusters: how many.
      seed: equal seeds, equal clusters.
      restarts: the best of so many is kept.
    """
    from sklearn.cluster import KMeans

    points = points.astype(np.float64)
    distinct = min(clusters, len(np.unique(points, axis=0)))
    fitted = KMeans(distinct, n_init=restarts, random_state=seed).fit(points)
    return lambda new: fitted.predict(new.astype(np.float64))


def _latents(
    baselines: Baselines, states: dict[str, BaselineState], image: np.ndarray | Rows
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What the decoder is given for each example [n, D], and its code [n], of every baseline."""
    size = min(BATCH_SIZE, len(image))
    shape = jax.ShapeDtypeStruct((size, image.shape[1]), jnp.float32)
    encode = compile_program(jax.jit(baselines.encode).lower(states, shape))
    found = in_batches(lambda x: encode(states, x), image, size)
    return {name: (e.z_q, e.code) for name, e in found.items()}


def _majority_accuracy(train_code: np.ndarray, train_label: Any, code: np.ndarray, labels: np.ndarray | None) -> float:
    """Accuracy of each code's most frequent label in train; a code that train does not choose is never right."""
    if labels is None or train_label is None:
        return float("nan")
    code, labels = labelled(labels, code)
    train_code, train_label = labelled(np.asarray(train_label), train_code)
    counts = np.zeros((max(train_code.max(), code.max()) + 1, train_label.max() + 1), np.int64)
    np.add.at(counts, (train_code, train_label), 1)
    guess = np.where(counts.sum(axis=1) > 0, counts.argmax(axis=1), -1)
    return float(np.mean(guess[code] == labels))
