"""JAX's own switches make no other run, and no traceback."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import topojax
from topojax.storage.switches import key_kind, own_switches

TINY = str(pathlib.Path(__file__).parents[1] / "tiny_config.py")


def test_within_everything_is_float32_and_keys_are_of_the_kind_that_is_asked_for():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"), jax.debug_nans(True), jax.disable_jit(True):
        with own_switches("rbg"):
            assert (jnp.ones(2) + 1).dtype == jnp.float32
            assert jnp.isnan(jax.jit(lambda x: x * jnp.nan)(jnp.ones(()))).all()
            assert (jnp.arange(2) + jnp.ones(2)).dtype == jnp.float32
            assert key_kind({"key": f"{jax.random.key(0).dtype}[]"}) == "rbg"
        assert jnp.ones(2).dtype == jnp.float64
    assert key_kind({"key": f"{jax.random.key(0).dtype}[]", "w": "float32[2]"}) == "threefry2x32"
    assert key_kind({"w": "float32[2]"}) is None


def test_a_run_restores_and_encodes_the_same_under_any_switch(digits_run):
    x = np.random.default_rng(0).uniform(size=(3, 64)).astype(np.float32)
    expected = topojax.restore(digits_run).encode(x)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"), jax.default_prng_impl("rbg"):
        run = topojax.restore(digits_run)
        found = run.encode(x)
        assert run.decode(found.z_geo).x_hat.dtype == np.float32
    np.testing.assert_array_equal(found.z_geo, expected.z_geo)
    assert run.state.key.dtype == topojax.restore(digits_run).state.key.dtype


def environment(**changes):
    return {**os.environ, "JAX_PLATFORMS": "cpu", **changes}


def test_a_platform_that_is_not_there_is_one_line(tmp_path):
    command = [sys.executable, "-m", "topojax", "train", f"--config={TINY}", f"--workdir={tmp_path / 'run'}"]
    settings = environment(JAX_PLATFORMS="cuda", CUDA_VISIBLE_DEVICES="")
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=settings)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1), ended.stderr
    assert "JAX_PLATFORMS" in ended.stderr
    assert not (tmp_path / "run").exists()


SWITCHES = [
    {"JAX_ENABLE_X64": "1"},
    {"JAX_DEBUG_NANS": "1", "JAX_DISABLE_JIT": "1", "JAX_NUMPY_DTYPE_PROMOTION": "strict"},
    {"JAX_DEFAULT_PRNG_IMPL": "rbg"},
]


@pytest.mark.campaign
def test_every_switch_trains_and_but_for_keys_to_the_same_numbers(tmp_path):
    found = []
    for n, switches in enumerate([{}, *SWITCHES]):
        workdir = tmp_path / str(n)
        command = [sys.executable, "-m", "topojax", "train", f"--config={TINY}", f"--workdir={workdir}"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment(**switches))
        assert ended.returncode == 0, ended.stderr
        rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        found.append([{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows])
    assert found[0] == found[1] == found[2] != found[3]
    # A run of other keys goes on with them in a process that has JAX's usual ones.
    assert "rbg" in str(topojax.restore(workdir).state.key.dtype)
    command = [sys.executable, "-m", "topojax", "train", f"--config={TINY}", f"--workdir={workdir}"]
    ended = subprocess.run([*command, "--config.train.epochs=5"], capture_output=True, timeout=600, env=environment())
    assert ended.returncode == 0, ended.stderr
