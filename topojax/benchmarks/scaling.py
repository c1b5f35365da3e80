"""How the controlled step's cost grows with each size of the model and with the batch, one at a time."""

import copy
import functools
from collections.abc import Sequence
from typing import Any

from topojax.benchmarks.timed_epochs import Epochs, in_turn, start, trained
from topojax.benchmarks.timing import Patience, quartiles, repeated
from topojax.config.validate import validate
from topojax.errors import UserError

SIZES = {
    "H": "model.hidden_dim",
    "N": "model.num_charts",
    "K": "model.codes_per_chart",
    "D": "model.latent_dim",
    "B": "train.batch_size",
}
"""Symbol → the field that is multiplied."""


def scaling(
    config: Any, about: dict[str, Any], base: Epochs, *, factors: Sequence[int], patience: Patience
) -> list[dict[str, Any]]:
    """Time a step with one size multiplied against a step of the run itself, the two interleaved.

    Args:
      config: of the base, valid.
      about: what `run.build` wants to know of the data.
      base: the run's epochs, compiled.
      factors: on each size.
      patience: of each comparison.

    Returns:
      For each size and factor: size (symbol), value, step_ms, base_step_ms (medians), ratio of the two; or size, value
      and skipped, why there is no such run.
    """
    rows: list[dict[str, Any]] = []
    for symbol, field in SIZES.items():
        block, name = field.split(".")
        for factor in factors:
            value = factor * config[block][name]
            row: dict[str, Any] = {"size": symbol, "value": value}
            scaled = copy.deepcopy(config)
            scaled[block][name] = value
            if scaled.train.batch_size > about["num_train"]:
                rows.append(row | {"skipped": f"there are {about['num_train']} training examples"})
                continue
            try:
                validate(scaled)
            except UserError as error:
                rows.append(row | {"skipped": str(error)})
                continue
            pair = {"step_ms": start(trained(scaled, about), base.data), "base_step_ms": base}
            times = repeated(functools.partial(in_turn, pair), patience)
            medians = {
                key: 1e3 * quartiles([epochs.of_step(found[key]) for found in times]).median
                for key, epochs in pair.items()
            }
            rows.append(row | medians | {"ratio": medians["step_ms"] / medians["base_step_ms"]})
    return rows
