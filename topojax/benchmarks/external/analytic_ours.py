"""The same problems by `topojax.control`: all gains of a mechanism in one program, a `vmap` over them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from topojax import control as tc
from topojax.benchmarks.external.analytic_peers import GROWTH
from topojax.benchmarks.external.analytic_problems import Problem
from topojax.types import Array


def ours(problem: Problem, mechanism: str, gains: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """λ after each step (k, steps, m), none for a pure penalty, and x after the last (k, n), for k choices of gains.

    Args:
      problem: to solve.
      mechanism: of `analytic.MECHANISMS`.
      gains: (k, g), as `analytic.GAINS` has them.
    """
    descent = optax.sgd(problem.rate, momentum=problem.momentum or None)

    def measured(x: Array) -> dict[str, Array]:
        return {"g": problem.violation(jnp, x)}

    def run(gains: Array) -> tuple[Array, Array]:
        contract = problem_of(problem, mechanism, gains)
        x = jnp.asarray(problem.start, jnp.float32)

        def step(carry: tuple[Array, Any, tc.Duals], _: None) -> tuple[tuple[Array, Any, tc.Duals], Array]:
            x, opt, duals = carry
            new = contract.update(duals, measured(x))
            used = new if mechanism in ("alternating", "augmented") else duals
            slope = jax.grad(lambda x: contract.lagrangian(used, problem.loss(jnp, x), measured(x)))(x)
            updates, opt = descent.update(slope, opt, x)
            return (optax.apply_updates(x, updates), opt, new), contract.multipliers(new)["g"]

        (x, _, _), multipliers = jax.lax.scan(step, (x, descent.init(x), contract.init()), None, problem.steps)
        return multipliers, x

    multipliers, x = jax.jit(jax.vmap(run))(jnp.asarray(gains, jnp.float32))
    return None if mechanism == "penalty" else np.asarray(multipliers), np.asarray(x)


def problem_of(problem: Problem, mechanism: str, gains: Array) -> tc.Problem:
    """The contract g = 0 or g ≤ 0 under one mechanism."""
    options: dict[str, Any] = {
        "simultaneous": lambda: {"dual": tc.ascent(gains[0])},
        "alternating": lambda: {"dual": tc.ascent(gains[0])},
        "optimistic": lambda: {"dual": optax.optimistic_gradient_descent(gains[0])},
        "nupi": lambda: {"dual": tc.nupi(gains[1] * gains[0], gains[0], gains[2])},
        "pi": lambda: {"dual": tc.pi(gains[1] * gains[0], gains[0])},
        "damped": lambda: {"dual": tc.ascent(gains[0], damping=gains[1] * gains[0])},
        "default": dict,
        "default_augmented": lambda: {"penalty": tc.augmented(1.0)},
        "augmented": lambda: {
            "dual": tc.ascent(gains[0] * gains[1]),
            "penalty": tc.augmented(gains[0], growth=GROWTH, decrease=1.0),
        },
        "penalty": lambda: {"dual": None, "penalty": tc.augmented(gains[0], growth=GROWTH, decrease=1.0)},
    }[mechanism]()
    relation = tc.equal if problem.equality else tc.at_most
    return tc.contracts(g=relation(0.0, shape=problem.multipliers.shape, tolerance=1e-4, **options))
