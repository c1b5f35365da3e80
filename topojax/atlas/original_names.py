"""What the original program calls each leaf of the atlas; kernels are [out, in] there as here, none is transposed."""

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from topojax.types import Params

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
    "supervised/table": "supervised/chart_to_class",
    "readout/logits": "classifier/chart_logits",
    "readout/slope": "classifier/radial_weight",
    "readout/bias": "classifier/radial_bias",
}
_STACKED = {
    "decoder/projectors": "atlas/decoder.chart_projectors",
    "jump/up": "jump/encoders",
    "jump/down": "jump/decoders",
}
_ENDINGS = {"kernel": "weight", "bias": "bias", "u": "_u"}
PRECISIONS = {"recon": "recon", "vq": "vq", "route": "sup"}
"""Likelihood → the name of its learned precision there."""
_BUFFERS = ("._u", "._block_u")
_IDLE = (
    *("atlas/encoder.cov_router.chart_queries", "atlas/decoder.cov_router.chart_key_proj."),
    *("atlas/encoder.key_proj.", "atlas/encoder.chart_queries"),
)
"""Beginnings of names that no output there depends on, the last two without covariant attention alone."""


def original(path: str, charts: int) -> tuple[str, ...]:
    """Names there of a leaf here: one, or one a chart where the leaf is a stack over charts.

    Args:
      path: in the params or the power-iteration vectors, `encoder/value/kernel`.
      charts: N.

    Raises:
      KeyError: the original has no such leaf.
    """
    if path in _HEADS:
        return (_HEADS[path],)
    if path in _PLAIN:
        return (f"atlas/{_PLAIN[path]}",)
    head, leaf = path.rsplit("/", 1)
    if head in _STACKED:
        return tuple(f"{_STACKED[head]}.{n}.{_ENDINGS[leaf]}" for n in range(charts))
    return (f"atlas/{_LINEAR[head]}.{_ENDINGS[leaf]}",)


def trained(names: Iterable[str]) -> list[str]:
    """Those of the names that are parameters, in their order, which is that of the optimizer's indices."""
    return [name for name in names if not name.endswith(_BUFFERS)]


def filled(like: Params, values: Mapping[str, np.ndarray], charts: int) -> tuple[Params, list[str]]:
    """A tree with the original's values, and the leaves it has none for, which stay as they are.

    Args:
      like: params or power-iteration vectors of the atlas.
      values: name there → array.
      charts: N.

    Raises:
      ValueError: a value of another size than its leaf; the message names both.
    """
    missing = []

    def leaf(path: tuple, here: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        try:
            there = original(name, charts)
        except KeyError:
            there = ("",)
        if not all(key in values for key in there):
            missing.append(name)
            return here
        stacked = np.stack([values[key] for key in there]) if len(there) > 1 else values[there[0]]
        if stacked.size != here.size:
            raise ValueError(f"{there[0]} has shape {list(values[there[0]].shape)}, {name} wants {list(here.shape)}")
        return jnp.asarray(stacked.reshape(here.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, like), missing


def unknown(names: Iterable[str], trees: Iterable[Params], charts: int) -> list[str]:
    """Those of the names that have no leaf here, though outputs there may depend on them.

    Args:
      names: of tensors there.
      trees: params and power-iteration vectors of the atlas.
      charts: N.
    """
    known = {f"precisions/{name}" for name in PRECISIONS.values()}
    for tree in trees:
        for path, _ in jax.tree_util.tree_leaves_with_path(tree):
            with contextlib.suppress(KeyError):
                known |= set(original(jax.tree_util.keystr(path, simple=True, separator="/"), charts))
    return [name for name in names if name not in known and not name.startswith(_IDLE)]
