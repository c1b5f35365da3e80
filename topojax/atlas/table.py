"""The contracts: which measured signal each loss weight must keep where, as one table of data.

A contract says: drive the weight of loss `name` by `mechanism` until `signal` `relation` `target`. One sign rule
holds everywhere: a positive error raises the weight,

    e = s (m − target) / scale,      s = +1 where the weight lowers the metric m, −1 where it raises it.

Errors are dimensionless: set-points are divided by their unit (the log of the alphabet), constraints by their target.
A weight may instead *track* a measured quantity (a ratio of gradient norms, 1/λ_wfr²); its contract is then audited,
but does not move it. Source: report §3, theory 1.14. Deviation from the original: targets are absolute unless asked.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from topojax.control import rows as control_rows
from topojax.control.base import is_known
from topojax.control.rows import MECHANISMS, RELATIONS, TARGET_RULES

GATES = ("none", "warmup", "hold", "window")
UNITS = ("1", "nat", "log_charts", "log_codes", "log_classes")


MOST = 100.0
"""Where a weight stops that nothing it weighs against can hold: the contract cannot be kept, and that is said."""


@dataclasses.dataclass(frozen=True)
class Contract(control_rows.Contract):
    """A row of the atlas's table: a row of control, with what only an atlas has.

    Attributes:
      name: loss term whose weight this is (`losses.py`).
      signal: key of the signal that is held (`signals.py`).
      unit: `1`, `nat`, or the log of an alphabet: `log_charts`, `log_codes`, `log_classes` (nats each).
      gate: what the row waits for. `none`: nothing. `warmup`: its weight is 0 in phase 1, reconstruction and
        quantisation alone (`gates.warmup_epochs`). `hold`: its weight stays at `initial` until the coupling window has
        held once (a contract that cannot be met before charts are grounded would only wind up). `window`: its weight is
        0 until then, and ramps after.
      wants_labels: the row is left out when labels are not used.
      per_chart: one weight, error and controller for each chart.
    """

    initial: float = 1.0  # where a likelihood in nats stands; control takes it from there
    maximum: float = MOST
    release: float = 1.0  # from `maximum` to 1 in some ten epochs, where there is nothing to hold

    wants_labels: bool = False
    per_chart: bool = False


WIDER = "use a wider model (hidden_dim) or look at the router's temperature"
FEWER_CODES = "use fewer codes per chart"

TABLE: tuple[Contract, ...] = (
    # Weights of likelihoods: gradients of codebook and commitment comparable; labels known as well as neighbours know
    # them (config.found), at least to within 0.05 nats. A likelihood weighs 1, and more where that is too little.
    Contract(
        "commitment",
        "track",
        "vq_balance",
        "=",
        1.0,
        "1",
        "lift its bounds",
        minimum=1e-6,
        follows="vq_ratio",
    ),
    Contract(
        "route",
        "dual",
        "route",
        "<=",
        0.05,
        "nat",
        "use more charts, a wider model or weaker augmentation",
        minimum=1.0,
        form="multiplicative",
        rate=0.3,
        follows="route_ratio",
        wants_labels=True,
    ),
    # Routing: sharp charts, all of them used, the decoder in step with the encoder, charts that say something of x.
    Contract("entropy", "pid", "H_K_given_X", "<=", 0.2, "log_charts", WIDER, gate="window"),
    Contract(
        "diversity",
        "pid",
        "H_K",
        ">=",
        0.95,
        "log_charts",
        "use fewer charts",
        gate="warmup",
    ),
    # Places tell their charts by structure. What it takes to keep the decoder reading them is found within orders of
    # magnitude, so the multiplier moves by factors (GECO). Held at 0 from the start, digits come to 0.87 nats.
    Contract(
        "consistency",
        "dual",
        "consistency",
        "<=",
        0.02,
        "nat",
        WIDER,
        minimum=1e-6,
        form="multiplicative",
        rate=0.03,
        release=0.0,
    ),
    # The window answers for everything else: its weight returns within two epochs.
    Contract("window", "dual", "I_XK", ">=", 0.4, "log_charts", WIDER, rate=0.5),
    # Geometry of the latent: charts apart, no collapse, weights isotropic.
    Contract("separation", "dual", "separation", "<=", 0.1, "1", "use fewer charts or a smaller margin", gate="warmup"),
    Contract(
        "chart_center_sep",
        "dual",
        "chart_center_sep",
        "<=",
        0.1,
        "1",
        "use a smaller margin",
        gate="warmup",
    ),
    Contract("variance", "dual", "energy", ">=", 0.4, "1", "use a larger latent_dim", gate="warmup"),
    Contract("orthogonality", "dual", "orthogonality", "<=", 0.5, "1", "use a larger latent_dim", enabled=False),
    # Codes and residuals: every code used, offsets centred, residual small, texture independent of the chart.
    Contract(
        "per_chart_code_entropy",
        "pid",
        "H_code_in_chart",
        ">=",
        0.8,
        "log_codes",
        FEWER_CODES + ", or revive dead ones",
        gate="window",
        per_chart=True,
    ),
    Contract("code_entropy", "pid", "H_code", ">=", 0.8, "log_codes", FEWER_CODES, enabled=False),
    Contract("codebook_center", "dual", "codebook_center", "<=", 0.1, "1", FEWER_CODES, gate="hold"),
    Contract(
        "residual_scale",
        "dual",
        "residual_scale",
        "<=",
        0.2,
        "1",
        "use more codes per chart",
        gate="hold",
    ),
    Contract(
        "disentangle",
        "dual",
        "disentangle",
        "<=",
        0.02,
        "1",
        "use more codes per chart",
        gate="hold",
    ),
    Contract("prior_n", "dual", "prior_n", "<=", 0.5, "1", "targets of residual and prior disagree", enabled=False),
    Contract(
        "prior_tex",
        "dual",
        "prior_tex",
        "<=",
        0.5,
        "1",
        "targets of residual and prior disagree",
        enabled=False,
    ),
    # An example and a view of it, as far away as its nearest neighbour, are routed alike.
    Contract("orbit", "pid", "orbit", "<=", 0.1, "nat", "use weaker views"),
    # Invariances of the latent, and jumps: only once charts are grounded.
    Contract(
        "vicreg_inv",
        "pid",
        "vicreg_inv",
        "<=",
        0.05,
        "1",
        "use weaker augmentation",
        enabled=False,
        gate="window",
    ),
    # The reaction term's weight is c / λ_wfr² (report §3): it follows the geometry, and is audited by the jump's error.
    Contract(
        "jump",
        "track",
        "jump",
        "<=",
        0.1,
        "1",
        "use a larger jump_rank",
        gate="window",
        minimum=1e-6,
        follows="reaction",
        factor=0.1,
    ),
    # Labels: pure charts, classes apart. `sup_balance` is diversity's functional: one of the two adapts.
    Contract(
        "sup_purity",
        "dual",
        "class_entropy",
        "<=",
        0.15,
        "log_classes",
        "use at least as many charts as classes",
        gate="hold",
        wants_labels=True,
    ),
    Contract(
        "sup_balance",
        "dual",
        "balance",
        "<=",
        0.1,
        "nat",
        "use fewer charts",
        enabled=False,
        wants_labels=True,
    ),
    Contract(
        "sup_metric",
        "dual",
        "sup_metric",
        "<=",
        0.05,
        "1",
        "use more charts",
        gate="hold",
        wants_labels=True,
    ),
    # Not a loss weight but the log of the class temperature T of P(y|k), which spreads the classes of a chart.
    Contract(
        "sup_temperature",
        "pid",
        "class_entropy",
        ">=",
        0.1,
        "log_classes",
        "sup_purity pulls the other way: lower its target",
        enabled=False,
        initial=0.0,
        minimum=-2.3,
        maximum=2.3,
        gate="hold",
        wants_labels=True,
    ),
)
"""Every contract; `config.contracts.<name>.<field>` overrides a field of a row."""


def unit_values(*, charts: int, codes: int, classes: int) -> dict[str, float]:
    """Size of each unit: logs of the alphabets in nats, 1 otherwise."""
    logs = {
        "log_charts": math.log(charts),
        "log_codes": math.log(max(codes, 2)),
        "log_classes": math.log(max(classes, 2)),
    }
    return {"1": 1.0, "nat": 1.0, **logs}


def by_name(overrides: Mapping[str, Mapping[str, Any]], table: Iterable[Contract] = TABLE) -> dict[str, Contract]:
    """Every row, with its fields overridden, whether it takes part or not.

    Raises:
      ValueError: an unknown contract or field, naming it and the known ones.
    """
    rows = {row.name: row for row in table}
    for name, fields in overrides.items():
        if name not in rows:
            raise ValueError(f"unknown contract {name!r}; known are {', '.join(rows)}")
        unknown = sorted(set(fields) - {field.name for field in dataclasses.fields(Contract)})
        if unknown:
            raise ValueError(f"contract {name} has no field {unknown[0]!r}")
        rows[name] = dataclasses.replace(rows[name], **fields)
    return rows


def select(
    overrides: Mapping[str, Mapping[str, Any]], *, labels: bool, table: Iterable[Contract] = TABLE
) -> tuple[Contract, ...]:
    """The rows that take part in a run, with their fields overridden.

    Args:
      overrides: name → {field: value}.
      labels: labels may be used; without them rows that want labels are left out.
      table: rows to start from.

    Raises:
      ValueError: an unknown contract, field, mechanism, gate or form of a value, naming it and the known ones.
    """
    rows = by_name(overrides, table)
    chosen = tuple(row for row in rows.values() if row.enabled and (labels or not row.wants_labels))
    for row in chosen:
        for field, value, known in (
            ("mechanism", row.mechanism, MECHANISMS),
            ("relation", row.relation, RELATIONS),
            ("gate", row.gate, GATES),
            ("unit", row.unit, UNITS),
            ("target_rule", row.target_rule, TARGET_RULES),
        ):
            if value not in known:
                raise ValueError(f"contracts.{row.name}.{field} must be one of {', '.join(known)}, got {value!r}")
        for field in ("target", "ratio", "factor", "error_clip"):
            value = getattr(row, field)
            if is_known(value) and not (math.isfinite(value) and value > 0):
                raise ValueError(f"contracts.{row.name}.{field} must be finite and > 0, got {value}")
        if row.mechanism == "track" and not row.follows:
            raise ValueError(f"contracts.{row.name}.mechanism is 'track', but there is nothing that its weight follows")
    return chosen
