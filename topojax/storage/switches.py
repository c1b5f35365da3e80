"""JAX's own switches, held where programs are traced: a run is the same run whatever the process was started with.

Programs here are float32, contain NaN on purpose (a signal that was not measured) and are compiled ahead of their use:
x64, strict promotion, debug_nans and a disabled jit would make other programs of them, or none. `config.debug` looks
for what is not finite instead.
"""

import contextlib
from collections.abc import Iterator, Mapping

import jax

from topojax.errors import UserError

_KINDS = {"fry": "threefry2x32", "rbg": "rbg", "urbg": "unsafe_rbg"}
"""JAX's tag of a key's type, as in key<fry>, → the name of its implementation."""


@contextlib.contextmanager
def own_switches(keys: str | None = None) -> Iterator[None]:
    """Hold JAX's switches, in this thread, at what programs of this package are written for.

    Args:
      keys: implementation of random keys (`key_kind`); as the process has it, unless told.

    Raises:
      UserError: JAX has no device of the kind that it was told to use.
    """
    _require_device()
    with contextlib.ExitStack() as held:
        held.enter_context(jax.enable_x64(False))
        held.enter_context(jax.numpy_dtype_promotion("standard"))
        held.enter_context(jax.debug_nans(False))
        held.enter_context(jax.debug_infs(False))
        held.enter_context(jax.disable_jit(False))
        if keys is not None:
            held.enter_context(jax.default_prng_impl(keys))
        yield


def key_kind(leaves: Mapping[str, str]) -> str | None:
    """The implementation of the keys of a checkpoint, by its description of its leaves; None for one without keys."""
    for described in leaves.values():
        kind = described.partition("key<")[2].partition(">")[0]
        if kind in _KINDS:
            return _KINDS[kind]
    return None


def _require_device() -> None:
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the second where no plugin is there at all
        reason = " ".join(str(error).split()).partition(" (you may need")[0][:200] or "no plugin for it"
        raise UserError(f"JAX has no device to work on ({reason}): JAX_PLATFORMS says which, unset it") from error
