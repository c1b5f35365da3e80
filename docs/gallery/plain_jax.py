"""Plain JAX: the line that fits best among those whose norm is at most 2."""

import jax
import jax.numpy as jnp
import optax

from topojax import control as tc

x = jnp.linspace(-1.0, 1.0, 64)
y = 3.0 * x + 1.0  # unconstrained, the line (3, 1) has norm 3.16

problem = tc.contracts(norm=tc.at_most(2.0, dual=tc.ascent(0.05)))
optimizer = optax.adam(0.02)


@jax.jit
def step(w, opt_state, duals):
    def lagrangian(w):
        measured = {"norm": jnp.linalg.norm(w)}
        task = jnp.mean((w[0] * x + w[1] - y) ** 2)
        return problem.lagrangian(duals, task, measured), measured

    slope, measured = jax.grad(lagrangian, has_aux=True)(w)
    updates, opt_state = optimizer.update(slope, opt_state)
    return optax.apply_updates(w, updates), opt_state, problem.update(duals, measured)


w = jnp.ones(2)
opt_state, duals = optimizer.init(w), problem.init()
for _ in range(1000):
    w, opt_state, duals = step(w, opt_state, duals)
print(problem.report(duals))
print(f"line {w[0]:.2f} x + {w[1]:.2f}")
