"""From the configuration that a checkpoint of the original holds to one of this package, every switch of parity set.

What a field of the original becomes is the table of its command-line flags (`original_flags`), of which the checkpoint
holds all; what was hard-wired there stands here.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from topojax.atlas.table import TABLE
from topojax.config.defaults import default_config
from topojax.config.original_flags import BY_NAME, translate
from topojax.config.validate import validate
from topojax.errors import UserError, shown


class Saved(NamedTuple):
    """What a checkpoint of the original holds, as plain arrays and numbers."""

    epoch: int
    config: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]  # `atlas/encoder.codebook`, `jump/c`, `classifier/chart_logits`
    moments: Mapping[str, Mapping[int, Mapping[str, np.ndarray]]]  # atlas, classifier → index → step, exp_avg, …
    weights: Mapping[str, Mapping[str, float]]  # `entropy_weight` → value, integral
    targets: Mapping[str, float]  # term → its average over the warm-up
    rate: Mapping[str, float]  # lr, ixk_ema, stable_steps and so on


_ONLY = {
    "covariant_attn_tau_min": 0.01,
    "covariant_attn_denom_min": 0.001,
    "covariant_attn_transport_eps": 0.001,
    "vision_preproc": False,
    "soft_equiv_metric": False,
}
"""Options of the original with the one value that they have here."""

_KNOWN = (
    *("input_dim", "num_codes_standard", "vq_commitment_cost", "separation_margin", "num_classes"),
    *("enable_supervised", "enable_classifier_head", "resume_checkpoint"),
)
"""Fields of the original's configuration, beside its flags and weights."""

_SIZES = ("hidden_dim", "latent_dim", "num_charts", "codes_per_chart", "input_dim", "batch_size", "epochs")

PARITY: dict[str, Any] = {
    # The model as it was.
    "model.ball": False,
    "model.ball_scale": 1.0,
    "model.straight_through": "parity",
    "model.discs": False,
    "model.bounded": False,
    "model.router_gain": 0.0,
    "model.key_offset": 0.0,
    "model.chart_gain": 0.0,
    "model.chart_bias": 0.0,
    "model.gate_bias_init": 0.0,
    "model.class_affinity": 0.0,
    "model.matmul": "float32",
    "model.frontend": "flat",
    "model.renderer": "flat",
    "model.metric": "euclid",
    # Its losses.
    "losses.recon_weight": 1.0,
    "losses.hinge_margin": 0.0,
    "losses.told_share": 1.0,
    "losses.glue": False,
    "losses.metric_distance": "overlap",
    "losses.orbit_distance": "kl",
    "losses.window_two_sided": False,
    "losses.window_power": 2,
    "losses.likelihood": "fixed",
    "losses.jump_cycle": False,
    "losses.disentangle_parity": True,
    "losses.separation_margin": 2.0,
    "losses.center_margin": 2.0,
    "losses.prior_std_n": 1.0,
    "losses.prior_std_tex": 1.0,
    "geometry.margins": False,
    "window.ground": "target",
    # No transform of the training inputs, no revival, one phase.
    "augment.rotation": 0.0,
    "augment.shift": 0.0,
    "augment.scale": 0.0,
    "augment.noise_std": 0.0,
    "data.neighbours": 0,
    "revival.dead_code": 0.0,
    "revival.dead_chart": 0.0,
    "gates.warmup_epochs": 0,
    # Adam's moments are of these decays; caps that it did not have are off.
    "optim.b1": 0.9,
    "optim.b2": 0.999,
    "optim.eps": 1e-8,
    "optim.latent_speed": 0.0,
    "hierarchy.action": "warn",
    # Its baselines are in a file of their own.
    "baselines.autoencoder": False,
    "baselines.vq": False,
    "mlflow.enabled": False,
    "data.num_examples": None,
    "data.test_fraction": None,
}
"""Fields that make this program the original, whatever its defaults are."""

_SAME = (
    *("entropy", "consistency", "variance", "diversity", "separation", "codebook_center", "chart_center_sep"),
    *("residual_scale", "window", "disentangle", "orthogonality", "code_entropy", "per_chart_code_entropy", "orbit"),
    *("vicreg_inv", "jump", "sup_purity", "sup_balance", "sup_metric"),
)
WEIGHTS = {
    **{name: f"{name}_weight" for name in _SAME},
    "prior_n": "kl_prior_weight",
    "prior_tex": "kl_prior_weight",
}
"""Contract → the weight of the original that it takes the place of."""

TARGETS = {
    name: WEIGHTS[name].removesuffix("_weight")
    for name in (
        *(
            "variance",
            "separation",
            "chart_center_sep",
            "codebook_center",
            "residual_scale",
            "disentangle",
            "orthogonality",
        ),
        *("prior_n", "prior_tex", "orbit", "vicreg_inv", "jump", "sup_purity", "sup_balance", "sup_metric"),
    )
}
"""Contract → the term of the original whose average over a warm-up set its target."""

WITHOUT_GRADIENT = ("entropy", "code_entropy", "per_chart_code_entropy")
"""Contracts whose terms were counts or plain numbers there: their weights ran to a bound and moved nothing, so they are
off here. Their loss would act at once, with a weight that nothing has held."""
_PI = ("entropy", "diversity", "code_entropy", "per_chart_code_entropy")
_COMPUTED_ONLY_IF_WEIGHED = ("orbit", "vicreg_inv")
_LARGEST_WEIGHT = 1e6


