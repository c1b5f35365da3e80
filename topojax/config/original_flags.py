"""The command-line flags of the original program, as one table: what each becomes here, or why it becomes nothing.

`config.migrate_flags` translates lines with it and prints docs/flags.md from it. A flag that concerns several
fields, or whose meaning hangs on another flag, says so by a function of its value and of all values.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from topojax.atlas.table import MECHANISMS, TABLE

Fields = dict[str, Any]
"""Configuration field → value."""
Translation = Callable[[Any, Mapping[str, Any]], Fields]
"""(value of the flag, values of all flags) → fields."""


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag of the original.

    Attributes:
      name: without dashes.
      default: there; its type is the flag's, None a string that is not set.
      target: what the table shows: a configuration field or a flag of `topojax train`; empty where there is none.
      remark: how the two differ; where there is no target, why.
      fields: what it sets.
      switch: takes no value: there or not.
      carried: a line that does not name it means its default: sizes, data, rate. For the other flags topojax's own
        defaults hold, unless asked (`topojax migrate-flags --defaults`).
    """

    name: str
    default: Any
    target: str
    remark: str = ""
    fields: Translation = lambda value, every: {}
    switch: bool = False
    carried: bool = False


def _same(name: str, default: Any, field: str, remark: str = "", *, carried: bool = False) -> Flag:
    return Flag(name, default, field, remark, lambda value, every: {field: value}, carried=carried)


def _text(name: str, field: str, remark: str = "") -> Flag:
    return Flag(name, "", field, remark, lambda value, every: {field: value} if value else {})


def _none(name: str, default: Any, why: str, *, switch: bool = False) -> Flag:
    return Flag(name, default, "", why, switch=switch)


def _weight(name: str, default: float, *rows: str, field: str = "initial", remark: str = "") -> Flag:
    """A weight of 0 switches the contracts off: there it did not, while weights were adaptive."""

    def fields(value: float, every: Mapping[str, Any]) -> Fields:
        out: Fields = {f"contracts.{row}.enabled": value > 0 for row in rows}
        return out | {f"contracts.{row}.{field}": value for row in rows if value > 0}

    target = ", ".join(f"contracts.{row}.{field}" for row in rows)
    return Flag(name, default, target, remark or "0 also sets `enabled` to false", fields)


_FIXED = ("sup_temperature", "route")
"""Contracts of weights that the original never adapted."""


def _rows(name: str, default: Any, field: str, *mechanisms: str, remark: str = "", also: Fields | None = None) -> Flag:
    """One value for every contract of some mechanisms. The window's target is never a warm-up's."""
    adaptive = [row for row in TABLE if row.mechanism in mechanisms and row.name not in _FIXED]
    if also:
        adaptive = [row for row in adaptive if row.name != "window"]
    if field == "minimum":  # 0 would hold a weight that is multiplied
        adaptive = [row for row in adaptive if row.form != "multiplicative"]

    def fields(value: Any, every: Mapping[str, Any]) -> Fields:
        out = {f"contracts.{row.name}.{field}": value for row in adaptive}
        return out | {f"contracts.{row.name}.{f}": v for row in adaptive for f, v in (also or {}).items()}

    return Flag(name, default, f"contracts.*.{field}", remark or f"of every `{'`, `'.join(mechanisms)}` row", fields)


def _rate(value: Any, every: Mapping[str, Any]) -> Fields:
    """Who sets the rate: there the adaptive rate replaced the cosine, and never came down; here its end lowers it."""
    adaptive, scheduled = every["adaptive_lr"], every["use_scheduler"]
    return {
        "optim.rate": "governor" if adaptive else "constant",
        "optim.schedule": "ending" if adaptive else "cosine" if scheduled else "none",
    }


def _bounds(value: Any, every: Mapping[str, Any]) -> Fields:
    return {"optim.learning_rate": every["lr"], "optim.learning_rate_max": every["lr_max"] or every["lr"]}


