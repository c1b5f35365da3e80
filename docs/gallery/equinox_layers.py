"""Equinox: a regression in which no layer may stretch by more than 3; one contract, a multiplier for each layer."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from topojax import control as tc

x = jnp.linspace(-1.0, 1.0, 256)[:, None]
y = jnp.sin(6.0 * x)

model = eqx.nn.MLP(1, 1, 32, 2, activation=jnp.tanh, key=jax.random.key(0))
problem = tc.contracts(stretch=tc.at_most(3.0, shape=(3,), dual=tc.nupi(kp=0.2, ki=0.002)))
optimizer = optax.adam(3e-3)


def stretch(model):
    """Largest singular value of each layer's matrix."""
    return jnp.stack([jnp.linalg.norm(layer.weight, ord=2) for layer in model.layers])


@eqx.filter_jit
def step(model, opt_state, duals):
    def lagrangian(model):
        measured = {"stretch": stretch(model)}
        task = jnp.mean((jax.vmap(model)(x) - y) ** 2)
        return problem.lagrangian(duals, task, measured), (task, measured)

    slope, (task, measured) = eqx.filter_grad(lagrangian, has_aux=True)(model)
    updates, opt_state = optimizer.update(slope, opt_state)
    return eqx.apply_updates(model, updates), opt_state, problem.update(duals, measured), task


duals, opt_state = problem.init(), optimizer.init(eqx.filter(model, eqx.is_array))
for _ in range(2000):
    model, opt_state, duals, task = step(model, opt_state, duals)
print(problem.report(duals))
print(f"error {task:.4f}, multipliers {problem.multipliers(duals)['stretch'].round(3)}")
