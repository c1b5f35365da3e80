"""The parts of a checkpoint of the original: each of the type, size and range that it should have, or refused."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from topojax.atlas.original_names import trained
from topojax.config.original_checkpoint import Saved
from topojax.errors import UserError, shown
from topojax.storage import named_tensors, torch_pickle

_PARTS = ("atlas", "jump", "supervised", "classifier", "precisions")
_DATA = ("X_train", "labels_train", "X_test", "labels_test")
_PICTURES = {784: (28, 28, 1), 3072: (32, 32, 3)}
_EPOCHS = 10**7
_STEPS = 2**31
_LARGEST = 1e30
_ADAM = ("step", "exp_avg", "exp_avg_sq")
_SIZES = {
    "atlas/encoder.codebook": ("num_charts", "codes_per_chart", "latent_dim"),
    "atlas/encoder.chart_centers": ("num_charts", "latent_dim"),
    "atlas/encoder.feature_extractor.0.weight": ("hidden_dim", "input_dim"),
}
"""Tensor → the sizes that its shape consists of."""


def saved(path: pathlib.Path, tree: Mapping[str, Any]) -> Saved:
    """The parts of a nested dict that are read.

    Args:
      path: of the file, for what is said.
      tree: of `named_tensors.load`.

    Raises:
      UserError: one that is missing, or of another type, shape or range; its name is said.
    """
    config, state = tree.get("config"), tree.get("state")
    if not isinstance(config, Mapping) or not isinstance(state, Mapping) or not isinstance(state.get("atlas"), Mapping):
        raise UserError(f"{path} is no checkpoint of the original: it has no config and state/atlas")
    epoch = tree.get("epoch", 0)
    if type(epoch) is not int or not 0 <= epoch < _EPOCHS:
        raise UserError(f"{path}: epoch = {shown(repr(epoch))} is no epoch")
    tensors = dict(named_tensors.leaves({part: state.get(part) for part in _PARTS}))
    for name, value in tensors.items():
        _finite(path, f"state/{name}", value, kinds="f")
    _sizes_agree(path, config, tensors)
    metrics, optim = (_mapping(tree.get(name)) for name in ("metrics", "optim"))
    return Saved(
        epoch=max(epoch, 1),
        config=config,
        tensors=tensors,
        moments={part: _moments(path, part, optim.get(part), tensors) for part in ("atlas", "classifier")},
        weights=_numbers(path, metrics.get("adaptive_weight_state"), deep=True),
        targets=_numbers(path, metrics.get("adaptive_target_state")),
        rate=_numbers(path, metrics.get("adaptive_lr_state")),
    )


def _sizes_agree(path: pathlib.Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Before anything of a size that the configuration says is made."""
    for name, sizes in _SIZES.items():
        if name not in tensors:
            raise UserError(f"{path} is no checkpoint of the original: it has no state/{name}")
        if missing := [size for size in sizes if config.get(size) is None]:
            raise UserError(f"{path}: its configuration has no {missing[0]}")
        said = [config[size] for size in sizes]
        if list(tensors[name].shape) != said:
            told = ", ".join(f"{size} = {shown(str(value))}" for size, value in zip(sizes, said, strict=True))
            raise UserError(f"{path}: {name} has shape {list(tensors[name].shape)}, its configuration {told}")


def _finite(path: pathlib.Path, name: str, value: np.ndarray, *, kinds: str = "biuf") -> None:
    """Numbers of these kinds, and finite in float32."""
    if value.dtype.kind not in kinds:
        wanted = "floating-point numbers" if kinds == "f" else "numbers"
        raise UserError(f"{path}: {shown(name)} holds {value.dtype}, not {wanted}")
    with np.errstate(over="ignore"):
        good = np.isfinite(value.astype(np.float32)).all()
    if not good:
        raise UserError(f"{path}: {shown(name)} has values that are not finite in float32")


def _moments(
    path: pathlib.Path, part: str, optim: Any, tensors: Mapping[str, np.ndarray]
) -> dict[int, dict[str, np.ndarray]]:
    """Index of a parameter → step, exp_avg, exp_avg_sq, of those that have had a step."""
    states = _mapping(_mapping(optim).get("state"))
    names = trained([name for name in tensors if name.startswith("classifier/") == (part == "classifier")])
    out = {}
    for index, entry in states.items():
        where = f"optim/{part}/state/{shown(str(index))}"
        if not isinstance(entry, Mapping):
            raise UserError(f"{path}: {where} is no state of Adam")
        if not entry:
            continue
        if not str(index).isdecimal() or int(index) >= len(names):
            raise UserError(f"{path}: {where} is of no parameter, of which the file has {len(names)}")
        found = {name: _array(entry.get(name)) for name in _ADAM}
        for name, value in found.items():
            if value is None:
                raise UserError(f"{path}: {where} has no {name}")
            _finite(path, f"{where}/{name}", value, kinds="biuf" if name == "step" else "f")
            shape = tensors[names[int(index)]].shape
            if name != "step" and value.shape != shape:
                told = f"{shown(names[int(index)])} {list(shape)}"
                raise UserError(f"{path}: {where}/{name} has shape {list(value.shape)}, {told}")
        whole = {name: value for name, value in found.items() if value is not None}
        step = whole["step"].ravel()
        if step.size != 1 or not 0 <= step[0] < _STEPS or step[0] != math.floor(step[0]):
            told = shown(str(step[0] if step.size == 1 else list(step.shape)))
            raise UserError(f"{path}: {where}/step = {told} is no number of steps")
        if (whole["exp_avg_sq"] < 0).any():
            raise UserError(f"{path}: {where}/exp_avg_sq has values below 0, and is an average of squares")
        if step[0] > 0:
            out[int(index)] = whole
    return out


