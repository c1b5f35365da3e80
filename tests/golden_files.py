"""Reads golden/*.npz, made with the original program, into this package's trees."""

import pathlib

import jax.numpy as jnp
import numpy as np

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

_LINEAR = {
    "encoder/features_0": "encoder.feature_extractor.0",
    "encoder/features_1": "encoder.feature_extractor.2",
    "encoder/value": "encoder.val_proj",
    "encoder/chart_keys": "encoder.cov_router.chart_key_proj",
    "encoder/router/query_z": "encoder.cov_router.q_z_proj",
    "encoder/router/query_features": "encoder.cov_router.q_feat_proj",
    "encoder/router/transport": "encoder.cov_router.transport_proj",
    "encoder/filter_1": "encoder.structure_filter.1",
    "decoder/router/query_z": "decoder.cov_router.q_z_proj",
    "decoder/router/transport": "decoder.cov_router.transport_proj",
    "decoder/router": "decoder.latent_router",
    "decoder/render_0": "decoder.renderer.0",
    "decoder/render_1": "decoder.renderer.2",
    "decoder/render_2": "decoder.renderer.4",
    "decoder/skip": "decoder.render_skip",
    "decoder/texture": "decoder.tex_residual",
}
_PLAIN = {
    "encoder/centers": "encoder.chart_centers",
    "encoder/codebook": "encoder.codebook",
    "encoder/router/gamma": "encoder.cov_router.q_gamma",
    "encoder/router/gamma_u": "encoder.cov_router.q_gamma_u",
    "encoder/router/gamma_v": "encoder.cov_router.q_gamma_v",
    "encoder/router/gamma_out": "encoder.cov_router.q_gamma_out",
    "encoder/gate_0/beta": "encoder.feature_extractor.1.norm_bias",
    "encoder/gate_1/beta": "encoder.feature_extractor.3.norm_bias",
    "encoder/filter_0/kernel": "encoder.structure_filter.0.block_weights.0",
    "encoder/filter_0/u": "encoder.structure_filter.0._block_u",
    "encoder/filter_0/gate/beta": "encoder.structure_filter.0.norm_gate.norm_bias",
    "decoder/chart_queries": "decoder.cov_router.chart_queries",
    "decoder/router/gamma": "decoder.cov_router.q_gamma",
    "decoder/router/gamma_u": "decoder.cov_router.q_gamma_u",
    "decoder/router/gamma_v": "decoder.cov_router.q_gamma_v",
    "decoder/router/gamma_out": "decoder.cov_router.q_gamma_out",
    "decoder/chart_gate/beta": "decoder.chart_gate.norm_bias",
    "decoder/gate_0/beta": "decoder.renderer.1.norm_bias",
    "decoder/gate_1/beta": "decoder.renderer.3.norm_bias",
    "decoder/texture_scale": "decoder.tex_residual_scale",
}
_HEADS = {
    "jump/c": "jump/c",
    "jump/d": "jump/d",
    "supervised/table": "sup/chart_to_class",
    "readout/logits": "cls/chart_logits",
    "readout/slope": "cls/radial_weight",
    "readout/bias": "cls/radial_bias",
}


def _lookup(data, prefix: str, path: str):
    """The golden array for one of our leaf paths (`encoder/value/kernel`), or None where the file has none."""
    head, leaf = path.rsplit("/", 1)
    names = {"kernel": "weight", "bias": "bias", "u": "_u"}
    if path in _HEADS:
        key = f"{prefix}/{_HEADS[path]}"
    elif path in _PLAIN:
        key = f"{prefix}/atlas/{_PLAIN[path]}"
    elif head in _LINEAR and leaf in names:
        key = f"{prefix}/atlas/{_LINEAR[head]}.{names[leaf]}"
    else:
        stack = {
            "decoder/projectors": "atlas/decoder.chart_projectors",
            "jump/up": "jump/encoders",
            "jump/down": "jump/decoders",
        }[head]
        count = sum(name.startswith(f"{prefix}/{stack}.") and name.endswith(f".{names[leaf]}") for name in data.files)
        keys = [f"{prefix}/{stack}.{n}.{names[leaf]}" for n in range(count)]
        return np.stack([data[key] for key in keys]) if keys else None
    return data[key] if key in data.files else None


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
