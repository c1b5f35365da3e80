"""What weighs the three losses of Burgers' equation and what sets the rate: one training step for each arm."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from topojax import control as tc
from topojax.benchmarks.external.burgers_network import (
    BOUNDARY,
    INITIAL,
    Layers,
    Points,
    ends,
    initial_layers,
    residual,
)
from topojax.types import Array

STEPS = 5000
LAG = 1000.0
"""Steps in which a ratio of gradients is followed by a factor of e: at 100 one seed of five was lost."""


class Arm(NamedTuple):
    """How an arm trains.

    Attributes:
      words: what the table says.
      weighing: key of `WEIGHINGS`.
      governed: the rate is the governor's; else it is given.
    """

    words: str
    weighing: str
    governed: bool = False


ARMS = {
    "search": Arm("summed, searched by hand", "summed"),
    "summed": Arm("summed", "summed"),
    "summed_governed": Arm("summed + governor", "summed", governed=True),
    "precisions": Arm("learned precisions", "precisions"),
    "ratios": Arm("gradient ratios", "ratios"),
    "contracts": Arm("contracts", "contracts"),
    "contracts_governed": Arm("contracts + governor", "contracts", governed=True),
}


class State(NamedTuple):
    """What a step changes."""

    params: Any
    optimizer: Any
    duals: Any  # of contracts and ratios


class Numbers(NamedTuple):
    """What is set by hand, each of shape (): traced, so that a search is one program."""

    rate: Array  # of Adam; not read where the rate is governed
    cosine: Array  # 1: the rate falls to 0 over the run by half a cosine; 0: it stays
    weight: Array  # of boundary and initial losses, where they are summed

    def schedule(self, count: Array) -> Array:
        """The rate at a step."""
        falling = 0.5 * (1 + jnp.cos(jnp.pi * count / STEPS))
        return self.rate * jnp.where(self.cosine > 0, falling, 1.0)


def transform(numbers: Numbers, governed: bool) -> optax.GradientTransformationExtraArgs:
    """Adam, at a given rate or at the governor's, which is told how long the run is."""
    if governed:
        return optax.chain(optax.scale_by_adam(), tc.scale_by_governor(1e-3, horizon=STEPS))
    adam = optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(numbers.schedule))
    return optax.with_extra_args_support(adam)


def stepper(arm: Arm, numbers: Numbers) -> tuple[Callable[[Array], State], Callable[[State, Points], State]]:
    """How an arm begins and goes on.

    Returns:
      key → state, and (state, points) → the next state. `layers` takes the network out of a state.
    """
    problem = _problem(arm.weighing)
    tx = transform(numbers, arm.governed)

    def begin(key: Array) -> State:
        network = initial_layers(key)
        params = (network, tc.precision.init(("residual", "boundary", "initial"))) if _learns(arm) else network
        return State(params, tx.init(params), problem.init() if problem else ())

    def step(state: State, points: Points) -> State:
        loss, grads, measured, index = WEIGHINGS[arm.weighing](state, points, problem, numbers)
        judged, duals = loss, state.duals
        if problem:
            judged = problem.merit(state.duals, loss, measured, index=index)
            duals = problem.update(state.duals, measured, index=index)
        updates, optimizer = tx.update(grads, state.optimizer, state.params, value=judged)
        params = optax.apply_updates(state.params, updates)
        if _learns(arm):
            params = (params[0], tc.precision.project(params[1]))
        return State(params, optimizer, duals)

    return begin, step


def layers(arm: Arm, state: State) -> Layers:
    """The network of a state."""
    return state.params[0] if _learns(arm) else state.params


def _learns(arm: Arm) -> bool:
    return arm.weighing == "precisions"


def _problem(weighing: str) -> tc.Problem | None:
    """Contracts of the arms that have them, by the library's own gains.

    The points of one step lie one in each of 50 equal cells: a cell is an example, and its multiplier holds u (on the
    boundary) or u + sin πx (at the beginning) at 0 there. A penalty of 2 is ½ · 2 e²: the mean squared error itself,
    so that with multipliers of 0 this is the sum of the three losses.
    """
    if weighing == "contracts":
        held = {"boundary": 2 * BOUNDARY, "initial": INITIAL}
        return tc.contracts(
            **{name: tc.equal(0.0, per_example=cells, penalty=tc.augmented(2.0)) for name, cells in held.items()}
        )
    if weighing == "ratios":
        return tc.contracts(boundary=tc.balanced(lag=LAG), initial=tc.balanced(lag=LAG))
    return None


def cells(points: Points) -> dict[str, Array]:
    """The cell of each point: in t at either end of the boundary, in x at the beginning."""
    place = jnp.floor(points.boundary[:, 1] * BOUNDARY).astype(jnp.int32).clip(0, BOUNDARY - 1)
    first = jnp.floor((points.initial[:, 0] + 1) / 2 * INITIAL).astype(jnp.int32).clip(0, INITIAL - 1)
    return {"boundary": place + BOUNDARY * (points.boundary[:, 0] > 0), "initial": first}


def _squares(parts: dict[str, Array]) -> dict[str, Array]:
    return {name: jnp.mean(part**2) for name, part in parts.items()}


def _summed(state: State, points: Points, _: Any, numbers: Numbers) -> tuple:
    def loss(network: Layers) -> Array:
        parts = _squares(ends(network, points))
        return jnp.mean(residual(network, points) ** 2) + numbers.weight * (parts["boundary"] + parts["initial"])

    return *jax.value_and_grad(loss)(state.params), None, None


def _precisions(state: State, points: Points, _: Any, __: Numbers) -> tuple:
    def loss(params: Any) -> Array:
        parts = {"residual": residual(params[0], points), **ends(params[0], points)}
        return tc.precision.total(_squares(parts), params[1])

    return *jax.value_and_grad(loss)(state.params), None, None


def _ratios(state: State, points: Points, problem: Any, _: Numbers) -> tuple:
    """Weights that follow ‖∇residual‖ / ‖∇term‖."""

    def squared(network: Layers) -> Array:
        return jnp.mean(residual(network, points) ** 2)

    loss, slope = jax.value_and_grad(squared)(state.params)
    parts, pull = jax.vjp(lambda network: _squares(ends(network, points)), state.params)
    norm, weights, measured = optax.tree.norm(slope), problem.multipliers(state.duals), {}
    for name in parts:
        own = pull({other: jnp.float32(other == name) for other in parts})[0]
        measured[name] = tc.Balanced(parts[name], norm / optax.tree.norm(own))
        slope = jax.tree.map(lambda a, b, name=name: a + weights[name] * b, slope, own)
    return loss, slope, measured, None


def _contracts(state: State, points: Points, problem: Any, _: Numbers) -> tuple:
    index = cells(points)

    def lagrangian(network: Layers) -> tuple[Array, Any]:
        measured = ends(network, points)
        loss = jnp.mean(residual(network, points) ** 2)
        return problem.lagrangian(state.duals, loss, measured, index=index), (loss, measured)

    slope, (loss, measured) = jax.grad(lagrangian, has_aux=True)(state.params)
    return loss, slope, measured, index


WEIGHINGS: dict[str, Callable[[State, Points, Any, Numbers], tuple]] = {
    "summed": _summed,
    "precisions": _precisions,
    "ratios": _ratios,
    "contracts": _contracts,
}
"""(state, points, contracts, numbers) → loss of the task, gradient of all, what was measured, and its cells."""
