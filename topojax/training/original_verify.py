"""Outputs of an imported atlas beside those that the original gave of the same inputs."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas import losses
from topojax.atlas.model import Model
from topojax.errors import UserError, shown
from topojax.step.state import TrainState
from topojax.storage import named_tensors
from topojax.types import Array

_OUTPUTS, _LOSSES = 1e-5, 1e-4
"""Largest difference, relative to the largest entry: of an output in float32, of a loss."""
_EXACT = ("K_chart", "K_code", "indices")
NAMES = (
    *("K_chart", "K_code", "indices", "z_n", "z_tex", "router", "z_geo", "z_n_all", "c_bar", "vq", "x_hat"),
    *("dec_router", "x_hat_hard", "cls_logits", "p_y_given_k", "p_y_x", "jumped"),
)
"""Outputs that a reference may hold."""
_LATENT = ("z_geo", "c_bar", "z_n", "z_n_all", "z_tex")
"""Points and differences of one space, z_geo = c̄ + z_q + z_n: their errors are relative to the largest entry of all."""


def verified(path: pathlib.Path, model: Model, state: TrainState) -> list[str]:
    """A line for each array of the reference: how far the atlas is off.

    Args:
      path: .npz with `x` [n, X] and at least one of `NAMES`; others are named in a line.
      model: of the state.
      state: imported.

    Raises:
      UserError: the file cannot be read or holds nothing to compare, or an output differs, in float32 and in float64:
        indices by anything, outputs by more than 1e-5 of their largest entry, losses by more than 1e-4.
    """
    expected = _reference(path, state.params["atlas"]["encoder"]["features_0"]["kernel"].shape[1])
    x, others = expected.pop("x"), sorted(expected.keys() - set(NAMES))
    expected = {name: value for name, value in expected.items() if name in NAMES}
    lines, wrong = _compared(path, expected, _found(model, state, x, np.float32))
    if wrong:  # rounding differs from machine to machine, and the reference has its own
        more, wrong = _compared(path, {name: expected[name] for name in wrong}, _found(model, state, x, np.float64))
        lines |= {name: f"{line} (in float64)" for name, line in more.items()}
    if wrong:
        raise UserError(f"outputs are not those of {path}: {'; '.join(lines[name] for name in wrong)}")
    unknown = [f"not compared, of unknown names: {shown(', '.join(others), 200)}"] if others else []
    return [*unknown, *lines.values()]


def _reference(path: pathlib.Path, size: int) -> dict[str, np.ndarray]:
    """The arrays of the file, of which `x` is float32 [n, size]."""
    expected = named_tensors.arrays(path, "reference (an .npz of x and outputs)")
    if "x" not in expected:
        raise UserError(f"--verify={path} has no inputs x")
    for name in {"x", *NAMES} & expected.keys():
        if expected[name].dtype.kind not in "biuf":
            raise UserError(f"--verify={path}: {name} holds {expected[name].dtype}, not numbers")
        with np.errstate(over="ignore"):
            if not np.isfinite(expected[name].astype(np.float32)).all():
                raise UserError(f"--verify={path}: {name} has values that are not finite in float32")
    shape = expected["x"].shape
    if len(shape) != 2 or shape[0] < 1 or shape[1] != size:
        raise UserError(f"--verify={path}: x has shape {list(shape)}, the atlas takes [n, {size}] with n ≥ 1")
    if not expected.keys() & set(NAMES):
        raise UserError(f"--verify={path} holds nothing to compare beside x: known are {', '.join(NAMES)}")
    expected["x"] = expected["x"].astype(np.float32)
    return expected


def _found(model: Model, state: TrainState, x: np.ndarray, kind: type) -> dict[str, np.ndarray]:
    """What the atlas makes of x in float32, or in float64."""
    with jax.enable_x64(kind is np.float64):
        numbers = jax.tree.map(lambda leaf: jnp.asarray(leaf, kind), (state.params["atlas"], state.spectral, x))
        return jax.tree.map(np.asarray, jax.device_get(jax.jit(_computed(model))(*numbers)))


def _compared(
    path: pathlib.Path, expected: dict[str, np.ndarray], found: dict[str, np.ndarray]
) -> tuple[dict[str, str], list[str]]:
    """Name → line, and the names of those that differ."""
    lines, wrong = {}, []
    latent = max((np.abs(expected[name]).max() for name in _LATENT if name in expected), default=0.0)
    for name in (name for name in expected if name in found):
        actual, wanted = found[name], expected[name]
        if actual.shape != wanted.shape:
            raise UserError(f"--verify={path}: {name} has shape {list(wanted.shape)}, this atlas {list(actual.shape)}")
        if name in _EXACT:
            off = int((actual != wanted).sum())
            lines[name] = f"{name}: {off} of {wanted.size} differ"
            good = off == 0
        else:
            largest = latent if name in _LATENT else np.abs(wanted).max()
            gap = float(np.abs(actual - wanted).max() / max(largest, 1e-12))
            limit = _LOSSES if wanted.ndim == 0 else _OUTPUTS
            lines[name] = f"{name}: off by {gap:.1e} of the largest entry, {limit:.0e} allowed"
            good = gap <= limit
        wrong += [] if good else [name]
    return lines, wrong


def _computed(model: Model) -> Callable[[Any, Any, Array], dict[str, Array]]:
    def computed(params: Any, spectral: Any, x: Array) -> dict[str, Array]:
        weights, _ = model.normalise(params, spectral)
        e = model.encode(weights, x)
        d = model.decode(weights, e.z_geo, e.z_tex)
        local = e.v - e.c_bar
        table = model.class_table(weights, jnp.ones(()))
        parts = losses.codebook(local, e.z_q_all, e.router), losses.commitment(local, e.z_q_all, e.router)
        return {
            "K_chart": e.chart,
            "K_code": e.code,
            "indices": e.codes,
            **{name: getattr(e, name) for name in ("z_n", "z_tex", "router", "z_geo", "z_n_all", "c_bar")},
            "vq": parts[0] + 0.25 * parts[1],
            "x_hat": d.x_hat,
            "dec_router": d.router,
            "x_hat_hard": model.decode(weights, e.z_geo, e.z_tex, e.chart).x_hat,
            "cls_logits": model.readout(weights, e.router, e.z_geo),
            "p_y_given_k": table,
            "p_y_x": e.router @ table,
            "jumped": model.jump(weights, e.z_n_all),
        }

    return computed
