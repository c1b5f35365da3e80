"""Writes files as the original program and torch.save do, without either; golden arrays are its tensors."""

import collections
import contextlib
import io
import json
import pickle
import sys
import types
import zipfile

import golden_files
import numpy as np

PARTS = {"atlas": "atlas", "jump": "jump", "sup": "supervised", "cls": "classifier"}
CONFIG = {
    **{"input_dim": 64, "dataset": "mnist", "n_samples": 80, "test_split": 0.2, "epochs": 3, "batch_size": 16},
    **{"hidden_dim": 32, "latent_dim": 2, "num_charts": 10, "codes_per_chart": 32, "covariant_attn": True},
    **{"covariant_attn_tensorization": "sum", "covariant_attn_rank": 8, "covariant_attn_use_transport": True},
    **{"covariant_attn_tau_min": 0.01, "covariant_attn_denom_min": 0.001, "covariant_attn_transport_eps": 0.001},
    **{"vision_preproc": False, "soft_equiv_metric": False, "soft_equiv_bundle_size": None, "jump_global_rank": 2},
    **{"lr": 0.001, "lr_max": 0.0, "lr_min": 1e-6, "adaptive_weights": True, "sup_weight": 1.0, "jump_warmup": 1},
    **{"jump_ramp_end": 5, "classifier_bundle_size": 0, "adaptive_lr": True, "use_scheduler": False, "mlflow": True},
}
RATE = {"lr": 0.002, "loss_ema": 17.0, "best_loss_ema": 3.0, "ixk_ema": 0.5, "stable_steps": 2, "unstable_steps": 1}


class Tensor:
    """What is written as a torch tensor."""

    def __init__(self, array):
        self.array = np.array(array, "<f4")


class _Storage:
    def __init__(self, array):
        self.array = array


class _Pickler(pickle.Pickler):
    def __init__(self, file):
        super().__init__(file, protocol=2)
        self.storages = []

    def persistent_id(self, value):
        if isinstance(value, _Storage):
            self.storages.append(value.array)
            return ("storage", sys.modules["torch"].FloatStorage, str(len(self.storages) - 1), "cpu", value.array.size)
        return None

    def reducer_override(self, value):
        if isinstance(value, Tensor):
            steps = tuple(step // 4 for step in value.array.strides)
            arguments = (_Storage(value.array), 0, value.array.shape, steps, False, collections.OrderedDict())
            return sys.modules["torch._utils"]._rebuild_tensor_v2, arguments
        return NotImplemented


@contextlib.contextmanager
def _names_of_torch():
    """Modules and names that a pickle of torch's refers to; nothing in them does anything."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch", "__qualname__": "FloatStorage"})

    def _rebuild_tensor_v2(*_):
        raise AssertionError("never called")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2, torch._utils = _rebuild_tensor_v2, utils
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update({"torch": torch, "torch._utils": utils})
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def save(path, value, *, program=None):
    """Write `value` as torch.save would; or another pickle in its place."""
    buffer = io.BytesIO()
    with _names_of_torch():
        pickler = _Pickler(buffer)
        pickler.dump(value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue() if program is None else program)
        archive.writestr("archive/byteorder", b"little")
        for key, array in enumerate(pickler.storages):
            archive.writestr(f"archive/data/{key}", array.tobytes())


def tensors(name="cov_sum"):
    """Part → name → array, as state dictionaries hold them."""
    data = np.load(golden_files.FOLDER / f"{name}.npz")
    state = {part: {} for part in PARTS.values()}
    for key in data.files:
        if key.startswith("param/"):
            _, part, rest = key.split("/")
            state[PARTS[part]][rest] = data[key]
    return state, data


def trained(part):
    return [name for name in part if not name.endswith(("._u", "._block_u"))]


def tree(epoch=3, **config):
    """A checkpoint of the golden atlas: distinct numbers wherever something has to find its place."""
    state, data = tensors()
    rng = np.random.default_rng(0)
    names = [(part, name) for part in ("atlas", "jump", "supervised") for name in trained(state[part])]
    heads = [("classifier", name) for name in trained(state["classifier"])]

    def moments(names):
        out = {}
        for i, (part, name) in enumerate(names):
            shape, number = state[part][name].shape, i + 1.0
            steps = 4.0 if part == "jump" else 30.0
            out[i] = {
                "step": Tensor(steps),
                "exp_avg": Tensor(np.full(shape, number)),
                "exp_avg_sq": Tensor(np.full(shape, number / 100)),
            }
        return {"state": out, "param_groups": [{"lr": 0.002}]}

    every = {**CONFIG, **config}
    names_of_weights = "entropy consistency variance diversity separation codebook_center chart_center_sep "
    names_of_weights += "residual_scale window disentangle orthogonality code_entropy per_chart_code_entropy kl_prior "
    names_of_weights += "orbit vicreg_inv jump sup_purity sup_balance sup_metric"
    weights = names_of_weights.split()
    x = np.clip(0.5 + 0.2 * np.asarray(data["in/x"]), 0, 1)
    label = np.arange(len(x)) % 10
    metrics = {
        "loss_components": {
            "recon": [9.0, 0.3, 0.2, 0.1],
            "vq": [9.0, 0.05, 0.025, 0.0125],
            "sup_route": [9.0, 3.0, 2.0, 1.0],
        },
        "info_metrics": {"I_XK": [0.0, 0.1, 0.2, 0.3], "lr": [0.001, 0.001, 0.002, 0.002]},
        "adaptive_weight_state": {
            f"{name}_weight": {"value": 0.01 * (i + 1), "integral": 0.1 * i, "prev_error": 0.5}
            for i, name in enumerate(weights)
        },
        "adaptive_target_state": {"separation": 0.7, "variance": 1.5, "kl_prior": 4.0},
        "adaptive_lr_state": dict(RATE),
        "chart_assignments": rng.integers(0, 10, 8),
    }
    return {
        "epoch": epoch,
        "config": every,
        "state": {part: {name: Tensor(v) for name, v in values.items()} for part, values in state.items()}
        | {"precisions": None},
        "optim": {"atlas": moments(names), "classifier": moments(heads), "scheduler": None},
        "metrics": metrics,
        "data": {
            "X_train": Tensor(np.concatenate([x, x])),
            "labels_train": np.concatenate([label, label]),
            "X_test": Tensor(x),
            "labels_test": label,
            "dataset_name": "MNIST",
        },
    }


def flat(value, prefix=""):
    """Name → array of every tensor of a tree, as the flat formats have them."""
    out = {}
    for key, item in value.items():
        if isinstance(item, Tensor | np.ndarray):
            out[f"{prefix}{key}"] = item.array if isinstance(item, Tensor) else item
        elif isinstance(item, dict):
            out |= flat(item, f"{prefix}{key}/")
    return out


def texts(value):
    """The parts of a tree that the flat formats hold as JSON."""
    metrics = {k: v for k, v in value["metrics"].items() if isinstance(v, dict)}
    return {"config": json.dumps(value["config"]), "metrics": json.dumps(metrics), "epoch": json.dumps(value["epoch"])}


def save_npz(path, value):
    np.savez(path, **flat(value), **{name: np.array(text) for name, text in texts(value).items()})


def save_safetensors(path, value):
    header, body = {"__metadata__": texts(value)}, b""
    for name, array in flat(value).items():
        kind = {"float32": "F32", "int64": "I64"}[array.dtype.name]
        header[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + array.nbytes],
        }
        body += array.tobytes()
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + body)