def _head_rate(value: float, every: Mapping[str, Any]) -> Fields:
    return {"optim.group_rates.heads": value / every["lr"] if value else 1.0}


def _baseline(name: str, kind: str) -> Flag:
    field = f"baselines.{kind}"
    remark = "false; baselines were trained there unless disabled"
    return Flag(name, False, field, remark, lambda value, every: {field: not value}, switch=True, carried=True)


def _ramp(value: Any, every: Mapping[str, Any]) -> Fields:
    return {"gates.ramp_epochs": max(1, every["jump_ramp_end"] - every["jump_warmup"])}


_VISION = "the front end `rotation` has one form, of rotations alone"
_SHAPE = "the data set knows its own shape"
_METRIC = "the learned distance has one form"
_ROUTER = "a constant of the router, with the original's value"

FLAGS: tuple[Flag, ...] = (
    _same("epochs", 1000, "train.epochs", "there one pass more was run than asked for", carried=True),
    _same("dataset", "mnist", "data.name", "and the file of `--config`", carried=True),
    Flag("lr", 1e-3, "optim.learning_rate", "also the maximum, where `--lr_max` is 0", _bounds, carried=True),
    _same("batch_size", 256, "train.batch_size", carried=True),
    _same("n_samples", 3000, "data.num_examples", carried=True),
    _same("test_split", 0.2, "data.test_fraction", carried=True),
    _same("num_charts", 10, "model.num_charts", carried=True),
    _same("codes_per_chart", 21, "model.codes_per_chart", carried=True),
    _same("latent_dim", 2, "model.latent_dim", carried=True),
    _same("hidden_dim", 32, "model.hidden_dim", carried=True),
    _same("covariant_attn", True, "model.covariant"),
    _same("covariant_attn_tensorization", "sum", "model.tensorization"),
    _same("covariant_attn_rank", 8, "model.rank"),
    _none("covariant_attn_tau_min", 0.01, _ROUTER),
    _none("covariant_attn_denom_min", 0.001, _ROUTER),
    _same("covariant_attn_use_transport", True, "model.transport"),
    _none("covariant_attn_transport_eps", 0.001, _ROUTER),
    Flag(
        "vision_preproc",
        False,
        "model.frontend",
        "rotation or flat; one of this package's own, with other kernels and pooling",
        lambda value, every: {"model.frontend": "rotation" if value else "flat"},
    ),
    _none("vision_in_channels", 0, _SHAPE),
    _none("vision_height", 0, _SHAPE),
    _none("vision_width", 0, _SHAPE),
    _same("vision_num_rotations", 8, "model.rotations"),
    _none("vision_kernel_size", 5, _VISION),
    _none("vision_use_reflections", False, _VISION),
    _none("vision_norm_nonlinearity", "n_sigmoid", _VISION),
    _none("vision_norm_bias", True, _VISION),
    _none("soft_equiv", False, _METRIC, switch=True),
    Flag(
        "soft_equiv_metric",
        False,
        "model.metric",
        "soft_equivariant or euclid; here it learns from reconstruction and quantisation, not from its penalty alone",
        lambda value, every: {"model.metric": "soft_equivariant" if value else "euclid"},
    ),
    _same("soft_equiv_bundle_size", 0, "model.metric_bundle", "0 is one bundle"),
    _none("soft_equiv_hidden_dim", 64, _METRIC),
    _none("soft_equiv_use_spectral_norm", True, _METRIC),
    _none("soft_equiv_zero_self_mixing", False, _METRIC),
    _same("soft_equiv_l1_weight", 0.0, "losses.metric_l1"),
    Flag(
        "window_eps_ground",
        0.1,
        "contracts.window.target",
        "nats there, a fraction of log N here by default: sets `unit` to nat as well",
        lambda value, every: {"contracts.window.target": value, "contracts.window.unit": "nat"},
    ),
    _same("log_every", 100, "log.every_epochs", carried=True),
    _same("save_every", 100, "checkpoint.every_epochs", carried=True),
    Flag("output_dir", None, "--workdir", "the run's folder, resumed by the same command"),
    _none(
        "resume",
        "",
        "the same line goes on from its --workdir; `topojax import-torch` makes one of a .pt file",
    ),
    _same("mlflow", False, "mlflow.enabled"),
    _text("mlflow_tracking_uri", "mlflow.tracking_uri"),
    _text("mlflow_experiment", "mlflow.experiment"),
    _text("mlflow_run_name", "mlflow.run_name"),
    _same("seed", 42, "seed", carried=True),
    Flag("device", None, "JAX_PLATFORMS=", "an environment variable of JAX, before the command"),
    _weight("codebook_center_weight", 0.05, "codebook_center"),
    _weight("chart_center_sep_weight", 0.05, "chart_center_sep"),
    Flag(
        "chart_center_sep_margin",
        2.0,
        "losses.center_margin",
        "margins are measured here: sets `geometry.margins` to false as well",
        lambda value, every: {"losses.center_margin": value, "geometry.margins": False},
    ),
    _weight("residual_scale_weight", 0.01, "residual_scale"),
    _weight("per_chart_code_entropy_weight", 0.1, "per_chart_code_entropy"),
    _weight("code_entropy_weight", 0.0, "code_entropy"),
    _weight("kl_prior_weight", 0.01, "prior_n", "prior_tex", remark="structured residual and texture apart"),
    _weight("orbit_weight", 0.0, "orbit"),
    _weight("vicreg_inv_weight", 0.0, "vicreg_inv"),
    _same(
        "augment_noise_std", 0.1, "view.noise_std", "of the second view; the training inputs' is `augment.noise_std`"
    ),
    _same("augment_rotation_max", 0.3, "view.rotation", "radians; ignored there"),
    Flag(
        "use_scheduler",
        True,
        "optim.schedule",
        "cosine or none; with the governor `ending`",
        _rate,
        carried=True,
    ),
    _none("min_lr", 1e-5, "the cosine ends at 1 % of `optim.learning_rate_max`"),
    Flag("adaptive_lr", True, "optim.rate", "governor or constant", _rate, carried=True),
    _same("lr_min", 1e-6, "optim.learning_rate_min"),
    Flag("lr_max", 0.0, "optim.learning_rate_max", "0 is the value of `--lr`", _bounds, carried=True),
    _same("lr_increase_factor", 1.02, "governor.grow"),
    _same("lr_decrease_factor", 0.5, "governor.shrink"),
    _same("lr_max_update_ratio", 0.001, "optim.update_ratio", "there of the gradient, here of the update made"),
    _same("lr_ema_decay", 0.98, "governor.loss_decay"),
    _same("lr_loss_increase_tol", 0.05, "governor.spike_tolerance"),
    _same("lr_grounding_warmup_epochs", 0, "governor.grounding_warmup"),
    _same("lr_unstable_patience", 3, "governor.unstable_patience", "epochs in either, though its help said batches"),
    _same("lr_stable_patience", 5, "governor.stable_patience"),
    _same("lr_plateau_patience", 10, "governor.plateau_patience"),
    _same("lr_plateau_tol", 0.001, "governor.plateau_tolerance"),
    _same("lr_grounding_ema_decay", 0.98, "governor.grounding_decay"),
    _same("lr_recovery_factor", 1.1, "governor.recover"),
    _same("lr_recovery_threshold", 0.1, "governor.recovery_threshold"),
    _same("grad_clip", 1.0, "optim.grad_clip"),
    _rows("adaptive_weights", True, "adaptive", *MECHANISMS, remark="of every row"),
    _same("adaptive_warmup_epochs", 10, "targets.warmup_epochs", "of rows whose `target_rule` is warmup"),
    _rows("adaptive_dual_eta", 0.05, "rate", "dual"),
    _rows("adaptive_pi_kp", 0.05, "kp", "pid"),
    _rows("adaptive_pi_ki", 0.01, "ki", "pid"),
    _rows("adaptive_pi_kd", 0.0, "kd", "pid"),
    _rows("adaptive_lambda_min", 0.0, "minimum", "dual", "pid"),
    _rows("adaptive_lambda_max", 10.0, "maximum", "dual", "pid"),
    _rows("adaptive_violation_clip", 2.0, "error_clip", "dual", "pid"),
    _rows(
        "adaptive_target_ratio",
        1.0,
        "ratio",
        "dual",
        remark="of every `dual` row but window's: sets `target_rule` to warmup as well",
        also={"target_rule": "warmup"},
    ),
    _same("adaptive_target_ema_decay", 0.98, "targets.warmup_decay"),
    _same("adaptive_target_min", 0.001, "targets.warmup_minimum"),
    _same("entropy_target_ratio", 0.5, "contracts.entropy.target", "of log N; a bound from above here"),
    _same("hk_target_ratio", 0.9, "contracts.diversity.target", "of log N"),
    Flag(
        "code_entropy_target_ratio",
        0.9,
        "contracts.code_entropy.target, contracts.per_chart_code_entropy.target",
        "of log K",
        lambda value, every: {f"contracts.{row}.target": value for row in ("code_entropy", "per_chart_code_entropy")},
    ),
    _same("consistency_target", 0.05, "contracts.consistency.target", "nats"),
    _same("use_learned_precisions", False, "precision.enabled"),
    _weight("jump_weight", 0.1, "jump", field="factor", remark="the weight is factor / λ_wfr²; 0 switches it off"),
    _none("jump_warmup", 50, "jumps wait until I(X;K) ≥ ε has held for `gates.hold_epochs`, not for an epoch"),
    Flag("jump_ramp_end", 100, "gates.ramp_epochs", "less `--jump_warmup`: epochs of the ramp", _ramp),
    _same("jump_global_rank", 0, "model.jump_rank", "0 is latent_dim, as its help said"),
    Flag(
        "disable_supervised",
        False,
        "supervised.enabled",
        "false",
        lambda value, every: {"supervised.enabled": not value},
        switch=True,
    ),
    _weight("sup_weight", 1.0, "route"),
    _weight("sup_purity_weight", 0.1, "sup_purity"),
    _weight("sup_balance_weight", 0.01, "sup_balance"),
    _weight("sup_metric_weight", 0.01, "sup_metric"),
    _same("sup_metric_margin", 1.0, "losses.metric_margin"),
    _same("sup_temperature", 1.0, "supervised.temperature"),
    _none(
        "disable_classifier_head", False, "the readout is detached and costs nothing: it is always there", switch=True
    ),
    Flag("classifier_lr", 0.0, "optim.group_rates.heads", "a share of the rate: divided by `--lr`", _head_rate),
    _same("classifier_bundle_size", 0, "model.readout_bundle"),
    _baseline("disable_ae", "autoencoder"),
    _baseline("disable_vq", "vq"),
    _none("baseline_attn", False, "the baselines have no attention block", switch=True),
    _none("baseline_attn_tokens", 4, "the baselines have no attention block"),
    _none("baseline_attn_dim", 32, "the baselines have no attention block"),
    _none("baseline_attn_heads", 4, "the baselines have no attention block"),
    _none("baseline_attn_dropout", 0.0, "the baselines have no attention block"),
)
"""Every flag, in the original's order."""

BY_NAME = {flag.name: flag for flag in FLAGS}


def translate(given: Mapping[str, Any], *, defaults: bool = False) -> Fields:
    """The configuration fields that a line of the original means.

    Args:
      given: flag → value, as on the line.
      defaults: every flag that the line does not name means the original's default, not only those `carried`.
    """
    every = {flag.name: flag.default for flag in FLAGS} | dict(given)
    out: Fields = {}
    for flag in FLAGS:
        if flag.name in given or flag.carried or defaults:
            out |= flag.fields(every[flag.name], every)
    return out
