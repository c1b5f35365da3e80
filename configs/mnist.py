"""MNIST: the report's subset, 3,000 images of which 600 are test data, or all, and the official test split.

  python -m topojax.data fetch mnist
  python -m topojax.train --config=configs/mnist.py         43 s on 2 cores; test AMI 0.88, accuracy 0.94, MSE 0.044
  python -m topojax.train --config=configs/mnist.py:full
  python -m topojax.train --config=configs/mnist.py:unsupervised

Variants: `subset` (also with no variant): 200 epochs of 18 batches; `full`: all images, a wider atlas; `unsupervised`:
the same, but labels reach the detached readout alone. Charts come from pairs: an example, and a neighbour of it turned,
moved and scaled, should lie in one chart, and all charts should be used.
"""

from topojax.config import charts_from_pairs, default_config

VARIANTS = ("subset", "full", "unsupervised")


def get_config(variant: str = "subset"):
    """Latent 2, 10 charts × 8 codes, the report's sizes; hidden 64, and 128 where there are 60,000 images."""
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
        return c
    c.model.hidden_dim = 128
    c.model.transport = False  # two of three parts of a step at this width, for no better charts
    c.augment.update(rotation=0.0, shift=0.0, scale=0.0)  # its blur is learned: of 60,000 images, none are short
    c.losses.recon_weight = 100.0
    c.contracts.route.initial = 4.0
    c.contracts.jump.enabled = False
    c.train.epochs = 20  # longer, the routing of one class or another comes apart in spikes while the rate falls
    c.train.batch_size = 256
    c.log.every_epochs = 5
    c.checkpoint.every_epochs = 10
    if variant == "unsupervised":
        c.train.epochs = 40
        charts_from_pairs(c, neighbours=8, strength=4.0)
        c.losses.recon_weight = 50.0
        c.view.update(rotation=0.3, shift=2.0, scale=0.2, noise_std=0.0)
    return c
