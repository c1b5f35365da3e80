"""CIFAR-10, 32×32×3, official test split: harder than so small an atlas can hold.

  python -m topojax.data fetch cifar10
  python -m topojax.train --config=configs/cifar10.py
  python -m topojax.train --config=configs/cifar10.py:subset

Variants: none, every prepared training image; `subset`: 3,000 images of which 600 are test data.
"""

from topojax.config import default_config

VARIANTS = ("", "subset")


def get_config(variant: str = ""):
    """Latent 2 as in the digits; no labels."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known are {', '.join(VARIANTS[1:])}")
    c = default_config()
    c.name = "cifar10"
    c.data.name = "cifar10"
    c.supervised.enabled = False
    c.model.hidden_dim = 128
    c.model.transport = False
    c.augment.update(rotation=0.0, shift=0.0, scale=0.0)
    # Brightness moves a photograph further than shape moves a digit: at 1.5 all points lie on the rim, in one chart.
    c.model.ball_scale = 0.15
    c.losses.recon_weight = 100.0
    c.contracts.diversity.update(initial=6.0)
    c.train.epochs = 40
    if variant == "subset":
        c.name = "cifar10_subset"
        c.data.num_examples = 3000
        c.data.test_fraction = 0.2
        c.train.epochs = 100
    return c
