"""How fast a run trains, what control costs, and what the machine could do.

  python -m topojax.benchmarks.speed --config=configs/mnist.py --config.train.batch_size=256 --json=speed.json

Prints a Markdown table. Every time is a median over repeats in which all measurements take turns; `spreads` holds the
quartiles. A ratio is that of medians; `paired` and `spreads` hold median and quartiles of the ratios within repeats,
which the table shows: where the machine is not quiet they are the better ones. Programs are compiled as a run compiles
them, and train from the run's own start, on its data.

  step_ms/…              wall time of scanned epochs over their steps; always as many epochs as the run has between two
                         probes, so that an epoch's end and a probe count as often as they happen
    full                 the run as configured
    constant_control     the same losses; weights and rate constant, nothing capped, probed or revived (variants.py)
    bare                 the same losses in a plain training loop: no signals, no metrics, no books of control
    recon_vq             constant_control with reconstruction, codebook and commitment alone
    forward              spectral normalisation, encode and decode of the same batches
  control_overhead       full / constant_control − 1
  control_overhead/bare  full / bare − 1: all that the package adds to losses and optimizer
  epoch_ms               one epoch of the controlled run; probe_ms: what a probe adds to it
  evaluate_ms            the test split: predictions in batches and their scores
  compile_s/cold, warm   trace + lower + compile of the epoch in a fresh process, with an empty cache of compiled
                         programs, and with a filled one; /trace, /lower, /compile are the parts
  gflops/step            multiplications and additions of all matrix products, 10⁹, counted while an interval ran: trips
                         of solvers and branches of probes are those taken (products.py). Elementwise work is left out
  gflops/xla             XLA's own count for the compiled epoch, for comparison only: it takes the body of a loop once
  gflops_per_s/reference rate of [256,784]×[784,64], float32, in a compiled loop
  gflops_per_s/step      gflops/step over step_ms/full
  attainable_ms          Σ flops_i / rate_i of a step: what its matrix products alone take at the rates that the machine
                         reaches on their shapes, each in a loop of its own; shapes of the last 1 % (10 % if
                         quick) at the mean rate
  attainable_fraction    attainable_ms / step_ms/full
  peak_mib               largest resident memory of a process that loads the data, finds its programs in the cache,
                         trains and evaluates; /compiling: of one that compiles; /device: of the device, where known

With --scaling, also the step's cost against H, N, K, D and the batch, each doubled and quadrupled. --quick measures the
same with few repeats, for continuous integration.
"""

import os
import pathlib
import sys
from typing import Any

from absl import flags

from topojax.errors import UserError, run_process

_JSON = flags.DEFINE_string("json", None, "also write the numbers to this file")
_SCALING = flags.DEFINE_bool("scaling", False, "also measure the cost against H, N, K, D and the batch")
_QUICK = flags.DEFINE_bool("quick", False, "few repeats")


def main(config: Any) -> int:
    """Measure, print, write."""
    from topojax.benchmarks.measurement import measure
    from topojax.benchmarks.text import markdown
    from topojax.storage.logs import write_json

    file = pathlib.Path(_JSON.value) if _JSON.value else None
    if file is not None and (file.is_dir() or not os.access(file.parent, os.W_OK)):  # minutes before it is needed
        raise UserError(f"--json={file} cannot be written: name a file in a folder that is there")
    found = measure(config, quick=_QUICK.value, with_scaling=_SCALING.value)
    print(markdown(found))
    if file is not None:
        write_json(file, found)
        print(f"\n{file} is written")
    return 0


def _command() -> int:
    from topojax.config import command_line  # not before `run_process` stands: it takes seconds to import

    return command_line.carry_out(main, __doc__ or "", sys.argv)


if __name__ == "__main__":
    run_process(_command)
