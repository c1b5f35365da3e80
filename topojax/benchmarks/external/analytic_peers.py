"""The same problems by cooper and by humancompatible-train, on torch; both are imported where they are used."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from topojax.benchmarks.external.analytic_problems import Problem
from topojax.errors import needing

GROWTH, TOLERANCE = 1.001, 1e-4
"""Of penalties that grow, as in cooper's tutorial: by 0.1 % a step while a constraint is off by more than 1e-4."""


def cooper(problem: Problem, mechanism: str, gains: tuple[float, ...]) -> tuple[np.ndarray | None, np.ndarray]:
    """λ after each step (steps, m), none for a pure penalty, and x after the last.

    Args:
      problem: to solve.
      mechanism: simultaneous, alternating, optimistic (by extrapolation), nupi, augmented or penalty.
      gains: as `analytic.GAINS` has them.

    Raises:
      UserError: cooper is not installed.
    """
    with needing("external", "a comparison with cooper"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cooper as library
        import torch
    torch.set_num_threads(1)
    kind = library.ConstraintType.EQUALITY if problem.equality else library.ConstraintType.INEQUALITY
    number = len(problem.multipliers)
    penalised = mechanism in ("augmented", "penalty")
    forms = library.formulations
    form = {"augmented": forms.AugmentedLagrangian, "penalty": forms.QuadraticPenalty}.get(mechanism, forms.Lagrangian)
    multiplier = None if mechanism == "penalty" else library.multipliers.DenseMultiplier(num_constraints=number)
    coefficient = library.penalty_coefficients.DensePenaltyCoefficient(torch.full((number,), gains[0]))
    constraint = library.Constraint(
        constraint_type=kind,
        formulation_type=form,
        **({} if multiplier is None else {"multiplier": multiplier}),
        **({"penalty_coefficient": coefficient} if penalised else {}),
    )

    class Stated(library.ConstrainedMinimizationProblem):
        def __init__(self) -> None:
            super().__init__()
            self.constraint = constraint

        def compute_cmp_state(self, x: Any) -> Any:
            state = library.ConstraintState(violation=problem.violation(torch, x))
            return library.CMPState(loss=problem.loss(torch, x), observed_constraints={self.constraint: state})

    stated = Stated()
    x = torch.nn.Parameter(torch.tensor(problem.start, dtype=torch.float32))
    optim = library.optim
    descent = {"lr": problem.rate, "momentum": problem.momentum}
    primal = optim.ExtraSGD([x], **descent) if mechanism == "optimistic" else torch.optim.SGD([x], **descent)
    if mechanism == "penalty":
        roller = optim.UnconstrainedOptimizer(cmp=stated, primal_optimizers=primal)
    else:
        duals = stated.dual_parameters()
        if mechanism == "nupi":
            dual: Any = optim.nuPI(duals, lr=1.0, Ki=gains[0], Kp=gains[1] * gains[0], ema_nu=gains[2], maximize=True)
        elif mechanism == "optimistic":
            dual = optim.ExtraSGD(duals, lr=gains[0], maximize=True)
        else:
            dual = torch.optim.SGD(duals, lr=gains[1] if mechanism == "augmented" else gains[0], maximize=True)
        roll = {
            "optimistic": optim.ExtrapolationConstrainedOptimizer,
            "alternating": optim.AlternatingDualPrimalOptimizer,
            "augmented": optim.AlternatingDualPrimalOptimizer,
        }.get(mechanism, optim.SimultaneousOptimizer)
        roller = roll(cmp=stated, primal_optimizers=primal, dual_optimizers=dual)
    grow = library.penalty_coefficients.MultiplicativePenaltyCoefficientUpdater(
        growth_factor=GROWTH, violation_tolerance=TOLERANCE
    )

    def step() -> None:
        rolled = roller.roll(compute_cmp_state_kwargs={"x": x})
        if penalised:
            grow.step(rolled.cmp_state.observed_constraints)

    return _record(problem, step, x, multiplier)


def humancompatible(problem: Problem, mechanism: str, gains: tuple[float, ...]) -> tuple[np.ndarray | None, np.ndarray]:
    """As `cooper`; mechanisms alternating (ALM without a penalty), nupi, and augmented (ALM), whose
    penalty does not grow.

    Raises:
      UserError: humancompatible-train is not installed.
    """
    with needing("external", "a comparison with humancompatible-train"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from humancompatible.train import dual_optim as library
    torch.set_num_threads(1)
    number, sign = len(problem.multipliers), {"is_ineq": not problem.equality}
    if mechanism == "nupi":
        dual = library.nuPI(m=number, ki=gains[0], kp=gains[1] * gains[0], nu=gains[2], **sign)
    elif mechanism == "augmented":
        dual = library.ALM(m=number, penalty=gains[0], lr=gains[0] * gains[1], **sign)
    else:
        dual = library.ALM(m=number, lr=gains[0], **sign)
    x = torch.nn.Parameter(torch.tensor(problem.start, dtype=torch.float32))
    primal = torch.optim.SGD([x], lr=problem.rate, momentum=problem.momentum)

    def step() -> None:
        dual.forward_update(problem.loss(torch, x), problem.violation(torch, x)).backward()
        primal.step()
        primal.zero_grad()

    return _record(problem, step, x, lambda: dual.param_groups[0]["params"][0])


def _record(
    problem: Problem, step: Callable[[], None], x: Any, multipliers: Callable[[], Any] | None
) -> tuple[np.ndarray | None, np.ndarray]:
    kept = None if multipliers is None else np.zeros((problem.steps, len(problem.multipliers)))
    for i in range(problem.steps):
        step()
        if multipliers is not None and kept is not None:
            kept[i] = multipliers().detach().numpy()
            if not np.isfinite(kept[i]).all() or np.abs(kept[i]).max() > 1e6:  # it will not come back
                kept[i:] = np.inf
                break
    return kept, x.detach().numpy()
