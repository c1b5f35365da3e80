"""Flax NNX: the smallest weights that still classify handwritten digits with a cross-entropy of at most 0.1 nats."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

from topojax import control as tc

digits = load_digits()
images, labels = jnp.asarray(digits.data / 16.0, jnp.float32), jnp.asarray(digits.target)

model = nnx.Sequential(nnx.Linear(64, 64, rngs=nnx.Rngs(0)), jax.nn.relu, nnx.Linear(64, 10, rngs=nnx.Rngs(1)))
problem = tc.contracts(entropy=tc.at_most(0.1, dual=tc.nupi(kp=20.0, ki=0.5)))
optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)


@nnx.jit
def step(model, optimizer, duals, key):
    batch = jax.random.randint(key, (256,), 0, len(labels))

    def lagrangian(model):
        losses = optax.softmax_cross_entropy_with_integer_labels(model(images[batch]), labels[batch])
        measured = {"entropy": losses.mean()}
        size = optax.tree.norm(nnx.state(model, nnx.Param), squared=True)
        return problem.lagrangian(duals, 0.01 * size, measured), (measured, size)

    slope, (measured, size) = nnx.grad(lagrangian, has_aux=True)(model)
    optimizer.update(model, slope)
    return problem.update(duals, measured), size


duals, key = problem.init(), jax.random.key(0)
for i in range(2000):
    duals, size = step(model, optimizer, duals, jax.random.fold_in(key, i))
entropy = optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()
print(problem.report(duals))
print(f"squared norm {size:.1f}, cross-entropy of all digits {entropy:.3f}")
