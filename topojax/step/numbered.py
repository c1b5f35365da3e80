"""A run's program as a function of its numbers too: one program for all runs that differ in numbers alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

from topojax.config.numbers import Numbers, placed
from topojax.data.chunks import Chunk
from topojax.step.program import Program
from topojax.step.state import TrainState
from topojax.types import Array, Batch


class Numbered(NamedTuple):
    """What `Program` has under the same names, before its numbers are known; pure and un-jitted.

    Attributes:
      init: numbers → TrainState.
      epoch: (numbers, state, data) → (state, metrics).
      chunk: (numbers, state, chunk) → (state, metrics of its steps).
      evaluate: (numbers, state, batch) → per-example arrays.
      metric_names: () → names of the metrics, in the order of `epoch`'s vector.
    """

    init: Callable[[Numbers], TrainState]
    epoch: Callable[[Numbers, TrainState, Batch], tuple[TrainState, Array]]
    metric_names: Callable[[], tuple[str, ...]]
    chunk: Callable[[Numbers, TrainState, Chunk], tuple[TrainState, Array]] | None = None
    evaluate: Any = None


def make_numbered(config: Any, program_of: Callable[[Any], Program]) -> Numbered:
    """Build a program inside the trace, from the configuration with traced numbers in it.

    Args:
      config: a whole configuration, valid; of its numbers only their names are read (`numbers.names_of`).
      program_of: configuration → its program.
    """
    names: list[tuple[str, ...]] = []

    def init(numbers: Numbers) -> TrainState:
        return program_of(placed(config, numbers)).init()

    def epoch(numbers: Numbers, state: TrainState, data: Batch) -> tuple[TrainState, Array]:
        program = program_of(placed(config, numbers))
        out = program.epoch(state, data)
        names.append(program.metric_names())
        return out

    def chunk(numbers: Numbers, state: TrainState, chunk: Chunk) -> tuple[TrainState, Array]:
        program = program_of(placed(config, numbers))
        out = program.chunk(state, chunk)
        names.append(program.metric_names())
        return out

    def evaluate(numbers: Numbers, state: TrainState, batch: Batch) -> dict[str, Array]:
        return program_of(placed(config, numbers)).evaluate(state, batch)

    return Numbered(init, epoch, lambda: names[-1] if names else program_of(config).metric_names(), chunk, evaluate)
