"""Reads golden/*.npz, made with the original program, into this package's trees."""

import pathlib

import jax.numpy as jnp
import numpy as np

from topojax.atlas.original_names import original

FOLDER = pathlib.Path(__file__).parent / "golden"
NAMES = ("cov_sum", "cov_full", "dot")
MODEL = {
    "hidden_dim": 32,
    "latent_dim": 2,
    "num_charts": 10,
    "codes_per_chart": 32,
    "covariant": True,
    "tensorization": "sum",
    "rank": 8,
    "transport": True,
    "gate_bias_init": 0.0,
    "center_scale": 0.3,
    "code_scale": 0.05,
    "ball": False,
    "ball_scale": 1.0,
    "straight_through": "parity",
    "discs": False,
    "bounded": False,
    "readout_gain": 4.0,
    "router_gain": 0.0,
    "matmul": "float32",
    "key_offset": 0.0,
    "chart_gain": 0.0,
    "chart_bias": 0.0,
    "jump_rank": 0,
    "class_affinity": 0.0,
    "readout_bundle": 0,
}
SIZES = {
    "cov_sum": ({}, 64, 10),
    "cov_full": (
        {"hidden_dim": 24, "latent_dim": 4, "num_charts": 6, "codes_per_chart": 5, "tensorization": "full"},
        30,
        4,
    ),
    "dot": ({"num_charts": 7, "codes_per_chart": 9, "covariant": False}, 40, 10),
}

_PARTS = {"supervised": "sup", "classifier": "cls"}


def _lookup(data, prefix: str, path: str):
    """The golden array for one of our leaf paths (`encoder/value/kernel`), or None where the file has none."""
    most = sum(name.startswith(f"{prefix}/atlas/decoder.chart_projectors.") for name in data.files)
    try:
        names = original(path, max(most, 1))
    except KeyError:
        return None
    keys = []
    for name in names:
        part, _, rest = name.partition("/")
        keys.append(f"{prefix}/{_PARTS.get(part, part)}/{rest}")
    found = [data[key] for key in keys if key in data.files]
    if not found:
        return None
    return found[0] if len(names) == 1 else np.stack(found)


def load(name: str):
    """The golden arrays, the model configuration, X and C."""
    changes, inputs, classes = SIZES[name]
    return np.load(FOLDER / f"{name}.npz"), {**MODEL, **changes}, inputs, classes


def tree(data, prefix: str, like):
    """Golden values (`param` or `grad`) in the structure and shapes of `like`; zeros where there are none."""
    from flax.traverse_util import flatten_dict, unflatten_dict

    out = {}
    for path, leaf in flatten_dict(like, sep="/").items():
        value = _lookup(data, prefix, path)
        out[path] = jnp.zeros(leaf.shape) if value is None else jnp.asarray(value, jnp.float32).reshape(leaf.shape)
    return unflatten_dict(out, sep="/")


class _View(dict):
    """A dict that `_lookup` can read like an npz file."""

    @property
    def files(self):
        return list(self)


def updated_vectors(data, like):
    """`u_after/*` (stored without the atlas/ level) in the structure of `like`, and the paths that have a value."""
    from flax.traverse_util import flatten_dict

    prefixed = {key.replace("u_after/", "u/atlas/", 1): data[key] for key in data.files if key.startswith("u_after/")}
    view = _View(prefixed)
    found = {}
    for path, leaf in flatten_dict(like, sep="/").items():
        value = _lookup(view, "u", path)
        if value is not None:
            found[path] = np.asarray(value).reshape(leaf.shape)
    return found
