"""A VAE that keeps as little as it can (KL, nats) of what its reconstruction needs: GECO's task, on digits."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

from topojax import control as tc

images = jnp.asarray(load_digits().data / 16.0, jnp.float32)


class Vae(nnx.Module):
    """Gaussian in 8 dimensions."""

    def __init__(self, rngs):
        self.encoder = nnx.Sequential(nnx.Linear(64, 128, rngs=rngs), jax.nn.gelu, nnx.Linear(128, 16, rngs=rngs))
        self.decoder = nnx.Sequential(nnx.Linear(8, 128, rngs=rngs), jax.nn.gelu, nnx.Linear(128, 64, rngs=rngs))

    def __call__(self, x, key):
        mean, log_sd = jnp.split(self.encoder(x), 2, axis=-1)
        z = mean + jnp.exp(log_sd) * jax.random.normal(key, mean.shape)
        kl = 0.5 * jnp.sum(mean**2 + jnp.exp(2 * log_sd) - 2 * log_sd - 1, axis=-1)
        return jax.nn.sigmoid(self.decoder(z)), kl.mean()


model = Vae(nnx.Rngs(0))
problem = tc.contracts(error=tc.at_most(0.03, scale=0.03, dual=tc.nupi(kp=10.0, ki=0.5), tolerance=0.05))
optimizer = nnx.Optimizer(model, optax.adam(2e-3), wrt=nnx.Param)


@nnx.jit
def step(model, optimizer, duals, key):
    batch = images[jax.random.randint(key, (256,), 0, len(images))]

    def lagrangian(model):
        decoded, kl = model(batch, jax.random.fold_in(key, 1))
        measured = {"error": jnp.mean((decoded - batch) ** 2)}
        return problem.lagrangian(duals, kl, measured), (measured, kl)

    slope, (measured, kl) = nnx.grad(lagrangian, has_aux=True)(model)
    optimizer.update(model, slope)
    return problem.update(duals, measured), kl


duals, key = problem.init(), jax.random.key(0)
for i in range(3000):
    duals, kl = step(model, optimizer, duals, jax.random.fold_in(key, i))
print(problem.report(duals))
print(f"KL {kl:.2f} nats")
