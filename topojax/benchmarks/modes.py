"""What it costs to train from the host, and how much memory a data set larger than memory takes.

  python -m topojax.benchmarks.modes --gigabytes=2 --json=modes.json

A folder of bytes is made, images of 28×28 in ten classes, mapped when it is read.

  step_ms/…              wall time of a step from memory, host and stream, of epochs that take turns; medians
  rate/host, stream      step rate over that of memory: median and quartiles of the ratios within turns
  equal                  whether memory and host come to the same state, bit for bit
  resident_mib/…         largest resident memory of a process that trains an epoch of a small model from the host, on
                         Linux: `few` on the examples of the turns, `all` on the whole folder
  resident_mib/above     their difference: what the size of the data adds

The targets are rates of 0.95 (host) and 0.80 (stream), and 1,024 MiB above.
"""

import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from topojax.errors import run_process

_JSON = flags.DEFINE_string("json", None, "also write the numbers to this file")
_GIGABYTES = flags.DEFINE_float("gigabytes", 2.0, "size of the data set")
_FEW = flags.DEFINE_integer("few", 25_600, "examples that the modes take turns on")
_TURNS = flags.DEFINE_integer("turns", 12, "turns")
MODES = ("memory", "host", "stream")
SIDE, CLASSES, BLOCK = 28, 10, 2**16
BATCH = 2048
"""Examples a step of the processes whose memory is measured."""
_TRAIN = """
import pathlib, sys
from topojax.config.io import from_json
from topojax.training.loop import train_and_evaluate
train_and_evaluate(from_json(pathlib.Path(sys.argv[1]).read_text(), sys.argv[1]), sys.argv[2])
status = pathlib.Path("/proc/self/status").read_text()  # of this process alone: rusage knows its parent's, too
print(f"peak {int(status.partition('VmHWM:')[2].split()[0]) / 1024}")
"""


def made(folder: pathlib.Path, size: int) -> pathlib.Path:
    """A folder of so many bytes of images: one blurred pattern a class and noise, written block by block."""
    rng = np.random.default_rng(0)
    n = size // SIDE**2
    pattern = rng.uniform(0, 1, (CLASSES, 7, 7)).repeat(4, axis=1).repeat(4, axis=2).reshape(CLASSES, -1)
    label = rng.integers(0, CLASSES, n)
    np.save(folder / "y.npy", label)
    images = np.lib.format.open_memmap(folder / "x.npy", "w+", np.uint8, (n, SIDE, SIDE, 1))
    noise = rng.integers(0, 96, (BLOCK, SIDE**2), dtype=np.uint8)
    for start in range(0, n, BLOCK):
        some = label[start : start + BLOCK]
        shifted = np.roll(noise, rng.integers(SIDE**2), axis=1)[: len(some)]
        block = (159 * pattern).astype(np.uint8)[some] + shifted
        images[start : start + len(some)] = block.reshape(-1, SIDE, SIDE, 1)
    images.flush()
    return folder


def asked(config: Any, folder: pathlib.Path, mode: str, few: int | None) -> Any:
    """The configuration of one run on the folder."""
    config = config.copy_and_resolve_references()
    config.data.update({"name": str(folder), "mode": mode, "num_examples": few, "auto": False})
    config.data.test_fraction = 0.1 if few else 0.0005
    config.train.epochs, config.log.progress = 1, False
    return config


def epochs(config: Any) -> tuple[Callable[[], Any], int]:
    """What trains an epoch of a run and returns its state, compiled; steps of one."""
    import jax

    from topojax.training.loop import Training

    class Turns(Training):
        """A run without a folder, epoch by epoch."""

        keys = None

        def begin(self) -> Callable[[], Any]:
            """Compile and start."""
            data: Any = None
            if self.dataset.mode == "memory":
                data = self.handed.resident()
            else:
                data = self.feed = self.handed.feed(pairs=self.program.pairs, held=contextlib.nullcontext)
            epoch = self._compile(jax.eval_shape(self.numbered.init, self.numbers), data)
            self.state = self.init(self.numbers)
            if self.feed is not None:
                self.feed.begin(jax.numpy.copy(self.state.key), 0)

            def train() -> Any:
                self.state, metrics = epoch(self.numbers, self.state, data)
                jax.block_until_ready(metrics)
                return self.state

            return train

    run = Turns(config, pathlib.Path("unused"), time.perf_counter())
    return run.begin(), run.program.steps_per_epoch


def rates(config: Any, folder: pathlib.Path, few: int, turns: int) -> dict[str, Any]:
    """`step_ms`, `rate` and `equal`."""
    import jax

    from topojax.benchmarks.timing import quartiles

    train = {mode: epochs(asked(config, folder, mode, few)) for mode in MODES}
    seconds: dict[str, list[float]] = {mode: [] for mode in train}
    state: dict[str, Any] = {}
    for turn in range(turns + 1):
        for mode in sorted(train, reverse=turn % 2 == 0):
            since = time.perf_counter()
            state[mode] = train[mode][0]()
            seconds[mode].append(time.perf_counter() - since)
    took = {mode: np.array(each[1:]) for mode, each in seconds.items()}
    params = [jax.tree.leaves(state[mode].params) for mode in ("memory", "host")]
    rate = {mode: quartiles(took["memory"] / took[mode]) for mode in MODES[1:]}
    return {
        **{f"step_ms/{mode}": 1e3 * float(np.median(each)) / train[mode][1] for mode, each in took.items()},
        **{f"rate/{mode}": each.median for mode, each in rate.items()},
        **{f"rate/{mode}/quartiles": [each.low, each.high] for mode, each in rate.items()},
        "equal": all(map(np.array_equal, *params)),
    }


def resident(config: Any, folder: pathlib.Path, few: int | None) -> float:
    """Largest resident memory, MiB, of a process that trains an epoch of a small model from the host."""
    from topojax.config.io import to_json

    config = config.copy_and_resolve_references()
    config.train.batch_size, config.model.hidden_dim, config.model.covariant = BATCH, 16, False
    for contract in config.contracts.values():
        contract.enabled = False
    with tempfile.TemporaryDirectory() as place:
        file = pathlib.Path(place) / "config.json"
        file.write_text(to_json(asked(config, folder, "host", few)))
        command = [sys.executable, "-c", _TRAIN, str(file), f"{place}/run"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(ended.stderr[-2000:])
    return float(ended.stdout.rpartition("peak ")[2])


def main(config: Any) -> int:
    """Measure, print, write."""
    with tempfile.TemporaryDirectory() as place:
        folder = made(pathlib.Path(place), int(_GIGABYTES.value * 2**30))
        found = {"gigabytes": _GIGABYTES.value, **rates(config, folder, _FEW.value, _TURNS.value)}
        for name, value in found.items():
            print(f"{name:24} {round(value, 3) if isinstance(value, float) else value}", flush=True)
        for name, few in (("few", _FEW.value), ("all", None)):
            found[f"resident_mib/{name}"] = resident(config, folder, few)
            print(f"resident_mib/{name:11} {found[f'resident_mib/{name}']:.0f}", flush=True)
    found["resident_mib/above"] = found["resident_mib/all"] - found["resident_mib/few"]
    print(f"resident_mib/above       {found['resident_mib/above']:.0f}")
    if _JSON.value:
        pathlib.Path(_JSON.value).write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _command() -> int:
    from topojax.config import command_line  # not before `run_process` stands: it takes seconds to import

    return command_line.carry_out(main, __doc__ or "", sys.argv)


if __name__ == "__main__":
    run_process(_command)