_TRAINED_BY = (
    *("contracts.", "governor.", "targets.", "optim.", "gates.", "geometry.", "losses.", "window.", "augment."),
    *("view.", "hierarchy.", "revival.", "precision."),
)


def config_of(
    there: Mapping[str, Any], weights: Mapping[str, float], *, rate: float, fresh: bool = False
) -> ConfigDict:
    """The configuration of a run that goes on from a checkpoint.

    Args:
      there: `config` of the checkpoint.
      weights: contract → its weight at the checkpoint (`weights_of`).
      rate: the learning rate in force.
      fresh: losses, contracts and rate are this package's defaults, and only the model is the original's.

    Raises:
      UserError: an option that does not exist here, by name and value; a field missing; values that cannot train.
    """
    for field in (*_SIZES, *_ONLY):
        if field not in there:
            raise UserError(f"the checkpoint's configuration has no {field}: it is not of the original program")
    for field, value in _ONLY.items():
        if there[field] != value:
            raise UserError(f"the checkpoint has {field} = {shown(str(there[field]))}: here it can be {value} alone")
    known = {*BY_NAME, *WEIGHTS.values(), *_ONLY, *_KNOWN}
    if unknown := [f"{shown(str(field))} = {shown(repr(there[field]))}" for field in _set(there) - known]:
        raise UserError(f"the checkpoint has options that do not exist here: {', '.join(sorted(unknown)[:5])}")
    config = default_config()
    given = {name: there[name] for name in BY_NAME if there.get(name) is not None}
    given["disable_supervised"] = not there.get("enable_supervised", True)
    try:
        fields = translate(given, defaults=True)
        fields |= PARITY | _contracts(there, weights) | _rates(there, rate)
        fields.pop("data.name")
        if fresh:
            fields = {k: v for k, v in fields.items() if not k.startswith(_TRAINED_BY)}
        config.update_from_flattened_dict({name: _typed(config, name, value) for name, value in fields.items()})
        if not fresh:
            config.losses.separation_margin = float(there.get("separation_margin", 2.0))
        config.train.epochs = max(1, int(there["epochs"]))
    except (TypeError, ValueError, KeyError, OverflowError, AttributeError) as error:
        raise UserError(f"the checkpoint's configuration cannot be read: {shown(str(error), 200)}") from error
    validate(config)
    return config


def _set(there: Mapping[str, Any]) -> set[str]:
    """Fields that are not off: what is off changes nothing, whatever it is."""
    return {field for field, value in there.items() if not isinstance(value, (int, float, str, type(None))) or value}


def _typed(config: ConfigDict, name: str, value: Any) -> Any:
    """A number in the type that the field has: the file may hold an integer where a float belongs."""
    at: Any = config
    for part in name.split("."):
        at = at[part]
    return float(value) if isinstance(at, float) and isinstance(value, int) else value


def weights_of(there: Mapping[str, Any], states: Mapping[str, Any]) -> dict[str, float]:
    """Contract → its weight, of the adaptive states where they are, else of the configuration.

    Labels' rows are multiplied with `sup_weight`, as they were there.

    Raises:
      UserError: a weight that is no number ≥ 0.
    """
    out = {}
    for name, key in WEIGHTS.items():
        value = states[key]["value"] if key in states else there.get(key, 0.0)
        if not isinstance(value, int | float) or not 0 <= value <= _LARGEST_WEIGHT:
            raise UserError(f"the checkpoint has {key} = {shown(str(value))}: a weight is a number ≥ 0")
        out[name] = float(value) * (float(there.get("sup_weight", 1.0)) if name.startswith("sup_") else 1.0)
    return out


def _contracts(there: Mapping[str, Any], weights: Mapping[str, float]) -> dict[str, Any]:
    """Each contract starts with the weight that was reached, and nothing waits but jumps for the window."""
    adaptive, top = bool(there.get("adaptive_weights", True)), float(there.get("adaptive_lambda_max", 10.0))
    blocks: dict[str, dict[str, Any]] = {}
    for row in TABLE:
        block: dict[str, Any] = {"enabled": False, "adaptive": adaptive, "gate": "none", "form": ""}
        block |= {"damping": 0.0, "release": 0.0}
        block["target_rule"] = "warmup" if row.name in TARGETS else "absolute"
        if row.name in WEIGHTS:
            value = weights[row.name]
            on = value > 0 or (adaptive and row.name not in _COMPUTED_ONLY_IF_WEIGHED)
            block |= {
                "mechanism": "pid" if row.name in _PI else "dual",
                "initial": value,
                "minimum": 0.0,
                "maximum": max(top, value),
                "enabled": on and row.name not in WITHOUT_GRADIENT,
            }
        blocks[row.name] = block
    blocks["jump"] |= {"gate": "window"}
    sup = float(there.get("sup_weight", 1.0))
    constant = {"mechanism": "constant", "enabled": True, "minimum": 0.0}
    blocks["route"] |= constant | {"initial": sup, "maximum": max(top, sup)}
    blocks["commitment"] |= constant | {"initial": 0.25, "maximum": top}
    return {f"contracts.{name}.{field}": value for name, block in blocks.items() for field, value in block.items()}


def _rates(there: Mapping[str, Any], rate: float) -> dict[str, Any]:
    first = float(there.get("lr", rate))
    top = max(float(there.get("lr_max") or first), rate)
    low = min(float(there.get("lr_min", 1e-6)), rate)
    return {"optim.learning_rate": rate, "optim.learning_rate_max": top, "optim.learning_rate_min": low}
