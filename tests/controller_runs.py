"""Run a controller over a sequence of errors."""

import jax
import numpy as np

from topojax.control.base import Controller


def run(control: Controller, errors, *, state=None, **keywords):
    """States after each error."""
    state = control.init() if state is None else state
    states = []
    for error in errors:
        state, _ = control.update(state, error, **keywords)
        states.append(state)
    return states


def weights(control: Controller, errors, **keywords):
    """Weights after each error, as floats."""
    return [float(state.weight) for state in run(control, errors, **keywords)]


def bits(tree):
    """Every leaf's bytes."""
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
