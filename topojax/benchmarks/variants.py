"""Configurations that the controlled one is measured against: the same losses uncontrolled, and fewer losses."""

import copy
import math
from typing import Any

NEVER = 10**9
"""Steps between probes of a run that does not probe, but for its first epoch."""


def constant_control(config: Any) -> Any:
    """The same losses, every weight and the rate constant, nothing capped, probed or revived.

    What is left of control is its books: signals, averages and counters are kept, and nothing follows from them.
    """
    c = copy.deepcopy(config)
    for row in c.contracts.values():
        row.mechanism = "constant"
    c.optim.rate, c.optim.schedule = "constant", "none"
    c.optim.update_ratio = c.optim.latent_speed = 0.0
    c.hierarchy.action = "warn"
    c.probe.every_steps = NEVER
    c.revival.dead_code = c.revival.dead_chart = 0.0
    return c


def recon_vq(config: Any) -> Any:
    """`constant_control` with reconstruction, codebook and commitment for losses (and the detached readout)."""
    c = constant_control(config)
    c.supervised.enabled = False
    for name, row in c.contracts.items():
        row.enabled = name == "commitment"
    return c


def interval(config: Any, steps_per_epoch: int) -> int:
    """Epochs in which a run does everything it does at times: one probe, and a revival if it revives."""
    epochs = max(1, round(config.probe.every_steps / steps_per_epoch))
    revives = config.revival.dead_code or config.revival.dead_chart
    return math.lcm(epochs, config.revival.every_epochs) if revives else epochs
