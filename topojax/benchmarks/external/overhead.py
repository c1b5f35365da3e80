"""What multipliers cost a step: one problem by three libraries, with n multipliers and with n constant weights.

  min ½ ‖x − a‖²    where x ≤ b, entry by entry: n contracts, whose own work is next to nothing

A step is a call from Python: values, gradient, descent, multipliers; ours is measured in a `lax.scan` as well, as a
loop that is compiled whole has it. Overhead is the step less the same step in which the multipliers are constants. All
are measured in turn, in one process, on the same cores.
"""

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from topojax import control as tc
from topojax.benchmarks.external.jobs import Job, Records, table
from topojax.errors import UserError, needing, tell

NUMBERS = (1, 10, 100, 1_000, 100_000)
ROUNDS, CALLS = 9, 50
RATE, DUAL_RATE = 0.1, 0.01
BAR = (1_000, 0.1)
OURS = ("topojax", "topojax in a scan")
LIBRARIES = (*OURS, "cooper", "humancompatible-train")

Step = Callable[[], Any]


def ours(a: np.ndarray, b: np.ndarray, controlled: bool, scanned: int = 0) -> Step:
    """A step by jit, its state donated, or `scanned` of them in one call; what it returns is on its way."""
    problem = tc.contracts(g=tc.at_most(jnp.asarray(b), dual=tc.ascent(DUAL_RATE)))
    goal, bound, transform = jnp.asarray(a), jnp.asarray(b), optax.sgd(RATE)

    def one(x: Any, opt: Any, duals: Any) -> Any:
        def loss(x: Any) -> Any:
            task = 0.5 * jnp.sum((x - goal) ** 2)
            return problem.lagrangian(duals, task, {"g": x}) if controlled else task + jnp.sum(duals * (x - bound))

        updates, opt = transform.update(jax.grad(loss)(x), opt, x)
        duals = problem.update(duals, {"g": x}) if controlled else duals
        return optax.apply_updates(x, updates), opt, duals

    def many(*state: Any) -> Any:
        return jax.lax.scan(lambda state, _: (one(*state), None), state, None, scanned)[0]

    jitted = jax.jit(many if scanned else one, donate_argnums=(0, 1, 2))
    x = jnp.zeros(len(a))
    state = [x, transform.init(x), problem.init() if controlled else jnp.full(len(a), 0.1)]

    def step() -> Any:
        state[:] = jitted(*state)
        return state[0]

    return step


