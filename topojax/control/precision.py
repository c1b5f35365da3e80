"""Mechanism C, learned precisions: likelihood-like losses weighed by their own noise, learned as parameters.

Not a controller: the log-variances s_i are parameters, moved by the optimizer with the gradient of the
total. Only for terms that are negative log-likelihoods up to scale (squared errors, cross-entropies),
never for contracts: a precision lets a violated constraint buy itself a smaller weight
(theory 1.1, B19).
"""

import math
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from topojax.types import Array


def init(names: Iterable[str]) -> dict[str, Array]:
    """Log-variances s_i = 0 (unit variance), one float32 scalar per loss: parameters to optimise.

    Raises:
      ValueError: no name, or one twice.
    """
    names = list(names)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"names of losses must be present and differ, got {names}")
    return {name: jnp.zeros((), jnp.float32) for name in names}


def total(
    losses: Mapping[str, Array],
    log_variances: Mapping[str, Array],
    *,
    half: bool = True,
    dims: Mapping[str, float] | None = None,
) -> Array:
    """Negative log-likelihood of independent Gaussian residuals, constants dropped.

      L = Σ_i ½ d_i (exp(−s_i) L_i + s_i)          half=False: without the ½, the report's formula

    For L_i the mean squared error per dimension of a d_i-dimensional residual this is exact, s_i = log
    σ_i² and the minimum over s_i is s_i = log L_i. With d_i = 1 and the ½ dropped the minimiser is the
    same but the scale against other terms is not: for inputs of D dimensions the exact factor is D/2.

    Args:
      losses: name to loss L_i ≥ 0, shape (), mean per dimension.
      log_variances: name to s_i, shape (), from `init`; the same names.
      half: keep the ½ of the Gaussian.
      dims: d_i > 0 by name; 1 where left out.

    Returns:
      shape (), nats when d_i is the true dimension. It may be negative, and falls without bound as some
      L_i → 0: never a signal for the learning rate; `project` bounds s_i.

    Raises:
      ValueError: names of losses, log-variances and dims do not agree, or some d_i is not finite and > 0.

    References:
      report §2C and theory 1.1 (method C; the report drops the ½); theory B19 (D/2); Kendall, Gal and
      Cipolla, "Multi-task learning using uncertainty to weigh losses" (CVPR 2018).
    """
    if set(losses) != set(log_variances):
        raise ValueError(f"losses {sorted(losses)} and log-variances {sorted(log_variances)} must have the same names")
    scale = _scales(log_variances, half, dims)
    # Sorted: jit flattens dicts by key, and a sum's last bits depend on its order.
    terms = [
        scale[name] * (jnp.exp(-log_variances[name]) * losses[name] + log_variances[name]) for name in sorted(losses)
    ]
    return sum(terms[1:], start=terms[0])


def weights(
    log_variances: Mapping[str, Array], *, half: bool = True, dims: Mapping[str, float] | None = None
) -> dict[str, Array]:
    """The factor that each L_i has in `total`, ½ d_i exp(−s_i): a view for logs, gradient stopped.

    Args:
      log_variances: as in `total`.
      half: as in `total`.
      dims: as in `total`.
    """
    scale = _scales(log_variances, half, dims)
    return {name: jax.lax.stop_gradient(scale[name] * jnp.exp(-value)) for name, value in log_variances.items()}


def project(log_variances: Mapping[str, Array], *, minimum: float = -10.0, maximum: float = 10.0) -> dict[str, Array]:
    """Log-variances clipped to [minimum, maximum], to apply after each optimizer step.

    Without it s_i → −∞ for a loss that reaches 0, until exp(−s_i) overflows. Clipping inside `total` would
    instead leave s_i without gradient outside the bounds, hence stuck there.

    Raises:
      ValueError: minimum > maximum, or either not finite.
    """
    if not (math.isfinite(minimum) and math.isfinite(maximum) and minimum <= maximum):
        raise ValueError(f"bounds of log-variances must be finite and ordered, got [{minimum}, {maximum}]")
    return {name: jnp.clip(value, minimum, maximum) for name, value in log_variances.items()}


def _scales(names: Iterable[str], half: bool, dims: Mapping[str, float] | None) -> dict[str, float]:
    dims = dims or {}
    names = list(names)
    unknown = sorted(set(dims) - set(names))
    if unknown:
        raise ValueError(f"dims name unknown losses {unknown}; known are {sorted(names)}")
    for name, dimension in dims.items():
        if not (math.isfinite(dimension) and dimension > 0):
            raise ValueError(f"dims[{name!r}] must be finite and > 0, got {dimension}")
    return {name: (0.5 if half else 1.0) * float(dims.get(name, 1.0)) for name in names}
