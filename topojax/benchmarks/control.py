"""Whether control is worth it: the configuration against the same losses with constants set and tuned by hand.

  python -m topojax.benchmarks.control --config=configs/digits.py --workdir=runs/benchmark_control

Every arm trains the same model on the same losses, data and number of epochs; what differs is who sets the learning
rate and the weights of the losses:

  control            the configuration untouched
  constants          every weight constant; the rate constant under a warm-up and cosine; no caps, no drift hierarchy
  contracts_only     weights as in control, the rate as in constants
  governor_only      weights as in constants, the rate as in control
  frozen             every weight and the rate where control begins, under the cosine
  carried            what was best on the data of --carried (the digits' control.json), carried over
  reduce_on_plateau, greedy_lr, schedule_free, prodigy
                     weights as in constants, the rate by this rule, without schedule and caps

All arms train train.epochs epochs; what the data tell (`config.found`) is told to all.

Tuning. constants: initial rate × one factor on all initial weights, over the grid that control.json holds, then
with the gates open from the start or as configured. reduce_on_plateau and schedule_free: the rate, over the same grid,
with constants' weights. prodigy finds its own. Scored by AMI, so labels choose, on 20 % of the training split, held out
by class; trained on the other 80 %; seed 0. The rest inherits from constants, and control is not tuned here. The test
split chooses nothing here; but the defaults of this package were found on digits and MNIST, a favour to control.

Numbers are of the test split after the last epoch, mean ± sample standard deviation over seeds 0 … N − 1; a seed draws
the split (where it is not official), the initial parameters, the order of the data and the augmentation. Labels:

  AMI               adjusted mutual information of labels and charts chosen (labels score)
  router accuracy   argmax Σ_k w_k P(y|k); where labels do not train the charts, of the best one-to-one match of charts
                    and labels
  readout accuracy  of the detached readout, which always trains on labels
  MSE               mean over inputs and examples; no labels
  I(X;K)            H(K) − H(K|X) of the router's weights, nats; no labels
  epochs to 90 %    first epoch with at least 0.9 × the last epoch's test AMI, of the same run: quick, not good
  contracts kept    share of the contracts with |error| ≤ tolerance for set-points, error ≤ tolerance for bounds, in the
                    last epoch, on the training split as trained on; signals against targets, also where weights are
                    constant (`contracts.audit`). Contracts on ratios of gradients are left out in all arms

--sweep: test AMI and error, mean over at most three seeds, over wrong guesses by the user: initial rate 1e-6 … 1, all
initial weights × 1e-3 … 1e3, and both at once; control against constants, whose weights are clipped to control's
bounds.

A run that is finished is a line of WORKDIR/runs.jsonl, under a hash of its configuration, split and the package's
version, and is not run again: after a change of the code without a new version, delete the file. Writes control.json,
control.md and control.png beside it, so that each configuration wants its own folder. --quick: three arms, nothing
tuned, few examples, few epochs, 2 seeds: that it works, no result.
"""

import json
import pathlib
import sys
from typing import Any

from absl import flags

from topojax.errors import UserError, run_process

_WORKDIR = flags.DEFINE_string("workdir", "runs/benchmark_control", "where runs and results go")
_SEEDS = flags.DEFINE_integer("seeds", 5, "seeds of each arm")
_QUICK = flags.DEFINE_bool("quick", False, "three arms, two seeds, few epochs")
_CARRIED = flags.DEFINE_string("carried", None, "control.json of the data whose constants are carried over")
_ARMS = flags.DEFINE_list("arms", None, "some of the arms; constants before what inherits from it")
_SWEEP = flags.DEFINE_bool("sweep", False, "also wrong guesses of rate and weights")


def main(config: Any) -> int:
    """Compare, print, write."""
    from topojax.benchmarks.arms import ARMS, GRID, QUICK_ARMS, QUICK_GRID, QUICK_SEEDS, SWEEP, quick
    from topojax.benchmarks.comparison import compare
    from topojax.benchmarks.comparison_report import draw, markdown
    from topojax.storage.logs import write_json, write_text
    from topojax.storage.workdir import claim

    if _SEEDS.value < 1:
        raise UserError(f"--seeds={_SEEDS.value}: needs at least 1")
    workdir = pathlib.Path(_WORKDIR.value)
    carried = _carried(_CARRIED.value)
    arms, grid, seeds = tuple(ARMS), GRID, _SEEDS.value
    if _ARMS.value:
        arms = tuple(_ARMS.value)
        unknown = [name for name in arms if name not in ARMS]
        if unknown:
            raise UserError(f"--arms={unknown[0]}: choose of {', '.join(ARMS)}")
    if _QUICK.value:
        config, arms, grid, seeds = quick(config), QUICK_ARMS, QUICK_GRID, min(QUICK_SEEDS, seeds)
    with claim(workdir):
        try:
            swept = SWEEP if _SWEEP.value else None
            found = compare(config, workdir, seeds=seeds, arms=arms, grid=grid, sweep=swept, carried=carried)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{workdir / 'runs.jsonl'} holds what is done; the same command goes on") from None
        text = markdown(found)
        write_json(workdir / "control.json", found)
        write_text(workdir / "control.md", text + "\n")
        draw(found, workdir / "control.png")
    print(f"\n{text}\n\n{workdir / 'control.json'}, control.md and control.png are written")
    return 0


def _carried(file: str | None) -> Any:
    """The setting that was best elsewhere."""
    from topojax.benchmarks.arms import Setting

    if file is None:
        return None
    try:
        return Setting(**json.loads(pathlib.Path(file).read_text(encoding="utf-8"))["arms"]["constants"]["setting"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--carried={file}: no control.json of this benchmark ({error})") from error


def _command() -> int:
    from topojax.config import command_line  # not before `run_process` stands: it takes seconds to import

    return command_line.carry_out(main, __doc__ or "", sys.argv)


if __name__ == "__main__":
    run_process(_command)
