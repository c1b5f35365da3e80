"""After DeepOBS' `mnist_vae` from 36 initial rates: a variational autoencoder whose network is made small for a CPU.

  ℓ = ‖x̂ − x‖² + KL(𝒩(μ, σ²) ‖ 𝒩(0, 1))        8 latent dimensions, batches of 64

As there: loss, batch, latent space, activations, the decoder's dense layers of 24 and 49 units, dropout of 0.2,
initialisation. Not as there, where a run of each arm from each rate takes days on two cores: a dense layer of 64 units
stands for three layers of 64 convolutions on either side, and 2,048 images in 30 epochs for 60,000 in 50. So the
published 27.831 says nothing here, and the bar is our own tuned Adam with the same favours. The images that judge are
held out of the training images.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from topojax.benchmarks.external import starts
from topojax.benchmarks.external.jobs import Job, Records
from topojax.benchmarks.external.starts import Task, glorot
from topojax.config.defaults import default_config
from topojax.data import sets
from topojax.types import Array

IMAGES, HELD_OUT, BATCH, EPOCHS = 2048, 1000, 64, 30
PIXELS, HIDDEN, LATENT, DROPPED = 784, 64, 8, 0.2
SEEDS, TUNED_SEEDS = 1, 10
SHAPES = {
    "encoder": (PIXELS, HIDDEN),
    "mean": (HIDDEN, LATENT),
    "twice_log_scale": (HIDDEN, LATENT),
    "decoder_1": (LATENT, 24),
    "decoder_2": (24, 49),
    "decoder_3": (49, HIDDEN),
    "image": (HIDDEN, PIXELS),
}

Layers = dict[str, dict[str, Array]]


@functools.cache
def task() -> Task:
    """The problem.

    Raises:
      UserError: MNIST is not there.
    """
    data = default_config().data
    data.name, data.num_examples, data.test_fraction = "mnist", IMAGES + HELD_OUT, HELD_OUT / (IMAGES + HELD_OUT)
    found = sets.load(data, seed=0)
    train, held_out = jnp.asarray(found.train.image), jnp.asarray(found.test.image)

    def batch_loss(layers: Layers, seed: Array, k: Array) -> Array:
        key = jax.random.fold_in(jax.random.key(seed), k)
        epoch, place = k // (IMAGES // BATCH), k % (IMAGES // BATCH)
        order = jax.random.permutation(jax.random.fold_in(jax.random.key(~seed), epoch), train.shape[0])
        batch = jax.lax.dynamic_slice(order, (place * BATCH,), (BATCH,))
        return loss(layers, train[batch], key, DROPPED)

    def judge(layers: Layers) -> Array:
        return loss(layers, held_out, jax.random.key(0), 0.0)

    return Task(EPOCHS * (IMAGES // BATCH), begin, batch_loss, judge)


def begin(seed: Array) -> Layers:
    """A fresh network."""
    key = jax.random.fold_in(jax.random.key(seed), 2**31 - 1)
    keys = jax.random.split(key, len(SHAPES))
    return {name: glorot(one, *shape) for one, (name, shape) in zip(keys, SHAPES.items(), strict=True)}


def loss(layers: Layers, images: Array, key: Array, dropped: float) -> Array:
    """Mean over images of squared error and divergence, nats where an error of 1 is one.

    Args:
      layers: of `begin`.
      images: shape (n, 784), in [0, 1].
      key: of latent noise and dropout.
      dropped: fraction of the hidden units that is left out.
    """
    keys = jax.random.split(key, 3)

    def dense(name: str, x: Array) -> Array:
        return x @ layers[name]["kernel"] + layers[name]["bias"][None]

    def leaky(x: Array) -> Array:
        return jnp.maximum(x, 0.3 * x)

    def thinned(key: Array, x: Array) -> Array:
        kept = jax.random.bernoulli(key, 1 - dropped, x.shape)
        return jnp.where(kept, x / (1 - dropped), 0.0) if dropped else x

    hidden = thinned(keys[0], leaky(dense("encoder", images)))
    mean, log_scale = dense("mean", hidden), 0.5 * dense("twice_log_scale", hidden)
    z = mean + jnp.exp(log_scale) * jax.random.normal(keys[1], mean.shape)
    hidden = leaky(dense("decoder_2", leaky(dense("decoder_1", z))))
    hidden = thinned(keys[2], jax.nn.relu(dense("decoder_3", hidden)))
    error = jnp.sum((jax.nn.sigmoid(dense("image", hidden)) - images) ** 2, axis=1)
    divergence = -0.5 * jnp.sum(1 + 2 * log_scale - mean**2 - jnp.exp(2 * log_scale), axis=1)
    return jnp.mean(error + divergence)


def jobs(records: Records) -> Iterator[Job]:
    """Those of `starts`."""
    return starts.jobs(task, records, SEEDS, TUNED_SEEDS)


def markdown(records: Records) -> str:
    """The table of `starts`, against our own tuned Adam."""
    return starts.markdown(records, None)
