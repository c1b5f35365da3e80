"""The speed benchmark: what it counts and compares is right, and the command runs; nothing here asks for speed."""

import json
import os
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config

from topojax import data
from topojax.benchmarks import measurement, rates, report, scaling, variants
from topojax.benchmarks.compiling import cache_in
from topojax.benchmarks.epochs import Epochs, Loop, bare, forward, in_turn, start, trained
from topojax.benchmarks.products import Product, counting
from topojax.benchmarks.timing import Patience, quartiles, repeated
from topojax.config_io import flat
from topojax.validate import validate

TINY = str(pathlib.Path(tiny_config.__file__))


def described(dataset):
    return {
        "num_train": len(dataset.train.label),
        "input_dim": dataset.train.image.shape[1],
        "image_shape": dataset.image_shape,
        "num_classes": dataset.num_classes,
    }


@pytest.fixture(scope="module")
def digits():
    """The tiny run's data: (about, training split)."""
    config = tiny_config.get_config()
    dataset = data.load(config.data, seed=config.seed)
    return described(dataset), jax.tree.map(jnp.asarray, dataset.train)


# Products


def counts_of(function, *args):
    """Product → count while `function(*args)` ran, checked to compute what the function computes."""
    counted, products = counting(function, *args)
    out, counts = jax.jit(counted)(*args)
    jax.tree.map(np.testing.assert_array_equal, out, jax.jit(function)(*args))
    return {product: int(n) for product, n in zip(products, counts, strict=True)}


A, B = jnp.ones((2, 3)), jnp.ones((3, 4))
AB = Product(1, 2, 3, 4)


def test_flops_of_a_product():
    assert AB.flops == 48  # 2·4 entries of 3 products and 3 sums
    assert Product(5, 2, 3, 4).flops == 240
    assert str(AB) == "[2,3]×[3,4]"
    assert str(Product(5, 2, 3, 4)) == "5·[2,3]×[3,4]"


def test_products_are_found_whichever_axes_they_contract():
    assert counts_of(lambda a, b: a @ b, A, B) == {AB: 1}
    assert counts_of(lambda a, b: jnp.einsum("km,nk->mn", a, b), A.T, B.T) == {AB: 1}
    batched = counts_of(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), jnp.ones((5, 2, 3)), jnp.ones((5, 3, 4)))
    assert batched == {Product(5, 2, 3, 4): 1}
    assert counts_of(lambda a: a @ jnp.ones(3), A) == {Product(1, 2, 3, 1): 1}


def test_a_gradient_costs_two_more():
    found = counts_of(jax.grad(lambda a, b: jnp.sum((a @ b) ** 2), (0, 1)), A, B)
    # c = A B [2,4]; dA = dc Bᵀ is [2,4]×[4,3]; dB = (dcᵀ A)ᵀ is [4,2]×[2,3]
    assert found == {AB: 1, Product(1, 2, 4, 3): 1, Product(1, 4, 2, 3): 1}


def test_a_scan_counts_its_length():
    def function(a, b):
        return jax.lax.scan(lambda total, x: (total + jnp.sum(x @ b), None), 0.0, jnp.stack([a] * 7))[0]

    assert counts_of(function, A, B) == {AB: 7}


@pytest.mark.parametrize("trips", [0, 1, 6])
def test_a_loop_counts_the_trips_it_makes(trips):
    def function(n, a, b):
        return jax.lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, c[1] + a @ b), (0, jnp.zeros((2, 4))))[1]

    assert counts_of(function, jnp.int32(trips), A, B) == {AB: trips}


def test_a_loop_within_a_scan_and_its_condition_count():
    """Trips 1, 2, 3 of a body with one product [2,3]×[3,4]; each asked for with one of [1,2]×[2,1]."""
    one = jnp.ones((1, 2))

    def function(a, b):
        def inner(total, n):
            def unfinished(carry):
                return carry[0] * (one @ one.T)[0, 0] < 2 * n

            _, out = jax.lax.while_loop(unfinished, lambda c: (c[0] + 1, c[1] + a @ b), (jnp.float32(0), total))
            return out, out[0, 0]

        return jax.lax.scan(inner, jnp.zeros((2, 4)), jnp.array([1.0, 2.0, 3.0]))

    assert counts_of(function, A, B) == {AB: 6, Product(1, 1, 2, 1): 6}


@pytest.mark.parametrize("taken, count", [(True, 3), (False, 0)])
def test_a_branch_counts_if_taken(taken, count):
    def function(flag, a, b):
        return jax.lax.cond(flag, lambda: a @ b + a @ (2 * b) + a @ (3 * b), lambda: jnp.zeros((2, 4)))

    assert counts_of(function, jnp.bool_(taken), A, B) == {AB: count}


