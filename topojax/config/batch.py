"""How many examples an update is made of."""

from typing import Any


def examples_a_step(config: Any) -> int:
    """Of all parts that gradients are accumulated over: `train.batch_size` × `train.accumulate`."""
    return config.train.batch_size * config.train.accumulate
