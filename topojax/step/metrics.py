"""Metrics on the device: a step's scalars as one vector, an epoch's vectors as one number each."""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from topojax.control.governor import GovernorState
from topojax.step.update import Record
from topojax.types import Array, Metrics


def of_step(record: Record, governor: GovernorState) -> Metrics:
    """The metrics of a step, by name; those of the end of an epoch apart.

    Args:
      record: what the update left.
      governor: after the step, and after the end of the epoch if it was the last.
    """
    finite, rate, norms = record.finite, record.rate, record.norms
    return {
        **{f"loss/{name}": jnp.mean(value) for name, value in record.losses.aux.terms.items()},
        **{f"signal/{name}": jnp.mean(value) for name, value in record.signals.items()},
        **{f"weight/{name}": jnp.mean(value) for name, value in record.weights.items()},
        **{f"norm/{name}": value for name, value in norms.items()},
        **record.losses.baselines,
        "norm/update": jnp.where(finite, rate.value * norms["direction"], 0.0),
        "lr": rate.value,
        "lr_governor": governor.rate,
        "lr_cap": rate.cap,
        "gate/window": record.ramp,
        "guard/skipped": ~finite,
        "guard/failures": governor.failures,
        **record.control,
    }


def pack(metrics: Metrics) -> Array:
    """Metrics as one float32 vector, in the order of their sorted names."""
    return jnp.concatenate([metrics[name].astype(jnp.float32).reshape(-1) for name in sorted(metrics)])


def expanded(names: Iterable[str], rows: Iterable[Any]) -> tuple[str, ...]:
    """The names behind `pack`'s vector: a `*` stands for each contract in turn."""
    rows = tuple(rows)
    out: list[str] = []
    for name in sorted(names):
        out += [name.replace("*", row.name) for row in rows] if "*" in name else [name]
    return tuple(out)


_STATES = (
    "weight",
    "gate",
    "governor",
    "window",
    "contract",
    "hierarchy",
    "rate",
    "probe",
    "geometry",
    "revived",
    "ending",
)
_LAST = ("lr", "guard/failures", "guard/unsound", *(f"{name}/" for name in _STATES))
_PARTS = ("/p", "/i", "/d")


def reduce_epoch(names: tuple[str, ...], metrics: Array) -> Array:
    """One number a metric from the steps of an epoch: last value of states, sum of counts, mean of the rest.

    Means and sums skip the steps that were not finite, so that one NaN does not hide an epoch.

    Args:
      names: of the columns.
      metrics: shape=(steps, len(names)).

    Returns:
      shape=(len(names),).
    """
    skipped = metrics[:, names.index("guard/skipped")]
    finite = (skipped == 0)[:, None]
    total = jnp.sum(jnp.where(finite, metrics, 0.0), axis=0)
    mean = total / jnp.maximum(jnp.sum(finite), 1)
    added = np.array([name.startswith("contract/") and name.endswith(_PARTS) for name in names])
    last = np.array([name.startswith(_LAST) for name in names]) & ~added
    out = jnp.where(last, metrics[-1], jnp.where(added, total, mean))
    return out.at[names.index("guard/skipped")].set(jnp.sum(skipped))
