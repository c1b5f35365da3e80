"""MNIST: the report's subset, 3,000 images of which 600 are test data, or all, and the official test split.

  python -m topojax.data fetch mnist
  python -m topojax.train --config=configs/mnist.py         43 s on 2 cores; test AMI 0.88, accuracy 0.94, MSE 0.044
  python -m topojax.train --config=configs/mnist.py:full

Variants: `subset` (also with no variant): 200 epochs of 18 batches; `full`: 20 epochs of 234.
"""

from topojax.config import default_config

VARIANTS = ("subset", "full")


def get_config(variant: str = "subset"):
    """Hidden 64, latent 2, 10 charts × 8 codes: the report's sizes."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known are {', '.join(VARIANTS)}")
    c = default_config()
    c.name = f"mnist_{variant}"
    c.data.name = "mnist"
    c.model.hidden_dim, c.model.latent_dim = 64, 2
    c.model.num_charts, c.model.codes_per_chart = 10, 8
    if variant == "subset":
        c.data.num_examples = 3000
        c.data.test_fraction = 0.2
        c.train.epochs = 200
    else:
        c.train.epochs = 20
        c.train.batch_size = 256
        c.log.every_epochs = 1
        c.checkpoint.every_epochs = 5
    return c
