"""What a start costs before its first step: trace, lower and compile a run's epoch, each time in a fresh process.

  cold   the cache of compiled programs is empty
  warm   it holds what a cold process compiled: the second start of the same run

Imports and data are not counted. The process that asks waits meanwhile.
"""

import contextlib
import itertools
import json
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

from topojax.benchmarks.timed_epochs import Loop, trained
from topojax.config.io import from_json, to_json
from topojax.storage.runtime import compile_program
from topojax.types import Batch


class Start(NamedTuple):
    """One start; seconds, and MiB."""

    trace: float  # Python → jaxpr
    lower: float  # jaxpr → StableHLO
    compile: float  # StableHLO → machine code, or from the cache
    peak_mib: float  # largest resident memory of the process

    @property
    def seconds(self) -> float:
        """In all."""
        return self.trace + self.lower + self.compile


@contextlib.contextmanager
def cache_in(folder: pathlib.Path) -> Iterator[None]:
    """Keep every compiled program in `folder`, however small or quick to compile; as before afterwards."""
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def compile_epoch(loop: Loop, about: dict[str, Any]) -> tuple[Any, Start]:
    """An epoch as a run compiles it, its state donated, and what that took."""
    n, width = about["num_train"], about["input_dim"]
    data = jax.eval_shape(lambda: Batch(jnp.zeros((n, width)), jnp.zeros(n, jnp.int32)))
    state = jax.eval_shape(loop.init)
    times = [time.perf_counter()]
    traced = jax.jit(loop.epoch, donate_argnums=0).trace(state, data)
    times.append(time.perf_counter())
    lowered = traced.lower()
    times.append(time.perf_counter())
    compiled = compile_program(lowered)
    times.append(time.perf_counter())
    trace, lower, compiling = (after - before for before, after in itertools.pairwise(times))
    return compiled, Start(trace, lower, compiling, peak_mib())


def start(config: Any, about: dict[str, Any], cache: pathlib.Path) -> Start:
    """Start once in a process of its own; what it compiles stays in `cache`.

    Args:
      config: a whole configuration, valid.
      about: what `run.build` wants to know of the data; JSON-able.
      cache: folder of the cache, made if missing; a cold start's is empty.

    Raises:
      RuntimeError: if the process fails, with the last line that it wrote.
    """
    request = json.dumps({"config": to_json(config), "about": about, "cache": str(cache)})
    command = [sys.executable, "-m", "topojax.benchmarks.compiling"]
    ended = subprocess.run(command, input=request, capture_output=True, text=True, check=False)
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or [f"status {ended.returncode}"])[-1]
        raise RuntimeError(f"{' '.join(command)}: {last}")
    return Start(**json.loads(ended.stdout.splitlines()[-1]))


def peak_mib() -> float:
    """Largest resident memory that this process has had, MiB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere


def _main() -> None:
    request = json.load(sys.stdin)
    with cache_in(pathlib.Path(request["cache"])):
        _, took = compile_epoch(
            trained(from_json(request["config"], "the request"), request["about"]), request["about"]
        )
    print(json.dumps(took._asdict()))


if __name__ == "__main__":
    _main()
