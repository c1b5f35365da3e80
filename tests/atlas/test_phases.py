"""The phases of a run, by which gates are open."""

import jax.numpy as jnp
import pytest

from topojax.atlas.phases import PHASES, phase
from topojax.control.gate import GateState


@pytest.mark.parametrize(
    "warm, opened, ramp, name",
    [(False, True, 1.0, "warmup"), (True, False, 0.0, "coupling"), (True, True, 0.5, "ramp"), (True, True, 1.0, "all")],
)
def test_phase_names_where_a_run_stands(warm, opened, ramp, name):
    code = phase(warm, GateState(jnp.int32(0), jnp.bool_(opened), jnp.float32(ramp)))
    assert PHASES[int(code)] == name
    assert code.dtype == jnp.int32
