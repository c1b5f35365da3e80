"""How far a classifying head may be trusted: sets that hold the class, what is left out when it may abstain, strangers.

Labels are used to calibrate and to score; the model has not seen those of the split.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Conformal:
    """Split-conformal prediction sets on half of a split, calibrated on the other (Vovk et al. 2005; Lei et al. 2018).

    A set holds every class whose probability is at least 1 − q, q the ⌈(n + 1)(1 − α)⌉-th least of 1 − p(y) over the n
    calibration examples. Whatever the model, P(y in set) ≥ 1 − α over draws of both halves; within one chart nothing is
    promised, which is why coverage is told chart by chart.

    Attributes:
      alpha: share of examples whose class may be missing.
      threshold: 1 − q: least probability of a class in a set; −inf where n is too small for α.
      calibrated, tested: indices of the two halves.
      covered: [m] bool, of the tested half: the set holds the class.
      size: [m] int, classes in the set.
    """

    alpha: float
    threshold: float
    calibrated: np.ndarray
    tested: np.ndarray
    covered: np.ndarray
    size: np.ndarray

    def by_group(self, group: np.ndarray, groups: int) -> np.ndarray:
        """[groups, 3]: examples, coverage and mean size of the sets within each group; NaN where it has none.

        Args:
          group: [n] int, of every example of the split.
          groups: how many there are.
        """
        its = np.asarray(group)[self.tested]
        out = np.full((groups, 3), np.nan)
        for k in range(groups):
            at = its == k
            out[k, 0] = at.sum()
            if at.any():
                out[k, 1:] = self.covered[at].mean(), self.size[at].mean()
        return out


def conformal(probability: np.ndarray, labels: np.ndarray, *, alpha: float = 0.1, seed: int = 0) -> Conformal:
    """Calibrate on a random half of a split, and test on the other.

    Args:
      probability: [n, C].
      labels: [n] int, n ≥ 2.
      alpha: in (0, 1).
      seed: of the halves.

    Raises:
      ValueError: α outside (0, 1), or fewer than two examples.
    """
    if not 0 < alpha < 1 or len(labels) < 2:
        raise ValueError(f"alpha = {alpha} must lie in (0, 1), and {len(labels)} examples be two at least")
    order = np.random.default_rng(seed).permutation(len(labels))
    calibrated, tested = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    score = 1.0 - probability[calibrated, labels[calibrated]]
    rank = int(np.ceil((len(score) + 1) * (1.0 - alpha)))
    threshold = 1.0 - np.sort(score)[rank - 1] if rank <= len(score) else -np.inf
    # The score of a class at its own threshold is not above it, however 1 − p was rounded.
    held = 1.0 - probability[tested] <= 1.0 - threshold
    covered = held[np.arange(len(tested)), labels[tested]]
    return Conformal(alpha, float(threshold), calibrated, tested, covered, held.sum(axis=1))


def selective(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy where a head answers only when it is most confident (El-Yaniv & Wiener 2010).

    Args:
      confidence: [n].
      correct: [n] bool.

    Returns:
      (share of the examples that are answered [n], 1/n to 1; accuracy among them [n]).
    """
    order = np.argsort(-confidence, kind="stable")
    count = np.arange(1, len(order) + 1)
    return count / len(order), np.cumsum(np.asarray(correct, float)[order]) / count


def entropy(router: np.ndarray) -> np.ndarray:
    """Score of a stranger, H(K|x) of the router's weights [n, N] in nats: [n]."""
    return -np.sum(router * np.log(router + 1e-12), axis=-1)


def auroc(known: np.ndarray, strange: np.ndarray) -> float:
    """Probability that a stranger scores higher than a known example, ties half: the area under the ROC curve."""
    values = np.concatenate([known, strange])
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    above = rank[len(known) :].sum() - len(strange) * (len(strange) + 1) / 2
    return float(above / (len(known) * len(strange)))


def scrambled(image: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Strangers with the statistics of the data: every input's numbers in another order, one for all inputs, [n, X].

    Each value still occurs where some input has it nowhere: of images the histogram of grey is kept and the form lost.
    """
    return np.asarray(image)[:, np.random.default_rng(seed).permutation(image.shape[1])]