def test_functions_with_rules_of_their_own_and_nested_ones_count():
    @jax.custom_vjp
    def product(a, b):
        return a @ b

    product.defvjp(lambda a, b: (a @ b, (a, b)), lambda res, g: (g @ res[1].T, res[0].T @ g))

    @jax.jit
    def function(a, b):
        return jax.nn.relu(product(a, b)) + jax.checkpoint(lambda a: a @ b)(a)

    assert counts_of(function, A, B) == {AB: 2}


def test_an_implicit_solve_counts_the_solver_that_runs():
    """Newton's √: custom_linear_solve holds a matvec and two solvers, of which the forward pass runs one."""
    matrix = 2.0 * jnp.eye(3)

    def function(b):
        def solver(matvec, b):
            body = lambda c: (c[0] + 1, c[1] + 0.5 * (b - matvec(c[1])))  # noqa: E731
            return jax.lax.while_loop(lambda c: c[0] < 4, body, (0, jnp.zeros_like(b)))[1]

        return jax.lax.custom_linear_solve(lambda x: matrix @ x, b, solver, transpose_solve=solver)

    assert counts_of(function, jnp.ones(3)) == {Product(1, 3, 3, 1): 4}


def test_products_in_an_unknown_place_are_refused():
    """Better no number than a wrong one."""
    pure = lambda a: jax.lax.reduce(  # noqa: E731
        a, jnp.float32(0), lambda x, y: (x.reshape(1, 1) @ y.reshape(1, 1))[0, 0], (0,)
    )
    with pytest.raises(NotImplementedError, match="inside 'reduce' are not counted"):
        counting(pure, jnp.ones(3))


# Rates


def test_dominant_products_are_the_fewest_that_reach_the_share():
    flops = {Product(1, 1, 1, n): share for n, share in ((1, 5.0), (2, 60.0), (3, 30.0), (4, 5.0))}
    assert [p.n for p in rates.dominant(flops, 0.9)] == [2, 3]
    assert [p.n for p in rates.dominant(flops, 0.91)] == [2, 3, 1]
    assert len(rates.dominant(flops, 1.0)) == 4


def test_attainable_time_by_hand():
    big, small, tail = Product(1, 10, 10, 5), Product(1, 10, 10, 1), Product(1, 1, 1, 1)  # 1000, 200, 2 operations
    flops = {big: 3000.0, small: 200.0, tail: 800.0}
    # 3 big ones of 2 s, 1 small one of 2 s: 8 s for 3200 operations; 800 more at that rate are 2 s.
    assert rates.attainable(flops, {big: 2.0, small: 2.0}) == pytest.approx(10.0)
    assert rates.attainable({}, {}) == 0.0


@pytest.mark.parametrize("product", [Product(1, 2, 3, 4), Product(3, 2, 2, 5), Product(1, 1, 1, 1)])
def test_a_product_is_timed(product):
    assert 0 < rates.product_timer(product, window=1e-4)() < 0.1


# Repeats


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


# What is compared


def test_variants_leave_the_configuration_alone_and_are_valid():
    config = tiny_config.get_config()
    config.revival.dead_code = 0.1
    before = dict(flat(config))
    for variant in (variants.constant_control(config), variants.recon_vq(config)):
        validate(variant)
    assert dict(flat(config)) == before


@pytest.fixture(scope="module")
def uncontrolled(digits):
    """(configuration, () → epochs from the start): constant weights, no gate closed, whatever else was asked for."""
    about, train = digits
    config = tiny_config.get_config()
    config.optim.schedule, config.hierarchy.action = "cosine", "freeze"
    config.optim.learning_rate = config.optim.learning_rate_max = 0.01
    for row in config.contracts.values():
        row.gate = "none"
    config = variants.constant_control(config)
    loop = trained(config, about)
    compiled = start(loop, train).compiled
    return config, lambda: Epochs(loop, compiled, jax.jit(loop.init)(), train)


def test_constant_control_moves_nothing(uncontrolled):
    """Weights, rate and shares of groups stay, and nothing is probed after the first epoch."""
    config, restart = uncontrolled
    epochs = restart()

    def multipliers():
        return jax.device_get([jax.tree.leaves(group)[0] for group in epochs.carry.control.bank.groups])

    first = multipliers()
    epochs.epoch()
    probed = jax.device_get(epochs.carry.probed)
    for _ in range(12):
        epochs.epoch()
    jax.tree.map(np.testing.assert_array_equal, first, multipliers())
    jax.tree.map(np.testing.assert_array_equal, probed, jax.device_get(epochs.carry.probed))
    assert float(epochs.carry.control.governor.rate) == np.float32(config.optim.learning_rate)
    np.testing.assert_array_equal(epochs.carry.control.hierarchy.factors, 1.0)


def test_the_bare_loop_trains_the_same_atlas(uncontrolled, digits):
    """After two epochs its parameters are the run's own to rounding."""
    config, restart = uncontrolled
    run, plain = restart(), start(bare(config, digits[0]), digits[1])
    initial = jax.tree.leaves(jax.device_get(run.carry.params))
    for epochs in (run, plain):
        epochs.epoch()
        epochs.epoch()
    (params, *_, number), _ = plain.carry
    assert int(number) == int(run.carry.step) == 10
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(run.carry.params), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
    moved = [np.max(np.abs(leaf - at)) for leaf, at in zip(jax.tree.leaves(params), initial, strict=True)]
    assert max(moved) > 0.05  # ten steps of Adam at 0.01


