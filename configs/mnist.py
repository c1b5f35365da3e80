"""MNIST: the report's subset, 3,000 images of which 600 are test data, or all, and the official test split.

  topojax data fetch mnist
  python -m topojax.train --config=configs/mnist.py         80 s on 2 cores
  python -m topojax.train --config=configs/mnist.py:full
  python -m topojax.train --config=configs/mnist.py:unsupervised

`full` and `unsupervised` take about 4 minutes on 2 cores. What comes out, seed by seed, is in docs/results.md.

Variants: `subset` (also with no variant): at most 300 epochs of 18 batches; `full`: all images, a wider atlas;
`unsupervised`: the same, but labels reach the detached readout alone. Charts come from pairs: an example, and a
neighbour of it turned, moved and scaled, should lie in one chart, and all charts should be used.

`report_3k`, `report_adaptive` and `report_lr7` are the report's own commands (§6), with the original's sizes and rates;
they resume, also to more epochs, as `--config=configs/mnist.py:report_lr7 --config.train.epochs=2000`.
"""

from topojax.config.defaults import default_config
from topojax.config.recipes import unlabelled

VARIANTS = ("subset", "full", "unsupervised", "report_3k", "report_adaptive", "report_lr7")


def get_config(variant: str = "subset"):
    """Hidden 64, latent 2, 10 charts × 8 codes, unless the variant has its own."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known are {', '.join(VARIANTS)}")
    c = default_config()
    c.name = f"mnist_{variant}"
    c.data.name = "mnist"
    c.model.hidden_dim, c.model.latent_dim = 64, 2
    c.model.num_charts, c.model.codes_per_chart = 10, 8
    if variant in ("full", "unsupervised"):
        all_images(c)
        if variant == "unsupervised":
            unlabelled(c)
        return c
    c.data.num_examples = 3000
    c.data.test_fraction = 0.2
    if variant == "subset":
        c.train.epochs = 300
    else:
        report(c)
        {"report_3k": report_3k, "report_adaptive": report_adaptive, "report_lr7": report_lr7}[variant](c)
    return c


def all_images(c):
    """All 60,000 images, wider, in batches of 256."""
    c.model.hidden_dim = 128
    c.model.transport = False  # H² products a sample: by count two thirds of all at this width
    c.contracts.jump.enabled = False
    c.train.epochs = 80
    c.train.batch_size = 256


def report(c):
    """What the report's commands share, most of it by the original's defaults."""
    c.seed = 42
    c.model.hidden_dim, c.model.codes_per_chart = 32, 21
    c.train.epochs, c.train.batch_size = 3000, 256
    c.checkpoint.every_epochs = 50
    c.log.every_epochs = 25


def report_3k(c):
    """A rate that the governor can only lower."""
    c.optim.learning_rate = c.optim.learning_rate_max = 0.01
    c.governor.grounding_warmup = 10
    c.log.every_epochs = 100


def report_adaptive(c):
    """A small rate, a patient governor, a prior, baselines; `--config.mlflow.enabled=true` logs to its server."""
    c.baselines.autoencoder = c.baselines.vq = True
    c.optim.learning_rate = c.optim.learning_rate_max = 1e-4
    c.contracts.prior_n.enabled = c.contracts.prior_tex.enabled = True
    c.contracts.prior_n.initial = c.contracts.prior_tex.initial = 0.001
    c.governor.grounding_warmup = 200
    c.governor.unstable_patience = 10
    c.mlflow.tracking_uri = "http://127.0.0.1:5000"
    c.mlflow.experiment, c.mlflow.run_name = "topoencoder", "mnist_adaptive_lr"


def report_lr7(c):
    """A rate that starts low and may grow fiftyfold."""
    c.model.hidden_dim, c.model.codes_per_chart = 64, 8
    c.train.epochs = 1250
    c.optim.learning_rate, c.optim.learning_rate_max = 0.001, 0.05
    c.governor.grow, c.governor.shrink = 1.05, 0.8
    c.governor.stable_patience = c.governor.unstable_patience = 5
    c.governor.spike_tolerance = 0.1
    c.governor.grounding_warmup = 50
