"""A contract as a row of data: which measured signal a loss weight must keep where, and by which mechanism.

A contract says: drive the weight of loss `name` by `mechanism` until `signal` `relation` `target`. One sign rule
holds everywhere: a positive error raises the weight,

    e = s (m − target) / scale,      s = +1 where the weight lowers the metric m, −1 where it raises it.

Errors are dimensionless: set-points are divided by their unit, constraints by their target. A weight may instead
*track* a measured quantity (a ratio of gradient norms); its contract is then audited, but does not move it.
Source: report §2 and §3, theory 1.14.
"""

import dataclasses
import math

MECHANISMS = ("pid", "dual", "track", "constant")
RELATIONS = ("<=", ">=", "=")
TARGET_RULES = ("absolute", "warmup")


@dataclasses.dataclass(frozen=True)
class Contract:
    """One row: the loss weight `name` and the measurable promise that sets it.

    Attributes:
      name: loss term whose weight this is.
      mechanism: `pid` (set-points), `dual` (constraints), `track` (the weight follows a measurement) or `constant`.
      signal: key of the signal that is held.
      relation: `<=`, `>=` or `=` between signal and target. It sets the sign: the weight raises the signal for
        `>=` and lowers it otherwise.
      target: in `unit`s; with the rule `warmup`, what holds until the warm-up is over.
      unit: of the target: a name in the `units` that the bank is given. A set-point's error is divided by it; by the
        target where the unit's size is 1.
      advice: what to change in the model when the contract stays violated at the largest weight (theory 1.13).
      enabled: the term is computed and enters the loss; off, nothing of it is computed or moved.
      adaptive: the weight follows its mechanism; off, it stays at `initial`.
      initial: the weight's start.
      minimum, maximum: the weight's bounds.
      gate: name of what the row waits for: `Bank.weights` is told how far each gate is open, `Bank.update` whether the
        rows behind it adapt.
      kp, ki, kd: PID gains per unit error (ki per epoch, kd in epochs).
      form: PID form `incremental`, `report` or `position`; dual form `additive` or `multiplicative`; empty is the
        mechanism's default.
      rate: dual step per epoch at unit error.
      release: log-weight per epoch and unit of slack beyond half the bound: a weight far too large comes down by
        factors, not by steps. Not of equalities. 0 is none.
      damping: augmented-Lagrangian term of `dual`: extra weight per unit error.
      derivative_filter: time constant of the PID's derivative, epochs.
      error_clip: errors are clipped to ± this.
      lag: time constant in epochs: of tracking; and, for a PID in `report` form, the assumed response of the signal to
        the weight, against which its stability is checked.
      follows: measurement that a tracking weight follows.
      factor: of tracking: the weight is this times the measurement.
      target_rule: `absolute`, or `warmup`: ratio × the signal's average over the warm-up (report §5).
      ratio: of a warm-up's target to that average.
      shape: of the weight: () is one, over the mean of a signal of many entries; (n,) has a weight, an error and a
        controller for each of the signal's n entries.
    """

    name: str
    mechanism: str
    signal: str
    relation: str
    target: float
    unit: str = "1"
    advice: str = ""
    enabled: bool = True
    adaptive: bool = True
    initial: float = 0.1
    minimum: float = 0.0
    maximum: float = 10.0
    gate: str = "none"
    kp: float = 0.05
    ki: float = 0.05
    kd: float = 0.0
    form: str = ""
    rate: float = 0.05
    release: float = 0.0
    damping: float = 0.0
    derivative_filter: float = 1.0
    error_clip: float = 2.0
    lag: float = 1.0
    follows: str = ""
    factor: float = 1.0
    target_rule: str = "absolute"
    ratio: float = 1.0
    shape: tuple[int, ...] = ()

    @property
    def sign(self) -> float:
        """+1 where the weight lowers the signal, −1 where it raises it."""
        return -1.0 if self.relation == ">=" else 1.0

    @property
    def size(self) -> int:
        """Number of weights under this name."""
        return math.prod(self.shape)
