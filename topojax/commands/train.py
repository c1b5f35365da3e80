"""Train an atlas.

  topojax train                                        digits, with the defaults
  topojax train --config=configs/mnist.py --config.seed=1
  topojax train --config=configs/mnist.py:full --workdir=runs/full
  topojax train --config.data.name=images/             your own data (docs/your-own-data.md)
  topojax train --config.population.sweep="seed=0..3; optim.learning_rate=2e-3,4e-3"    docs/populations.md

The same command goes on from the last checkpoint of its workdir; --allow_change also with other rates, bounds, targets,
weights and schedules, which hold from there on.
"""

import functools
from collections.abc import Collection, Sequence
from typing import Any

from absl import flags

from topojax.commands import STARTED
from topojax.config import command_line
from topojax.config.io import to_json
from topojax.config.sweep import is_population

_WORKDIR = flags.DEFINE_string("workdir", None, "where the run lives (default: runs/<config.name>)")
_PRINT = flags.DEFINE_bool("print_config", False, "print the configuration that the flags make, and exit")
_CHANGE = flags.DEFINE_bool("allow_change", False, "go on with settings that are others than the run's so far")


def main(argv: Sequence[str]) -> int:
    """Command line."""
    run = functools.partial(train, keep=command_line.overridden(argv))
    return command_line.carry_out(run, __doc__ or "", ["topojax train", *argv])


def train(config: Any, keep: Collection[str] = ()) -> None:
    """Print the configuration, or train."""
    if _PRINT.value:
        print(to_json(config), end="")
        return
    from topojax.config.found import named

    workdir = _WORKDIR.value or f"runs/{named(config)}"
    if is_population(config):
        from topojax.training.population import train_population

        train_population(config, workdir, keep=keep, started=STARTED)
        return
    from topojax.training.loop import train_and_evaluate

    train_and_evaluate(config, workdir, keep=keep, started=STARTED, allow_change=_CHANGE.value)