def _array(value: Any) -> np.ndarray | None:
    return np.asarray(value) if type(value) in (int, float) else torch_pickle.array(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _numbers(path: pathlib.Path, values: Any, *, deep: bool = False) -> dict[str, Any]:
    """The finite numbers of a dict, or of each of its dicts; counts and float32 have to hold them."""
    if not isinstance(values, Mapping):
        return {}
    if deep:
        found = {str(name): _numbers(path, value) for name, value in values.items()}
        return {name: value for name, value in found.items() if {"value", "integral"} <= value.keys()}
    out = {str(k): v for k, v in values.items() if isinstance(v, int | float) and np.isfinite(v)}
    for name, value in out.items():
        if abs(value) > _LARGEST or (name.endswith("_steps") and not 0 <= value < _STEPS):
            raise UserError(f"{path}: metrics has {shown(name)} = {value}, which no controller can have reached")
    return out


def examples(path: pathlib.Path, tree: Mapping[str, Any], saved: Saved) -> dict[str, np.ndarray] | None:
    """The examples of the file in the layout of an .npz data set, None where it has none.

    Args:
      path: of the file, for what is said.
      tree: of `named_tensors.load`.
      saved: its parts.

    Raises:
      UserError: no example, sizes that do not fit each other or the model, values that are no inputs or labels.
    """
    data = tree.get("data")
    found = [torch_pickle.array(data.get(name)) if isinstance(data, Mapping) else None for name in _DATA]
    if any(value is None for value in found):
        return None
    x, y, x_test, y_test = (np.asarray(value) for value in found)
    if x.ndim != 2 or x.shape[1:] != x_test.shape[1:] or y.shape != (len(x),) or y_test.shape != (len(x_test),):
        raise UserError(f"{path}: examples {x.shape}, {x_test.shape} and labels {y.shape}, {y_test.shape} do not fit")
    if x.shape[1] != saved.config.get("input_dim"):
        raise UserError(
            f"{path}: examples have {x.shape[1]} numbers, the model takes {shown(str(saved.config.get('input_dim')))}"
        )
    for name, value in zip(_DATA, (x, y, x_test, y_test), strict=True):
        if not len(value):
            raise UserError(f"{path}: data/{name} holds no example")
        _finite(path, f"data/{name}", value)
        if name.startswith("labels") and ((value < 0) | (value >= _STEPS) | (value != np.floor(value))).any():
            raise UserError(f"{path}: data/{name} has values that are no labels, which are integers from 0")
    shape = _shape(x)
    return {
        "x_train": x.astype(np.float32).reshape(len(x), *shape),
        "y_train": y.astype(np.int64),
        "x_test": x_test.astype(np.float32).reshape(len(x_test), *shape),
        "y_test": y_test.astype(np.int64),
    }


def _shape(x: np.ndarray) -> tuple[int, ...]:
    """(H, W, C) where rows are pictures with the channel last; else (X,), as of CIFAR with the channel first."""
    shape = _PICTURES.get(x.shape[1])
    if shape is None or shape[2] == 1:
        return shape or (x.shape[1],)
    height, width, channels = shape
    last = x[:64].reshape(-1, height, width, channels)
    first = x[:64].reshape(-1, channels, height, width)
    rough = [np.abs(np.diff(images, axis=axis)).mean() for images, axis in ((last, 2), (first, 3))]
    return shape if rough[0] < rough[1] else (x.shape[1],)


def classes(path: pathlib.Path, saved: Saved, arrays: Mapping[str, np.ndarray]) -> int:
    """Number of classes: of the class tables where there are any, else of the labels.

    Args:
      path: of the file, for what is said.
      saved: its parts.
      arrays: of `examples`.

    Raises:
      UserError: a table of another shape than [charts, classes], a label beyond it, more classes than examples.
    """
    largest = int(max(arrays["y_train"].max(), arrays["y_test"].max()))
    charts = len(saved.tensors["atlas/encoder.chart_centers"])
    for name in ("supervised/chart_to_class", "classifier/chart_logits"):
        if name in saved.tensors:
            shape = saved.tensors[name].shape
            if len(shape) != 2 or shape[0] != charts or not shape[1]:
                raise UserError(f"{path}: state/{name} has shape {list(shape)}, not [{charts}, classes]")
            if largest >= shape[1]:
                raise UserError(f"{path}: data has the label {largest}, state/{name} has {shape[1]} classes")
            return int(shape[1])
    held = len(arrays["y_train"]) + len(arrays["y_test"])
    if largest >= held:
        raise UserError(f"{path}: data has the label {largest}, more classes than its {held} examples")
    return largest + 1
