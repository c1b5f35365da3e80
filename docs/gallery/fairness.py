"""Fairness: two groups are accepted at rates at most 0.05 apart; a rate has no gradient, so a proxy lends its own."""

import jax
import jax.numpy as jnp
import optax

from topojax import control as tc

key = jax.random.key(0)
group = jax.random.bernoulli(jax.random.fold_in(key, 0), 0.4, (4000,))
features = jax.random.normal(jax.random.fold_in(key, 1), (4000, 5)) + 0.6 * group[:, None]
noise = 0.5 * jax.random.normal(jax.random.fold_in(key, 2), (4000,))
label = features @ jnp.array([1.0, -0.5, 0.8, 0.0, 0.3]) + noise > 0.5

problem = tc.contracts(parity=tc.between(-0.05, 0.05, dual=tc.nupi(kp=2.0, ki=0.02)))
optimizer = optax.adam(0.02)


def gap(accepted):
    """Difference of the groups' rates of acceptance."""
    return jnp.mean(accepted, where=group) - jnp.mean(accepted, where=~group)


@jax.jit
def step(w, opt_state, duals):
    def lagrangian(w):
        score = features @ w[:5] + w[5]
        task = optax.sigmoid_binary_cross_entropy(score, label).mean()
        parity = tc.Proxy(value=gap(jax.nn.sigmoid(score)), strict=gap(score > 0))
        return problem.lagrangian(duals, task, {"parity": parity}), (jnp.mean((score > 0) == label), parity)

    slope, (accuracy, parity) = jax.grad(lagrangian, has_aux=True)(w)
    updates, opt_state = optimizer.update(slope, opt_state)
    return optax.apply_updates(w, updates), opt_state, problem.update(duals, {"parity": parity}), accuracy


w = jnp.zeros(6)
opt_state, duals = optimizer.init(w), problem.init()
for _ in range(2000):
    w, opt_state, duals, accuracy = step(w, opt_state, duals)
print(problem.report(duals))
print(f"accuracy {accuracy:.3f}")
