"""CIFAR-10, 32×32×3, official test split: harder than so small an atlas can hold.

  python -m topojax.data fetch cifar10
  python -m topojax.train --config=configs/cifar10.py
  python -m topojax.train --config=configs/cifar10.py:subset

Variants: none, every prepared training image; `subset`: 3,000 images of which 600 are test data.
"""

from topojax.config import default_config

VARIANTS = ("", "subset")


def get_config(variant: str = ""):
    """A wider atlas with a larger latent than the digits need."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known are {', '.join(VARIANTS[1:])}")
    c = default_config()
    c.name = "cifar10"
    c.data.name = "cifar10"
    c.model.hidden_dim, c.model.latent_dim = 128, 4
    c.train.batch_size = 256
    c.train.epochs = 40
    if variant == "subset":
        c.name = "cifar10_subset"
        c.data.num_examples = 3000
        c.data.test_fraction = 0.2
        c.train.epochs = 100
    return c
