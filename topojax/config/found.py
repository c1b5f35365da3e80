"""What data say about a configuration: fields that stand at their defaults and do not suit own data, and contracts that
cannot be kept with the data and sizes at hand.

A field that was set stays as it was set, on the command line also where it was set to its default;
`config.data.auto=False` leaves all of them. Own data say how many charts, codes and examples a step; all data say
how far a view goes, how wide the ball is and, where pairs make the charts, how many neighbours an example has; where
labels do, how well these are to be known.
"""

import math
import pathlib
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from topojax.atlas.controllers import select_rows
from topojax.atlas.table import unit_values
from topojax.atlas.terms import INVARIANCES
from topojax.config.batch import examples_a_step
from topojax.config.defaults import default_config
from topojax.config.io import flat
from topojax.config.recipes import unlabelled
from topojax.data import given, measured, sets
from topojax.data.rows import Rows

MOST_CHARTS = 128
"""Charts for as many classes, up to here."""
BATCHES = 8
"""Least steps an epoch that a default batch size leaves, down to `LEAST_BATCH` examples."""
LEAST_BATCH = 8
STEPS = 7200
"""Steps that labelled images are trained for, in at most `MOST_EPOCHS`: what MNIST's 3,000 take."""
MOST_EPOCHS = 400
BALL = 2.0
"""Standard deviations of the inputs' first principal axis that come to a unit of the ball."""
MEASURED = (
    *("view.rotation", "view.shift", "view.scale", "view.noise_std"),
    *("model.ball_scale", "data.neighbours", "contracts.route.target"),
)
"""Fields that the training examples tell, of all data."""
_WITHIN_A_BATCH = ("energy", "separation", "disentangle", "sup_metric")
"""Signals that compare examples of a batch."""


class Change(NamedTuple):
    """A field that data have set: its value before and after, and why."""

    field: str
    asked: Any
    value: Any
    why: str


def fitted(
    config: Any, dataset: sets.Dataset, *, in_memory: bool, keep: Collection[str] = ()
) -> tuple[Any, list[Change]]:
    """A configuration that suits its data.

    Args:
      config: whole, valid; not changed.
      dataset: of it.
      in_memory: whether the data were handed over, so that no name leads to them.
      keep: fields that were set, to their defaults perhaps.

    Returns:
      The configuration and what changed.
    """
    found: dict[str, tuple[Any, str]] = {}
    if in_memory:
        found["data.name"] = given.NAME, "the data were handed over"
    elif dataset.own:
        found["data.name"] = sets.locate(config.data.name, config.data.data_dir), "where it lies"
    if dataset.own and config.name == default_config().name:
        found["name"] = named(config, in_memory=in_memory), "after the data"
    if config.data.auto:
        suits = _suited(config, dataset) if dataset.own else {}
        found |= {field: change for field, change in suits.items() if field not in keep}
        told = config.copy_and_resolve_references()
        told.update_from_flattened_dict({field: value for field, (value, _) in found.items()})
        found |= {field: change for field, change in _measured(told, dataset).items() if field not in keep}
        if "contracts.orbit.enabled" in keep and not config.contracts.orbit.enabled:  # then nothing reads a view
            found = {n: change for n, change in found.items() if not n.startswith(("view.", "contracts.orbit."))}
    after = config.copy_and_resolve_references()
    for field, (value, _) in found.items():
        after.update_from_flattened_dict({field: value})
    for name, why in out_of_reach(after, len(dataset.train.label)).items():
        found[f"contracts.{name}.enabled"] = False, why
        after.contracts[name].enabled = False
    before = dict(flat(config))
    changes = [Change(field, before[field], value, why) for field, (value, why) in found.items()]
    return after, [change for change in changes if change.asked != change.value]


def named(config: Any, *, in_memory: bool = False) -> str:
    """The name of a run: its own; of own data and where none was given, that of their file or folder."""
    usual = default_config()
    if config.name != usual.name or (config.data.name in sets.NAMES and not in_memory):
        return config.name
    return "own" if in_memory else pathlib.PurePath(config.data.name.rstrip("/")).stem or "own"


