"""Whether a configuration makes sense, said before anything is loaded or compiled."""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from topojax.atlas.controllers import make_control, select_rows
from topojax.atlas.coupling import MODES
from topojax.atlas.feasible import conflicts
from topojax.atlas.geometry import METRICS
from topojax.atlas.hierarchy import ACTIONS, GROUPS
from topojax.atlas.model.atlas import BALL_RADIUS
from topojax.atlas.model.frontends import FRONTENDS
from topojax.atlas.model.layers import MATMUL
from topojax.atlas.model.learned_metric import DISTANCES
from topojax.atlas.optim import KEEPS_ADAM, RATES
from topojax.atlas.system import ESTIMATES, RATE_SIGNALS
from topojax.atlas.table import unit_values
from topojax.atlas.terms import INVARIANCES
from topojax.config.io import flat
from topojax.config.memory import require_sizes
from topojax.data import fit, modes, own, sets
from topojax.errors import UserError

INTERVALS: dict[str, tuple[str, ...]] = {
    "[0, 2147483647]": ("seed",),
    "[1, inf)": (
        "model.hidden_dim",
        "model.latent_dim",
        "model.codes_per_chart",
        "model.channels",
        "model.rotations",
        "model.rank",
        "baselines.codes",
        "train.epochs",
        "optim.plateau_patience",
        "train.batch_size",
        "train.accumulate",
        "mesh.data",
        "mesh.processes",
        "governor.grow",
        "governor.recover",
        "governor.stable_patience",
        "governor.unstable_patience",
        "gates.ramp_epochs",
        "window.capacity_horizon",
        "targets.warmup_epochs",
        "probe.every_steps",
        "geometry.calibrations",
        "hierarchy.recover",
        "revival.every_epochs",
        "monitor.saturation_patience",
        "monitor.max_failures",
        "checkpoint.every_epochs",
        "checkpoint.keep",
        "log.every_epochs",
        "losses.orthogonality_every",
        "losses.window_power",
    ),
    "[2, inf)": ("model.num_charts", "data.num_examples", "probe.size"),
    "[0, inf)": (
        *(f"{block}.{name}" for block in ("augment", "view") for name in ("rotation", "shift", "noise_std")),
        "data.noise",
        "data.neighbours",
        "model.center_scale",
        "model.code_scale",
        "model.jump_rank",
        "model.router_gain",
        "model.key_offset",
        "model.chart_gain",
        "model.chart_bias",
        "model.class_affinity",
        "model.readout_bundle",
        "model.metric_bundle",
        "losses.metric_l1",
        "baselines.commitment",
        "optim.warmup_epochs",
        "optim.update_ratio",
        "governor.spike_tolerance",
        "governor.grounding_warmup",
        "governor.plateau_patience",
        "governor.plateau_tolerance",
        "governor.freeze_limit",
        "optim.latent_speed",
        "optim.grad_clip",
        "optim.average",
        "ending.least_gain",
        "checkpoint.every_steps",
        "mesh.process",
        "mesh.members",
        *(f"optim.group_rates.{group}" for group in GROUPS),
        "losses.hinge_margin",
        "gates.hold_epochs",
        "monitor.max_rollbacks",
        "gates.warmup_epochs",
        "profile",
        "population.size",
        "population.chunk",
        "population.exploit_every_epochs",
        "hierarchy.freeze_limit",
    ),
    "(0, inf)": (
        "model.readout_gain",
        "model.ball_scale",
        "optim.learning_rate",
        "baselines.learning_rate",
        "optim.learning_rate_max",
        "optim.learning_rate_min",
        "optim.eps",
        "supervised.temperature",
        "losses.recon_weight",
        "ending.share",
        "losses.separation_margin",
        "losses.center_margin",
        "losses.metric_margin",
        "losses.prior_std_n",
        "losses.prior_std_tex",
        "losses.code_temperature",
        "gates.stability",
        "targets.warmup_minimum",
        "hierarchy.delta_gamma",
        "hierarchy.gamma_alpha",
    ),
    "[0, 1]": ("losses.told_share",),
    "[0, 1)": (
        "augment.scale",
        "view.scale",
        "optim.b1",
        "optim.b2",
        "governor.loss_decay",
        "governor.grounding_decay",
        "monitor.usage_decay",
        "targets.warmup_decay",
        "geometry.decay",
        "hierarchy.margin",
        "hierarchy.decay",
        "revival.dead_code",
        "revival.dead_chart",
    ),
    "[0.1, 10]": ("geometry.initial_length",),
    "(0, 1)": (
        "optim.plateau_factor",
        "window.capacity_fraction",
        "window.capacity_floor",
        "data.test_fraction",
        "monitor.over_mixing_high",
        "monitor.over_mixing_low",
    ),
    "(0, 1]": (
        "losses.told_share",
        "governor.shrink",
        "ending.floor",
        "governor.recovery_threshold",
        "hierarchy.shrink",
        "hierarchy.minimum",
    ),
}
"""Interval → the fields that must lie in it; a field that is unset is not asked."""