def cooper(a: np.ndarray, b: np.ndarray, controlled: bool) -> Step:
    """A step by cooper's SimultaneousOptimizer, or by torch alone."""
    with needing("external", "a comparison with cooper"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cooper as library
        import torch
    goal, bound, x, primal = _torch(a, b)
    if not controlled:
        return _constant(goal, bound, x, primal)
    constraint = library.Constraint(
        constraint_type=library.ConstraintType.INEQUALITY,
        formulation_type=library.formulations.Lagrangian,
        multiplier=library.multipliers.DenseMultiplier(num_constraints=len(a)),
    )

    class Stated(library.ConstrainedMinimizationProblem):
        def __init__(self) -> None:
            super().__init__()
            self.constraint = constraint

        def compute_cmp_state(self, x: Any) -> Any:
            state = library.ConstraintState(violation=x - bound)
            return library.CMPState(loss=0.5 * torch.sum((x - goal) ** 2), observed_constraints={constraint: state})

    stated = Stated()
    dual = torch.optim.SGD(stated.dual_parameters(), lr=DUAL_RATE, maximize=True)
    roller = library.optim.SimultaneousOptimizer(cmp=stated, primal_optimizers=primal, dual_optimizers=dual)
    return lambda: roller.roll(compute_cmp_state_kwargs={"x": x})


def humancompatible(a: np.ndarray, b: np.ndarray, controlled: bool) -> Step:
    """A step by humancompatible-train's ALM without a penalty, or by torch alone."""
    with needing("external", "a comparison with humancompatible-train"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from humancompatible.train import dual_optim as library
    goal, bound, x, primal = _torch(a, b)
    if not controlled:
        return _constant(goal, bound, x, primal)
    dual = library.ALM(m=len(a), lr=DUAL_RATE, is_ineq=True)

    def step() -> None:
        dual.forward_update(0.5 * torch.sum((x - goal) ** 2), x - bound).backward()
        primal.step()
        primal.zero_grad()

    return step


def _torch(a: np.ndarray, b: np.ndarray) -> tuple[Any, Any, Any, Any]:
    import torch

    torch.set_num_threads(1)  # vectors this short gain nothing from more, and threads that wait slow what runs beside
    x = torch.nn.Parameter(torch.zeros(len(a)))
    return torch.as_tensor(a), torch.as_tensor(b), x, torch.optim.SGD([x], lr=RATE)


def _constant(goal: Any, bound: Any, x: Any, primal: Any) -> Step:
    import torch

    weights = torch.full_like(goal, 0.1)

    def step() -> None:
        (0.5 * torch.sum((x - goal) ** 2) + weights @ (x - bound)).backward()
        primal.step()
        primal.zero_grad()

    return step


MAKERS: Mapping[str, Callable[[np.ndarray, np.ndarray, bool], Step]] = {
    "topojax": ours,
    "topojax in a scan": lambda a, b, controlled: ours(a, b, controlled, CALLS),
    "cooper": cooper,
    "humancompatible-train": humancompatible,
}


def jobs(_: Records) -> Iterator[Job]:
    """One for each number of multipliers: all libraries in turn."""
    for number in NUMBERS:
        yield Job((str(number),), lambda number=number: [measure(number)])  # type: ignore[misc]


def measure(number: int, rounds: int = ROUNDS, calls: int = CALLS) -> dict[str, Any]:
    """Milliseconds a step of each library that is there, with multipliers and with constants: medians of the rounds.

    The overhead is the median of the rounds' differences: what slows a round slows both.
    """
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, number)).astype(np.float32)
    steps: dict[tuple[str, bool], Step] = {}
    for name, maker in MAKERS.items():
        try:
            steps |= {(name, controlled): maker(a, b, controlled) for controlled in (True, False)}
        except UserError as error:
            tell(f"left out: {error}")
    for step in steps.values():
        _milliseconds(step, 2)  # compiles, allocates
    times: dict[tuple[str, bool], list[float]] = {key: [] for key in steps}
    for _ in range(rounds):
        for key, step in steps.items():
            scanned = key[0] == OURS[1]
            times[key].append(_milliseconds(step, 1) / CALLS if scanned else _milliseconds(step, calls))
    found: dict[str, Any] = {}
    for name in LIBRARIES:
        if (name, True) in steps:
            pairs = list(zip(times[name, True], times[name, False], strict=True))
            found[name] = {
                "step": statistics.median(one for one, _ in pairs),
                "overhead": statistics.median(one - other for one, other in pairs),
            }
    return found


def _milliseconds(step: Step, calls: int) -> float:
    since = time.perf_counter()
    for _ in range(calls):
        last = step()
    if isinstance(last, jax.Array):
        last.block_until_ready()
    return (time.perf_counter() - since) / calls * 1e3


def markdown(records: Records) -> str:
    """Microseconds a step and the overhead in it, and ours over cooper's; whether the bar is kept."""
    rows: list[tuple[Any, ...]] = [
        ("multipliers", *(f"{name}: step, µs (overhead)" for name in LIBRARIES), "our overhead / cooper's", "in a scan")
    ]
    for number in NUMBERS:
        found = records.get(str(number))
        if found:
            cells = [
                f"{_micro(found[name]['step'])} ({_micro(found[name]['overhead'])})" if name in found else "–"
                for name in LIBRARIES
            ]
            rows.append((f"{number:,}", *cells, *(_ratio(found, name) for name in OURS)))
    text = table(rows)
    at, bar = BAR
    found = records.get(str(at), {})
    if "cooper" in found:
        kept = {name: found[name]["overhead"] <= bar * found["cooper"]["overhead"] for name in OURS}
        called, scanned = ("kept" if kept[name] else "missed" for name in OURS)
        text += f"\n\nAt {at:,} multipliers our overhead is to be ≤ {bar:g} of cooper's: "
        text += f"called step by step from Python {called}, in a scan {scanned}."
    return text


def _micro(milliseconds: float) -> str:
    value = 1e3 * milliseconds
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.1f}"


def _ratio(found: Mapping[str, Any], name: str) -> str:
    return f"{found[name]['overhead'] / found['cooper']['overhead']:.3f}" if "cooper" in found else "–"
