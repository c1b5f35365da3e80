"""The speed benchmark: repeats, the command and its table; nothing here asks for speed."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
import tiny_config

from topojax.benchmarks import measurement, text
from topojax.benchmarks.compiling import cache_in
from topojax.benchmarks.timed_epochs import Epochs, Loop, in_turn
from topojax.benchmarks.timing import Patience, quartiles, repeated

TINY = str(pathlib.Path(tiny_config.__file__))


def test_quartiles_by_hand():
    assert quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == (2.0, 3.0, 4.0)
    assert quartiles([7.0]) == (7.0, 7.0, 7.0)


@pytest.mark.parametrize(
    "patience, count",
    [(Patience(3, 9, 0.0), 3), (Patience(2, 5, 1e9), 5), (Patience(0, 0, 1e9), 0)],
)
def test_repeats_stop_when_told_and_the_first_is_not_counted(patience, count):
    calls = []

    def measure():
        calls.append(len(calls))
        return calls[-1]

    assert repeated(measure, patience) == list(range(1, count + 1))
    assert len(calls) == count + 1


def test_epochs_take_turns():
    order = []

    def epochs(name, interval):
        def compiled(carry, data):
            order.append(name)
            return carry + 1, data

        return Epochs(Loop(lambda: None, compiled, 5, interval), compiled, 0, None)

    pair = {"a": epochs("a", 3), "b": epochs("b", 2)}
    found = in_turn(pair)
    assert order == ["a", "b", "a", "b", "a"]
    assert {name: len(times) for name, times in found.items()} == {"a": 3, "b": 2}
    assert (pair["a"].carry, pair["b"].carry) == (3, 2)
    # Two epochs of 1 s and 2 s, five steps each.
    assert pair["a"].of_step([1.0, 2.0]) == pytest.approx(0.3)


def test_the_cache_is_put_back(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    with cache_in(tmp_path / "new"):
        jax.jit(lambda x: x * 3 + 1).lower(jnp.ones(3)).compile()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "new")
    assert jax.config.jax_compilation_cache_dir == before
    assert list((tmp_path / "new").iterdir())


# The command


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "topojax.benchmarks.speed", *arguments],
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """(the process, the JSON it wrote, its home for caches) of a quick run."""
    folder = tmp_path_factory.mktemp("speed")
    ended = command("--quick", "--config", TINY, f"--json={folder / 'speed.json'}", XDG_CACHE_HOME=str(folder / "home"))
    assert ended.returncode == 0, ended.stderr
    return ended, json.loads((folder / "speed.json").read_text()), folder / "home"


STEPS = ("full", "constant_control", "bare", "recon_vq", "forward")
POSITIVE = (
    *(f"step_ms/{name}" for name in STEPS),
    "epoch_ms",
    "evaluate_ms",
    "attainable_ms",
    "attainable_fraction",
    "gflops/step",
    "gflops/xla",
    "gflops_per_s/reference",
    "gflops_per_s/step",
    *(f"compile_s/{kind}{part}" for kind in ("cold", "warm") for part in ("", "/trace", "/lower", "/compile")),
    "peak_mib",
    "peak_mib/compiling",
    "repeats",
)


@pytest.mark.campaign
def test_every_number_is_there(quick):
    _, found, _ = quick
    wrong = {name: found.get(name) for name in POSITIVE if not found.get(name, 0) > 0}
    assert not wrong
    assert {"control_overhead", "control_overhead/bare", "probe_ms", "spreads", "versions", "machine"} <= found.keys()
    assert found["versions"]["jax"] == jax.__version__
    config = found["config"]
    assert (config["batch_size"], config["num_train"], config["num_test"]) == (32, 160, 40)
    assert (config["steps_per_epoch"], config["interval_epochs"]) == (5, 10)
    assert set(config["contracts"]) == set(tiny_config.KEPT)


@pytest.mark.campaign
def test_numbers_agree_with_each_other(quick):
    _, found, _ = quick
    full = found["step_ms/full"]
    for ratio, value in (
        ("control_overhead", full / found["step_ms/constant_control"] - 1),
        ("control_overhead/bare", full / found["step_ms/bare"] - 1),
        ("attainable_fraction", found["attainable_ms"] / full),
    ):
        assert found[ratio] == pytest.approx(value)
    for name, (low, high) in found["spreads"].items():
        assert low <= found["paired"].get(name, found[name]) <= high, name
    for kind in ("cold", "warm"):
        parts = [found[f"compile_s/{kind}/{part}"] for part in ("trace", "lower", "compile")]
        assert found[f"compile_s/{kind}"] == pytest.approx(sum(parts))
    assert found["compile_s/warm/compile"] < found["compile_s/cold/compile"]  # it was read, not compiled


@pytest.mark.slow
def test_products_are_those_of_the_step(quick):
    """B 32, X 64, H 16, D 2: [32,64]×[64,16] is the first layer, [32,64]×[64,34] the image's gradient."""
    _, found, _ = quick
    products = {row["shape"]: row for row in found["products"]}
    for width in (16, 34):
        shape = f"[32,64]×[64,{width}]"
        assert products[shape]["per_step"] == 1
        assert products[shape]["share"] == pytest.approx(2 * 32 * 64 * width / 1e9 / found["gflops/step"])
    assert measurement.QUICK.share <= sum(row["share"] for row in found["products"]) <= 1 + 1e-9
    # A probe, once in 50 steps, sees up to 512 points (here all 160) before and after an update.
    assert products["[160,64]×[64,16]"]["per_step"] == pytest.approx(2 / 50)
    assert all(row["us"] > 0 and row["gflops_per_s"] > 0 for row in found["products"])


@pytest.mark.slow
def test_the_table_is_markdown(quick):
    ended, found, _ = quick
    assert ended.stdout.startswith(text.markdown(found))
    rows = [line for line in ended.stdout.splitlines() if line.startswith("|")]
    assert len(rows) == len(text.ROWS) + 2
    assert all(row.count("|") == 4 for row in rows)
    assert f"| controlled step, ms | {found['step_ms/full']:.2f} |" in ended.stdout
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_scaling_has_a_table_too(quick):
    _, found, _ = quick
    scaled = [
        {"size": "H", "value": 32, "step_ms": 3.0, "base_step_ms": 2.0, "ratio": 1.5},
        {"size": "B", "value": 640, "skipped": "there are 160 training examples"},
    ]
    lines = text.markdown({**found, "scaling": scaled}).splitlines()
    assert lines[-2:] == ["| H | 32 | 3.00 | 2.00 | × 1.50 |", "| B | 640 | there are 160 training examples | | |"]


@pytest.mark.slow
def test_the_users_cache_is_not_touched(quick):
    *_, home = quick
    assert not list(home.rglob("xla"))


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--config.train.batch_size=500",), "config.train.batch_size = 500 exceeds the 160 training examples"),
        pytest.param(
            ("--config.model.num_charts=1",),
            "config.model.num_charts = 1: must lie in [2, inf)",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("--json=no/such/folder/x.json",),
            "--json=no/such/folder/x.json cannot be written: name a file in a folder",
            marks=pytest.mark.slow,
        ),
        (("--qick",), "unknown flag --qick: did you mean --quick?"),
    ],
)
def test_bad_input_is_one_line(arguments, said):
    ended = command("--config", TINY, *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1
    assert said in ended.stderr