CHOICES: dict[str, tuple[str, ...]] = {
    "init_control": ("fresh", "kept"),
    "data.missing": own.MISSING,
    "data.mode": modes.MODES,
    "data.scale": fit.SCALES,
    "model.tensorization": ("sum", "full"),
    "model.straight_through": ("detached", "parity"),
    "model.matmul": MATMUL,
    "model.frontend": FRONTENDS,
    "model.renderer": ("flat", "conv"),
    "model.metric": DISTANCES,
    "optim.rate": RATES,
    "optim.schedule": ("ending", "none", "cosine"),
    "train.until": ("settled", "epochs"),
    "losses.likelihood": ("profile", "fixed"),
    "governor.signal": RATE_SIGNALS,
    "losses.metric_distance": ("overlap", "latent"),
    "losses.orbit_distance": ("kl", "overlap"),
    "window.ground": MODES,
    "window.estimate": tuple(ESTIMATES),
    "geometry.metric": METRICS,
    "hierarchy.action": ACTIONS,
    "monitor.on_saturation": ("warn", "freeze", "halt"),
}
"""Field → the words it may be."""

_LARGEST_JUMP_RANK = 4096
_LARGEST_LATENT = 512
"""Distances to codes are written out coordinate by coordinate: a program of thousands takes hours to compile."""
LARGEST_INTEGER = 2**31 - 1
"""Programs count in int32."""
LARGEST_FLOAT = 3.4028235e38
"""Of float32."""


def validate(config: Any, *, trained: bool = False) -> None:
    """Refuse a configuration that cannot train, or would train to nonsense.

    Args:
      config: a whole configuration (`config.default_config`).
      trained: it is that of a run, whose data may lie elsewhere by now, or be gone.

    Raises:
      UserError: for the first field found wrong, with its value and what it may be.
    """
    fields = dict(flat(config))
    if not config.name.strip():
        raise UserError("config.name is empty: name the run")
    for name, value in fields.items():
        if isinstance(value, float) and not abs(value) <= LARGEST_FLOAT:
            raise UserError(f"config.{name} = {value}: must be a finite number, of float32 (up to {LARGEST_FLOAT:.1e})")
    for name, known in CHOICES.items():
        _choose(name, fields[name], known)
    if not trained:
        sets.locate(config.data.name, config.data.data_dir)
    for interval, names in INTERVALS.items():
        for name in names:
            if fields[name] is not None and not _inside(fields[name], interval):
                raise UserError(f"config.{name} = {fields[name]}: must lie in {interval}")
    require_sizes(config)
    for name, value in fields.items():
        if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            raise UserError(f"config.{name} = {value}: must lie in [{-LARGEST_INTEGER}, {LARGEST_INTEGER}]")
    if not config.mlflow.experiment.strip():
        raise UserError("config.mlflow.experiment is empty: name the experiment")
    _rates(config.optim)
    _sizes(config.model)
    _revival(config)
    _glue(config)
    _mesh(config)
    _contracts(config)


def _mesh(config: Any) -> None:
    devices, size = config.mesh.data, config.train.batch_size
    _processes(config)
    if size % devices:
        raise UserError(f"config.mesh.data = {devices}: must divide config.train.batch_size = {size}")
    several = bool(config.population.size or config.population.sweep)
    if config.mesh.members and not several:
        raise UserError(
            f"config.mesh.members = {config.mesh.members}: is of a population; mesh.data spreads the batches of one run"
        )
    mode = config.data.mode
    if mode in ("host", "stream") and several:
        raise UserError(f"config.data.mode = {mode!r}: a population trains from memory, set it to auto or memory")


