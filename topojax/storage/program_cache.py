"""Traced programs, kept: tracing and lowering an epoch takes two seconds, reading what came out a hundredth.

What is kept is the program as StableHLO (`jax.export`), under a digest of all that shaped it: configuration, shapes of
the data, versions, backend and this package's own source. A run's numbers are arguments (`config.numbers`): runs that
differ in numbers alone share a program. Compiled code is kept by jax itself (`runtime.use_compilation_cache`).
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from topojax.data import mesh as on_mesh
from topojax.storage.footprint import Footprint, footprint
from topojax.storage.runtime import cache_folder, compile_program, versions
from topojax.types import Array, Batch

_KEPT = 64
"""Programs in the cache, a third of a megabyte each; the oldest give way."""
_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable")


class Epoch(NamedTuple):
    """A compiled epoch.

    Attributes:
      run: (numbers, state, data) → (state, metrics); the state is given up.
      names: of the metrics, in order.
      bytes: that it takes on each device, None where the backend does not say.
    """

    run: Callable[[Any, Any, Any], tuple[Any, Array]]
    names: tuple[str, ...]
    bytes: Footprint | None = None


def compile_epoch(
    program: Any, numbers: Any, state: Any, data: Any, *, described: Any, cached: bool, mesh: Mesh | None = None
) -> Epoch:
    """Compile `program.epoch`, from the cache if it is there.

    Args:
      program: `step.numbered.Numbered`, or what has its `epoch` and `metric_names`.
      numbers: for their shapes.
      state: abstract or concrete, for its shapes.
      data: the training split, or what else the program takes.
      described: JSON: everything that shaped the program but shapes, code and versions (`config.numbers.described`).
      cached: look in the cache, and keep what was not in it. A cache that cannot be read or written, or a program that
        cannot be exported, is no error.
      mesh: of devices that share a batch. Its program is not kept, only compiled code is.
    """
    if mesh is not None:
        compiled = compile_program(on_mesh.jitted(program.epoch, mesh, data).lower(numbers, state, data))
        return Epoch(on_mesh.from_one_device(compiled, mesh), program.metric_names(), footprint(compiled))
    folder = cache_folder("programs") if cached else None
    if folder is not None:
        try:
            return _compile_kept(program, (numbers, state, data), described, folder)
        except Exception:  # keeping is for speed: what is really wrong with a program comes up again below
            pass
    compiled = compile_program(jax.jit(program.epoch, donate_argnums=1).lower(numbers, state, data))
    return Epoch(compiled, program.metric_names(), footprint(compiled))


def _compile_kept(program: Any, given: tuple[Any, Any, Batch], described: Any, folder: pathlib.Path) -> Epoch:
    """`given` are numbers, state and data."""
    leaves, tree = jax.tree.flatten(given)
    state, size = jax.tree.structure(given[1]), len(jax.tree.leaves(given[1]))
    digest = _digest(described, leaves)
    file = folder / f"{digest}.program"
    found = _read(file, digest)
    if found is None:
        found = _export(program.epoch, leaves, tree), program.metric_names()
        _write(file, digest, *found)
    blob, names = found
    first = len(jax.tree.leaves(given[0]))
    given_up = tuple(range(first, first + size))
    flat = jax.jit(jax.export.deserialize(blob).call, donate_argnums=given_up)
    compiled = compile_program(flat.lower(*leaves))

    def run(numbers: Any, before: Any, data: Batch) -> tuple[Any, Array]:
        *after, metrics = compiled(*jax.tree.leaves((numbers, before, data)))
        return jax.tree.unflatten(state, after), metrics

    return Epoch(run, names, footprint(compiled))


def _export(epoch: Callable, leaves: list, tree: Any) -> bytearray:
    """The epoch as a function of arrays alone: its trees are this package's, and stay out of the file."""

    def flat(*arrays: Array) -> tuple[Array, ...]:
        after, metrics = epoch(*jax.tree.unflatten(tree, arrays))
        return *jax.tree.leaves(after), metrics

    return jax.export.export(jax.jit(flat))(*leaves).serialize()


def _digest(described: Any, leaves: Sequence[Any]) -> str:
    device = jax.devices()[0]
    settings = [str(getattr(jax.config, name, None)) for name in _SETTINGS]
    shapes = [(str(leaf.dtype), list(leaf.shape)) for leaf in leaves]
    about = [
        described,
        shapes,
        versions(),
        _source(),
        device.platform,
        device.device_kind,
        jax.device_count(),
        settings,
    ]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


@functools.cache
def _source() -> str:
    """Digest of this package's modules: a program outlives no change of its source."""
    digest = hashlib.sha256()
    root = pathlib.Path(__file__).parents[1]
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _read(file: pathlib.Path, program: str) -> tuple[bytearray, tuple[str, ...]] | None:
    """What `_write` wrote of a program, None if it is not there, not whole, or of another program."""
    try:
        seal, rest = file.read_bytes().split(b"\n", 1)
        if seal.decode() != _seal(rest):
            return None
        head, blob = rest.split(b"\n", 1)
        about = json.loads(head)
        if about["program"] != program:
            return None
        file.touch()
        return bytearray(blob), tuple(about["names"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(file: pathlib.Path, program: str, blob: bytes | bytearray, names: tuple[str, ...]) -> None:
    """One checksum over all of it: which program it is, the names of its metrics, the program."""
    rest = json.dumps({"program": program, "names": names}).encode() + b"\n" + blob
    part = file.with_suffix(f".{os.getpid()}.{id(blob)}.part")
    try:
        part.write_bytes(_seal(rest).encode() + b"\n" + rest)
        part.replace(file)
        for old in sorted(file.parent.glob("*.program"), key=lambda f: f.stat().st_mtime)[:-_KEPT]:
            old.unlink()
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _seal(rest: bytes) -> str:
    return hashlib.sha256(rest).hexdigest()
