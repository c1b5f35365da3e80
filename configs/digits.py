"""The 1,797 digits of scikit-learn, 8×8, offline: 1,438 to train on, 359 to test; labels used.

  python -m topojax.train --config=configs/digits.py        about 20 s on 2 cores
  python -m topojax.train --config=configs/digits.py:unsupervised

What comes out, seed by seed, is in docs/results.md.

Variants: none, or `unsupervised`, in which labels reach the detached readout alone: an example and a view of one of its
nearest neighbours should lie in one chart, and all charts should be used.
"""

from topojax.config.defaults import default_config
from topojax.config.recipes import unlabelled

VARIANTS = ("", "unsupervised")


def get_config(variant: str = ""):
    """Defaults, with labels or without."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known are {', '.join(VARIANTS[1:])}")
    c = default_config()
    if variant == "unsupervised":
        c.name = "digits_unsupervised"
        unlabelled(c)
    return c
