"""Train an atlas.

  python -m topojax.train                                        digits, with the defaults
  python -m topojax.train --config=configs/mnist.py --config.seed=1
  python -m topojax.train --config=configs/mnist.py:full --workdir=runs/full

The same command goes on from the last checkpoint of its workdir.
"""

import time

_STARTED = time.perf_counter()  # before the imports below: a run's time is what its user waits

import sys  # noqa: E402

from absl import flags  # noqa: E402

from topojax.config import command_line  # noqa: E402
from topojax.config.io import to_json  # noqa: E402

_WORKDIR = flags.DEFINE_string("workdir", None, "where the run lives (default: runs/<config.name>)")
_PRINT = flags.DEFINE_bool("print_config", False, "print the configuration that the flags make, and exit")


def main(config) -> int:
    """Print the configuration, or train."""
    if _PRINT.value:
        print(to_json(config), end="")
        return 0
    from topojax.training.loop import train_and_evaluate

    train_and_evaluate(config, _WORKDIR.value or f"runs/{config.name}", started=_STARTED)
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main, __doc__))
