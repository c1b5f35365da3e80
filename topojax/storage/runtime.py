"""The surroundings of a run: versions of what it is built on, and the cache of compiled programs."""

import contextlib
import functools
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax

from topojax.errors import tell

PACKAGES = ("topojax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


def versions() -> dict[str, str]:
    """Name → version of Python and of the packages that numbers depend on, 'unknown' where not installed; `commit`."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found | {"commit": commit() or "unknown"}


def commit() -> str | None:
    """The commit that the code was checked out at, `-dirty` where files have changed since; None outside a checkout."""
    root = pathlib.Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout.strip() or None


def cache_folder(name: str) -> pathlib.Path | None:
    """A folder of the user's cache, $XDG_CACHE_HOME or ~/.cache, made if missing; None where it cannot be written.

    That costs time, nothing else: it is said once, on stderr.
    """
    base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    folder = base / "topojax" / name
    if base.parts[:1] != ("~",):  # where there is no home it stays as it is
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
    _say_uncached(base)
    return None


@functools.cache
def _say_uncached(base: pathlib.Path) -> None:
    tell(f"topojax: warning: nothing is cached, {base} cannot be written: set XDG_CACHE_HOME to a folder that can be")


def use_compilation_cache() -> pathlib.Path | None:
    """Let jax keep compiled programs in the user's cache, so that a start is quick.

    A cache that is already set is left as it is; a folder that cannot be written is no error, only slow.

    Returns:
      The folder in use, None without one.
    """
    present = getattr(jax.config, "jax_compilation_cache_dir", None)
    if present:
        return pathlib.Path(present)
    folder = cache_folder("xla")
    if folder is None:
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def use_every_core(most: int) -> None:
    """Let each core of a CPU be a device, up to so many; where jax has started already its devices are what they are.

    A number of devices that the user has set, here or in $XLA_FLAGS, stays.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    unset = getattr(jax.config, "jax_num_cpu_devices", 0) in (-1, None)
    if not unset or "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", max(1, min(cores, most)))


_CPU_OPTIONS = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}


def compile_program(lowered: Any) -> Any:
    """Compile a lowered program; on CPU without XLA's fusion emitters, and with LLVM's first optimisation level.

    Digits on 2 cores: 12.9 s as XLA likes it, 7.8 s without the emitters and at level 1, and the epoch that comes out
    takes as long (medians 50.6 and 52.8 ms, interleaved). A jaxlib that does not know the options compiles as it likes,
    and who has asked jax for even less (`jax_disable_most_optimizations`) gets that.
    """
    if jax.default_backend() != "cpu" or jax.config.read("jax_disable_most_optimizations"):
        return lowered.compile()
    try:
        return lowered.compile(compiler_options=_CPU_OPTIONS)
    except jax.errors.JaxRuntimeError:
        return lowered.compile()