def _processes(config: Any) -> None:
    mesh, number, size = config.mesh, config.mesh.processes, config.train.batch_size
    if mesh.process >= number:
        raise UserError(f"config.mesh.process = {mesh.process}: must be less than config.mesh.processes = {number}")
    if number == 1:
        return
    several = f"config.mesh.processes = {number}"
    if size % number:
        raise UserError(f"{several}: must divide config.train.batch_size = {size}")
    if mesh.data % number:
        raise UserError(f"config.mesh.data = {mesh.data}: counts the devices of all, a multiple of {several}")
    if mesh.coordinator is None:
        raise UserError(f"{several}: set config.mesh.coordinator to the host:port at which process 0 is reached")
    if not re.fullmatch(r"\S+:[0-9]{1,5}", mesh.coordinator) or not 0 < int(mesh.coordinator.split(":")[-1]) < 2**16:
        raise UserError(f"config.mesh.coordinator = {mesh.coordinator!r}: must be host:port, as 10.0.0.1:4321")
    if config.population.size or config.population.sweep:
        raise UserError(f"{several}: a population is trained by one process, set it to 1")


def _glue(config: Any) -> None:
    compared = any(config.contracts[name].enabled for name in INVARIANCES)
    if config.losses.glue and not (config.model.discs and compared):
        raise UserError(
            "config.losses.glue = True: needs config.model.discs, and a second view: enable contracts.orbit or "
            "contracts.vicreg_inv"
        )


def _choose(name: str, value: Any, known: Iterable[str]) -> None:
    known = tuple(known)
    if value not in known:
        close = difflib.get_close_matches(str(value), known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"config.{name} = {value!r}: {hint}choose one of {', '.join(known)}")


def _inside(value: float, interval: str) -> bool:
    """Whether a number lies there, also as the float32 that programs will have: 1e-50 is 0."""
    rounded = float(np.float32(value)) if isinstance(value, float) else value
    if rounded != value and not _inside(rounded, interval):
        return False
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


def _rates(optim: Any) -> None:
    if optim.rate == "schedule_free" and optim.b1 == 0:
        raise UserError("config.optim.b1 = 0: schedule_free divides by it; choose a value in (0, 1)")
    low, rate, high = optim.learning_rate_min, optim.learning_rate, optim.learning_rate_max
    if low > high:
        raise UserError(f"config.optim.learning_rate_min = {low}: must not exceed learning_rate_max = {high}")
    if optim.rate != "governor" and not low <= rate <= high:
        raise UserError(
            f"config.optim.learning_rate = {rate}: must lie between learning_rate_min = {low} "
            f"and learning_rate_max = {high}"
        )


def _revival(config: Any) -> None:
    if (config.revival.dead_code or config.revival.dead_chart) and config.optim.rate not in KEEPS_ADAM:
        raise UserError(
            f"config.optim.rate = {config.optim.rate!r}: a revival resets Adam's moments, which it does not keep; set "
            "config.revival.dead_code and dead_chart to 0"
        )


def _sizes(model: Any) -> None:
    bundle, latent = model.readout_bundle, model.latent_dim
    if bundle and latent % bundle:
        raise UserError(f"config.model.readout_bundle = {bundle}: must divide latent_dim = {latent}, or be 0 for all")
    if latent > _LARGEST_LATENT:
        raise UserError(f"config.model.latent_dim = {latent}: must be at most {_LARGEST_LATENT}")
    if model.jump_rank > _LARGEST_JUMP_RANK:
        raise UserError(
            f"config.model.jump_rank = {model.jump_rank}: must be at most {_LARGEST_JUMP_RANK}; 0 is latent_dim"
        )


def _contracts(config: Any) -> None:
    """Build the controllers for their own checks, and hold the targets against each other."""
    charts, codes = config.model.num_charts, config.model.codes_per_chart
    try:
        make_control(config, num_classes=2)
    except ValueError as error:
        raise UserError(f"config.{str(error).removeprefix('config.')}") from error
    rows = select_rows(config)
    if config.window.ground == "capacity":  # the largest ε that it can come to
        largest = {"target": config.window.capacity_fraction, "unit": "log_charts"}
        rows = tuple(dataclasses.replace(row, **largest) if row.name == "window" else row for row in rows)
    found = conflicts(
        rows,
        unit_values(charts=charts, codes=codes, classes=2),
        two_sided=config.losses.window_two_sided,
        largest_energy=BALL_RADIUS**2 if config.model.ball else math.inf,
    )
    if found:
        raise UserError(f"config.{found[0]}")
