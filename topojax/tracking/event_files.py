"""TensorBoard's event files of a run that goes on: cut to the step of its checkpoint, as the run's own logs are.

A record is its length, 8 bytes, a sum over that, 4, an event, and a sum over that, 4
(https://www.tensorflow.org/tutorials/load_data/tfrecord).
"""

import os
import pathlib
import struct
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

_HEAD, _SUM = 12, 4


def cut(directory: pathlib.Path, step: int, parse: Callable[[bytes], Any]) -> set[int]:
    """Drop the events of later steps, and a last one that was cut off.

    Args:
      directory: of the event files; it need not be there.
      step: that the run goes on from, in training steps.
      parse: bytes → an event, `tf.compat.v1.Event.FromString`.

    Returns:
      The steps of which a row of scalars is left.

    Raises:
      OSError: where the files cannot be read or replaced.
    """
    scalars: set[int] = set()
    for file in sorted(directory.glob("*tfevents*")):
        part = directory / f".{file.name}.{os.getpid()}.part"
        with file.open("rb") as before, part.open("wb") as after:
            for record in _records(before):
                event = parse(record[_HEAD:-_SUM])
                if event.step <= step:
                    after.write(record)
                    if any(value.HasField("simple_value") for value in event.summary.value):
                        scalars.add(event.step)
        if part.stat().st_size < file.stat().st_size:
            part.replace(file)
        else:
            part.unlink()
    return scalars


def _records(file: BinaryIO) -> Iterator[bytes]:
    """Whole records, one after the other."""
    size = os.fstat(file.fileno()).st_size
    while len(head := file.read(_HEAD)) == _HEAD:
        length = struct.unpack("<Q", head[:8])[0] + _SUM
        if length > size - file.tell():
            return
        yield head + file.read(length)