def test_recon_vq_is_that_alone(digits):
    about, _ = digits
    config = variants.recon_vq(tiny_config.get_config())
    assert [name for name, row in config.contracts.items() if row.enabled] == ["commitment"]
    assert not config.supervised.enabled
    assert trained(config, about).steps == 5


def test_looking_changes_no_parameter(digits):
    about, train = digits
    epochs = start(forward(tiny_config.get_config(), about), train)
    before = jax.device_get(epochs.carry[0])
    epochs.epoch()
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(epochs.carry[0]))
    assert int(epochs.carry[2]) == 1


@pytest.mark.parametrize(
    "steps, dead, every, expected",
    [
        (5, 0.0, 7, 10),  # a probe every 50 steps
        (9, 0.0, 7, 6),  # 5.56 epochs, rounded as the step rounds it
        (80, 0.0, 7, 1),
        (9, 0.1, 5, 30),  # probes every 6 epochs, revivals every 5
    ],
)
def test_an_interval_holds_a_probe_and_a_revival(steps, dead, every, expected):
    config = tiny_config.get_config()
    config.revival.dead_code, config.revival.every_epochs = dead, every
    assert variants.interval(config, steps) == expected


def test_scaling_multiplies_one_size_at_a_time(monkeypatch):
    """Sizes that cannot be are said to be skipped; ratios are of medians."""
    base = tiny_config.get_config()
    sizes = {symbol: dict(flat(base))[field] for symbol, field in scaling.SIZES.items()}
    assert sizes == {"H": 16, "N": 4, "K": 3, "D": 2, "B": 32}
    built = []

    def made(config, about):
        built.append({symbol: dict(flat(config))[field] for symbol, field in scaling.SIZES.items()})
        return SimpleNamespace(of_step=lambda times: sum(times), data=None)

    monkeypatch.setattr(scaling, "trained", made)
    monkeypatch.setattr(scaling, "start", lambda loop, data: loop)
    monkeypatch.setattr(scaling, "in_turn", lambda pair: {"step_ms": [0.006], "base_step_ms": [0.002]})
    run = SimpleNamespace(of_step=lambda times: sum(times), data=None)
    found = scaling.scaling(base, {"num_train": 100}, run, factors=(2, 4), patience=Patience(1, 1, 0.0))
    assert [(row["size"], row["value"]) for row in found] == [
        *(("H", 32), ("H", 64), ("N", 8), ("N", 16), ("K", 6), ("K", 12), ("D", 4), ("D", 8), ("B", 64), ("B", 128)),
    ]
    assert found[-1]["skipped"] == "there are 100 training examples"
    assert [sum(one[s] != sizes[s] for s in sizes) for one in built] == [1] * 9
    assert found[0]["step_ms"] == pytest.approx(6.0)
    assert found[0]["base_step_ms"] == pytest.approx(2.0)
    assert found[0]["ratio"] == pytest.approx(3.0)
    assert dict(flat(base)) == dict(flat(tiny_config.get_config()))


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


def test_the_table_is_markdown(quick):
    ended, found, _ = quick
    assert ended.stdout.startswith(report.markdown(found))
    rows = [line for line in ended.stdout.splitlines() if line.startswith("|")]
    assert len(rows) == len(report.ROWS) + 2
    assert all(row.count("|") == 4 for row in rows)
    assert f"| controlled step, ms | {found['step_ms/full']:.2f} |" in ended.stdout
    assert "Traceback" not in ended.stderr


def test_scaling_has_a_table_too(quick):
    _, found, _ = quick
    scaled = [
        {"size": "H", "value": 32, "step_ms": 3.0, "base_step_ms": 2.0, "ratio": 1.5},
        {"size": "B", "value": 640, "skipped": "there are 160 training examples"},
    ]
    lines = report.markdown({**found, "scaling": scaled}).splitlines()
    assert lines[-2:] == ["| H | 32 | 3.00 | 2.00 | × 1.50 |", "| B | 640 | there are 160 training examples | | |"]


def test_the_users_cache_is_not_touched(quick):
    *_, home = quick
    assert not list(home.rglob("xla"))


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--config.train.batch_size=500",), "config.train.batch_size = 500 exceeds the 160 training examples"),
        (("--config.model.num_charts=1",), "config.model.num_charts = 1: must lie in [2, inf)"),
        (("--json=no/such/folder/x.json",), "--json=no/such/folder/x.json cannot be written: name a file in a folder"),
        (("--qick",), "unknown flag --qick: did you mean --quick?"),
    ],
)
def test_bad_input_is_one_line(arguments, said):
    ended = command("--config", TINY, *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1
    assert said in ended.stderr
