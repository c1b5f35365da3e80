"""How short axes are laid out: slice by slice, or as one batched operation.

On a CPU a sum or a product over an axis of two is several times faster as an addition of slices, each a run over
memory; an accelerator wants one operation, and so does a compiler, whose time grows with the slices.
"""

import jax

MOST_SLICES = 6
"""Longest axis that is written out: at 4 slices are faster by a fifth, at 8 one operation by a quarter."""


def unrolled(size: int) -> bool:
    """Whether an axis of this length is to be written out; decided where a program is traced."""
    return jax.default_backend() == "cpu" and size <= MOST_SLICES