def _suited(config: Any, dataset: sets.Dataset) -> dict[str, tuple[Any, str]]:
    """Field → (value, why), of those at their defaults."""
    usual, suited = default_config(), default_config()
    n, classes = len(dataset.train.label), dataset.num_classes
    labelled = bool((dataset.train.label >= 0).any())
    why = dict.fromkeys((name for name, _ in flat(usual)), "")
    if not labelled and config.supervised.enabled:
        unlabelled(suited)
        why = dict.fromkeys(why, "there are no labels")
    if labelled:
        suited.model.num_charts, why["model.num_charts"] = min(max(classes, 2), MOST_CHARTS), "one a class"
    else:
        charts = min(usual.model.num_charts, max(2, n // BATCHES))
        suited.model.num_charts, why["model.num_charts"] = charts, f"{n} training examples"
    codes = min(usual.model.codes_per_chart, max(2, n // (4 * suited.model.num_charts)))
    suited.model.codes_per_chart, why["model.codes_per_chart"] = codes, f"{n} training examples"
    suited.train.batch_size, why["train.batch_size"] = batch_size(n, usual.train.batch_size), f"{n} training examples"
    if dataset.image_shape is not None and labelled:
        epochs = -(-STEPS // max(n // suited.train.batch_size, 1))
        suited.train.epochs = min(max(epochs, usual.train.epochs), MOST_EPOCHS)
        why["train.epochs"] = f"{STEPS:,} steps in at most {MOST_EPOCHS} epochs"
    was, now, asked = dict(flat(usual)), dict(flat(suited)), dict(flat(config))
    return {name: (now[name], why[name]) for name in now if now[name] != was[name] and asked[name] == was[name]}


def _measured(config: Any, dataset: sets.Dataset) -> dict[str, tuple[Any, str]]:
    """Field → (value, why), of those at their defaults that only the training examples can tell."""
    images: Any = dataset.train.image  # rows on the host are read as far as they are looked at
    images = images if isinstance(images, Rows) else np.asarray(images)
    usual, asked = dict(flat(default_config())), dict(flat(config))
    found: dict[str, tuple[Any, str]] = {}
    if any(config.contracts[name].enabled for name in INVARIANCES):
        reach = measured.ranges(images, dataset.image_shape)._asdict()
        why = "as far as the nearest neighbours lie"
        found |= {f"view.{kind}": (float(f"{value:.3g}"), why) for kind, value in reach.items()}
    spread = measured.spread(images)
    if spread:
        found["model.ball_scale"] = float(f"{BALL / spread:.3g}"), "after the inputs' spread"
    labels = np.asarray(dataset.train.label)
    if config.supervised.enabled and config.contracts.route.enabled and (labels >= 0).any():
        known = max(measured.surprise(images, labels), usual["contracts.route.target"])
        found["contracts.route.target"] = float(f"{known:.3g}"), "what the nearest neighbours know of a label"
    # Pairs are of neighbours, where there are any; other invariances are an example's own.
    if config.contracts.orbit.enabled and config.losses.orbit_distance == "overlap":
        found["data.neighbours"] = measured.neighbours(images), "as many as connect the examples"
    return {name: value for name, value in found.items() if asked[name] == usual[name]}


def batch_size(examples: int, usual: int) -> int:
    """The largest power of two that leaves `BATCHES` steps an epoch, at least `LEAST_BATCH`, at most the usual one."""
    fits = 1 << max(examples // BATCHES, 1).bit_length() - 1
    return min(usual, max(fits, LEAST_BATCH), examples)


def out_of_reach(config: Any, examples: int) -> dict[str, str]:
    """Contract → why no model could keep it, of the enabled ones.

    I(X;K) of a batch is at most its log, and at most that of the charts; codes of one a chart have no entropy; what
    compares the examples of a batch wants two of them.

    Args:
      config: whole.
      examples: to train on.
    """
    batch, codes = min(config.train.batch_size, examples), config.model.codes_per_chart
    whole = min(examples_a_step(config), examples)
    try:
        rows = select_rows(config)
    except ValueError:  # of a table that `validate` refuses
        return {}
    units = unit_values(charts=config.model.num_charts, codes=codes, classes=2)
    found = {}
    for row in rows:
        target = row.target * units.get(row.unit, math.nan)
        if row.relation != ">=" and not (row.signal in _WITHIN_A_BATCH and batch == 1):
            continue
        if (batch == 1 and row.signal in _WITHIN_A_BATCH) or (whole == 1 and row.signal == "I_XK"):
            found[row.name] = "a batch of one example has nothing to compare"
        elif row.signal in ("H_code_in_chart", "H_code") and codes == 1:
            found[row.name] = "one code a chart has no entropy"
        elif row.signal == "I_XK" and row.target_rule == "absolute" and target > math.log(whole):
            found[row.name] = f"it asks for {target:.2g} nats, a batch of {whole} holds at most {math.log(whole):.2g}"
    return found
