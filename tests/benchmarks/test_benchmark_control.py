"""The comparison of control with constants: its arms are what they say, its numbers what was measured."""

import json
import pathlib
import statistics
import subprocess
import sys

import numpy as np
import pytest
import tiny_config

from topojax.benchmarks import comparison
from topojax.benchmarks.arms import ARMS, GRID, QUICK_ARMS, SWEEP, Setting, configure, quick
from topojax.benchmarks.comparison import Runner, compare, epochs_to, held_out, measured, summary, tune
from topojax.benchmarks.comparison_report import cell, draw, markdown
from topojax.benchmarks.ledger import Ledger, key
from topojax.benchmarks.seeded import Trained
from topojax.config import command_line
from topojax.config.io import flat, to_json
from topojax.config.validate import validate
from topojax.data import sets
from topojax.errors import UserError
from topojax.training.loop import train_and_evaluate

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
VARIANTS = ("digits.py", "digits.py:unsupervised", "mnist.py", "cifar10.py", "manifolds.py:moons_2d")
ALL = Setting(rate=0.02, scale=10.0, gates=False)


def quiet(text):
    pass


def tiny():
    c = tiny_config.get_config()
    c.train.epochs = 2
    c.train.compilation_cache = False
    c.optim.learning_rate, c.optim.learning_rate_max = 0.004, 0.01
    c.contracts.window.initial, c.contracts.window.minimum, c.contracts.window.maximum = 0.5, 0.2, 10.0
    return c


# Arms.


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_arm_of_every_configuration_validates(variant):
    config = command_line.load(str(CONFIGS / variant))
    for arm in ARMS.values():
        for setting in (Setting(), ALL, *(Setting(rate=rate) for rate in SWEEP["rate"]), Setting(scale=0.01)):
            validate(configure(config, arm, setting, seed=3))


def test_every_configuration_is_among_the_variants():
    assert {path.name for path in CONFIGS.glob("*.py")} == {variant.partition(":")[0] for variant in VARIANTS}


def test_control_is_the_configuration_untouched():
    config = tiny_config.get_config()
    assert to_json(configure(config, ARMS["control"])) == to_json(config)


def test_the_two_sides_of_control_are_taken_apart():
    config = tiny()
    both = {name: dict(flat(configure(config, ARMS[name]))) for name in ARMS}

    def changed(name):
        return {field for field in both["control"] if both[name][field] != both["control"][field]}

    assert all(field.startswith("contracts.") for field in changed("governor_only"))
    assert all(field.startswith(("optim.", "hierarchy.")) for field in changed("contracts_only"))
    assert changed("constants") == changed("governor_only") | changed("contracts_only")
    for name in set(ARMS) - {"control", "contracts_only"}:
        assert {both[name][f"contracts.{row}.mechanism"] for row in config.contracts} == {"constant"}
    # The tiny run has no schedule of its own; by hand there is one, and no cap.
    assert both["constants"]["optim.schedule"] == "cosine"
    assert both["constants"]["optim.update_ratio"] == both["constants"]["optim.latent_speed"] == 0


def test_a_wrong_guess_moves_no_bound_of_a_controller():
    config = tiny()  # rate 0.004 of at most 0.01; window starts at 0.5 in [0.2, 10]
    low, high = (configure(config, ARMS["control"], Setting(rate=rate)).optim for rate in (1e-5, 0.1))
    assert (low.learning_rate, low.learning_rate_max) == (1e-5, 0.01)
    assert (high.learning_rate, high.learning_rate_max) == (0.1, 0.01)  # where it starts
    # By hand, the cosine falls from the rate itself.
    for setting, rate in ((Setting(rate=1e-5), 1e-5), (Setting(), 0.004)):
        by_hand = configure(config, ARMS["constants"], setting).optim
        assert (by_hand.learning_rate, by_hand.learning_rate_max) == (rate, rate)

    small, large = (configure(config, ARMS["control"], Setting(scale=scale)).contracts for scale in (0.1, 100.0))
    assert (small.window.initial, small.window.minimum, small.window.maximum) == pytest.approx((0.05, 0.2, 10.0))
    assert (large.window.initial, large.window.minimum, large.window.maximum) == pytest.approx((50.0, 0.2, 10.0))
    by_hand = configure(config, ARMS["constants"], Setting(scale=100.0)).contracts
    assert (by_hand.window.initial, by_hand.window.minimum, by_hand.window.maximum) == pytest.approx((50.0, 0.2, 50.0))
    assert large.sup_temperature.initial == config.contracts.sup_temperature.initial


def test_open_gates_and_a_seed():
    c = configure(tiny_config.get_config(), ARMS["constants"], Setting(gates=False), seed=7)
    assert {row.gate for row in c.contracts.values()} == {"none"}
    assert c.seed == 7


def test_quick_is_small_whatever_the_configuration():
    for variant in VARIANTS:
        config = command_line.load(str(CONFIGS / variant))
        small = quick(config)
        validate(small)
        assert small.train.epochs == 10
        assert small.data.num_examples == 600
        assert config.train.epochs > 10  # the one that was given is as it was


# Tuning.


def test_tuning_keeps_the_best_of_each_stage_and_never_sees_the_test_split():
    # AMI is largest at rate 4e-3, scale 3; then gates add 0.1. Equal AMI goes to the lesser error.
    asked = []

    def run(name, split, setting, seed):
        asked.append((name, split, seed))
        near = (setting.rate == 4e-3) + (setting.scale == 3.0)
        return {"ami": 0.3 * near + 0.1 * bool(setting.gates), "mse": None}

    assert tune(run, "constants", Setting(gates=False), GRID) == Setting(rate=4e-3, scale=3.0, gates=True)
    assert set(asked) == {("constants", "validation", 0)}
    assert len(asked) == len(GRID["rate"]) * len(GRID["scale"]) + len(GRID["gates"])

    def even(name, split, setting, seed):
        return {"ami": 0.5, "mse": None if setting.rate == 1e-3 else setting.rate}

    assert tune(even, "schedule_free", Setting(scale=3.0), GRID) == Setting(rate=4e-3, scale=3.0)


def test_the_validation_part_comes_out_of_the_training_split():
    dataset = sets.load(tiny().data, seed=1)  # 160 to train on: 128 and 32
    part = held_out(dataset, seed=1)
    assert (len(part.train.label), len(part.test.label)) == (128, 32)
    joined = np.concatenate([part.train.image, part.test.image])
    assert sorted(map(bytes, joined)) == sorted(map(bytes, np.asarray(dataset.train.image)))
    shares = [np.bincount(labels, minlength=10) for labels in (part.test.label, dataset.train.label)]
    assert (np.abs(shares[0] - 0.2 * shares[1]) <= 1).all()


def test_neighbours_of_the_part_trained_on_are_among_themselves():
    config = tiny()
    config.data.neighbours = 3
    part = held_out(sets.load(config.data, seed=1), seed=1)
    near = np.asarray(part.train.neighbours)
    assert near.shape == (128, 3)
    assert near.max() < 128
    assert (near != np.arange(128)[:, None]).all()


# Measures and their summary.


def test_epochs_to_ninety_per_cent():
    assert epochs_to([0.1, 0.53, 0.6, 0.55, 0.6]) == 3  # 0.9 · 0.6 = 0.54
    assert epochs_to([0.5]) == 1
    assert epochs_to([0.5, 0.0]) is None


def test_contracts_are_audited_also_where_weights_are_constant():
    config = configure(tiny(), ARMS["constants"])
    labels = np.array([0, 0, 1, 1])
    predictions = {
        "chart": np.array([0, 0, 1, 1]),
        "code": np.zeros(4, int),
        "router": np.eye(4, dtype=np.float32)[[0, 0, 1, 1]],
        **dict.fromkeys(("squared_error", "squared_error_by_chart", "squared_error_dream"), np.full(4, 0.25)),
        "decoder_chart": np.array([0, 0, 1, 1]),
        "consistency": np.zeros(4),
        "readout_prediction": np.array([0, 1, 1, 1]),
        "readout_probability": np.eye(2, dtype=np.float32)[[0, 1, 1, 1]],
        "class_prediction": np.array([1, 1, 1, 1]),
        "class_probability": np.eye(2, dtype=np.float32)[[1, 1, 1, 1]],
        "z_geo": np.zeros((4, 2), np.float32),
    }
    errors = {"entropy": -0.1, "diversity": 0.5, "window": -1.0, "commitment": 0.0, "route": None, "jump": float("nan")}
    row = {f"contract/{name}/error": None if error != error else error for name, error in errors.items()}
    found = measured(config, Trained(predictions, row, [0.5, 1.0], 1.0), labels)
    # entropy and window hold, diversity does not; commitment is a ratio of gradients, the others were not measured
    assert found["satisfied"] == pytest.approx(2 / 3)
    assert (found["violated"], found["contracts"]) == (["diversity"], 3)
    assert (found["ami"], found["router_accuracy"], found["readout_accuracy"]) == (pytest.approx(1.0), 0.5, 0.75)
    assert (found["mse"], found["epochs_to_90"]) == (0.25, 2)
    assert found["I_XK"] == pytest.approx(np.log(2))  # two charts, each certain, each half of the data


def test_summary_by_hand():
    line = dict.fromkeys(comparison.MEASURES, 1.0) | {"key": "k", "curve": [0.0, 1.0]}
    lines = [line | {"ami": 0.2, "epochs_to_90": None}, line | {"ami": 0.6, "curve": [0.5, 0.0]}]
    found = summary(lines, Setting())
    assert found["ami"] == {"mean": pytest.approx(0.4), "sd": pytest.approx(0.08**0.5), "values": [0.2, 0.6]}
    assert found["epochs_to_90"] == {"mean": 1.0, "sd": None, "values": [None, 1.0]}
    assert found["curve"] == [0.25, 0.5]
    assert cell(found["ami"], "{:.3f}") == "0.400 ± 0.283"
    assert cell(found["epochs_to_90"], "{:.0f}") == "1 (1 of 2)"
    assert cell({"mean": None, "sd": None, "values": [None]}, "{:.0f}") == "–"


# The ledger.


def test_a_key_is_of_what_changes_the_numbers():
    config = tiny()
    assert key(config, "test") != key(config, "validation")
    assert key(config, "test") != key(configure(config, ARMS["control"], seed=1), "test")
    other = configure(config, ARMS["control"])
    other.log.every_epochs, other.checkpoint.keep, other.name = 1, 9, "other"
    assert key(config, "test") == key(other, "test")
    other.train.epochs += 1
    assert key(config, "test") != key(other, "test")


def test_a_line_cut_off_is_dropped_and_a_broken_one_refused(tmp_path):
    path = tmp_path / "runs.jsonl"
    ledger = Ledger(path)
    ledger.add({"key": "a", "ami": 0.5})
    whole = path.read_text()
    path.write_text(whole + '{"key": "b", "am')
    assert set(Ledger(path).lines) == {"a"}
    assert path.read_text() == whole
    path.write_text('{"ami": 1}\n' + whole)
    with pytest.raises(UserError, match="line 1"):
        Ledger(path)


# Runs.


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """One arm, two seeds, really trained: (folder, result, runs.jsonl, what was said)."""
    folder, said = tmp_path_factory.mktemp("compared"), []
    found = compare(tiny(), folder, seeds=2, arms=("control",), say=said.append)
    return folder, found, (folder / "runs.jsonl").read_text(), said


@pytest.mark.slow
def test_the_table_is_the_mean_of_the_lines(compared):
    _, found, text, said = compared
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["arm"], line["split"], line["seed"]) for line in lines] == [("control", "test", s) for s in (0, 1)]
    assert len(said) == 2
    for measure in comparison.MEASURES:
        values = [line[measure] for line in lines]
        there = [value for value in values if value is not None]
        assert found["arms"]["control"][measure]["values"] == values
        if there:
            assert found["arms"]["control"][measure]["mean"] == pytest.approx(sum(there) / len(there))
    ami = [line["ami"] for line in lines]
    assert f"| control | {sum(ami) / 2:.3f} ± {statistics.stdev(ami):.3f} |" in markdown(found)
    assert lines[0]["mse"] != lines[1]["mse"]  # the seed reached the compiled program
    assert [len(line["curve"]) for line in lines] == [2, 2]
    assert lines[0]["contracts"] == 6  # 7 are on; commitment holds a ratio of gradients


@pytest.mark.slow
def test_what_is_done_is_not_done_again(compared, monkeypatch):
    folder, found, text, _ = compared

    def compiles(config, dataset):
        raise AssertionError("nothing is left to train")

    monkeypatch.setattr(comparison, "compile_runs", compiles)
    assert compare(tiny(), folder, seeds=2, arms=("control",), say=quiet) == found
    assert (folder / "runs.jsonl").read_text() == text


def faked(monkeypatch):
    """Runs that train nothing: the AMI is a function of the configuration; returns what was compiled, in order."""
    compiled = []

    def compile_runs(config, dataset):
        compiled.append((config.optim.rate, len(dataset.train.label)))
        return lambda dataset, seed: None

    def made_up(config, trained, labels):
        ami = 0.5 + 0.1 * (config.optim.learning_rate == 4e-3) + 0.01 * config.seed
        line = dict.fromkeys(comparison.MEASURES, ami) | {"contracts": 1, "violated": [], "seconds": 0.0}
        return line | {"curve": [ami] * config.train.epochs}

    monkeypatch.setattr(comparison, "compile_runs", compile_runs)
    monkeypatch.setattr(comparison, "measured", made_up)
    return compiled


@pytest.mark.slow
def test_all_arms_and_the_sweep_in_order(monkeypatch, tmp_path):
    compiled = faked(monkeypatch)
    grid = {"rate": (1e-3, 4e-3), "scale": (1.0, 3.0), "gates": (False, True)}
    found = compare(tiny(), tmp_path, seeds=3, grid=grid, sweep=SWEEP, say=quiet)
    assert list(found["arms"]) == list(ARMS)
    fields = ("rate", "scale", "gates")
    settings = {name: {field: arm["setting"][field] for field in fields} for name, arm in found["arms"].items()}
    assert settings["constants"] == {"rate": 4e-3, "scale": 1.0, "gates": False}
    assert settings["contracts_only"] == {"rate": 4e-3, "scale": None, "gates": None}
    assert settings["prodigy"] == settings["governor_only"] == {"rate": None, "scale": 1.0, "gates": False}
    assert settings["control"] == {"rate": None, "scale": None, "gates": None}
    # Tuning trains on 128 of 160: 4 + 1 for constants (one of the gates' two is done), 2 for each rule with a rate.
    # Then an arm is one program whatever its seeds, and a guess of the sweep another, but for scale 1: it is control's
    # own test run, and that of constants, tuned to the rate that was configured.
    assert sum(n == 128 for _, n in compiled) == 5 + 2 + 2
    # What differs in numbers alone is one program, so that a sweep compiles little.
    assert sum(n == 160 for _, n in compiled) <= len(ARMS) + 2 * 10 - 2
    # seeds 0, 1, 2 add 0, 0.01, 0.02
    assert found["arms"]["constants"]["ami"]["mean"] == pytest.approx(0.61)
    swept = found["sweep"]["constants"]
    assert {key: swept["rate"][key] for key in ("worst", "mean", "best")} == dict.fromkeys(
        ("worst", "mean", "best"), pytest.approx(0.51)
    )
    # 4e-3 is not among the guesses
    assert swept["scale"]["worst"] == pytest.approx(0.61)  # the rate as configured
    assert swept["all"]["mean"] == pytest.approx(0.55)  # 4 rates and 2 of both at 0.51, 4 scales at 0.61
    assert "| constants | initial rate | 0.510 | 0.510 | 0.510 |" in markdown(found)
    draw(found, tmp_path / "control.png")
    assert (tmp_path / "control.png").read_bytes().startswith(b"\x89PNG")
    json.dumps(found, allow_nan=False)


def test_a_configuration_that_an_arm_cannot_run_is_refused_before_training(monkeypatch, tmp_path):
    compiled = faked(monkeypatch)
    c = tiny()
    c.optim.b1 = 0.0  # schedule_free divides by it
    with pytest.raises(UserError, match=r"config\.optim\.b1"):
        compare(c, tmp_path, seeds=1, say=quiet)
    assert compiled == []


def test_the_command_refuses_what_it_cannot_do(tmp_path):
    command = [sys.executable, "-m", "topojax.benchmarks.control", f"--workdir={tmp_path}", "--seeds=0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr.splitlines()) == (2, ["topojax: error: --seeds=0: needs at least 1"])
    assert not list(tmp_path.iterdir())


@pytest.mark.campaign
def test_the_command_writes_what_it_prints(tmp_path):
    command = [sys.executable, "-m", "topojax.benchmarks.control", f"--workdir={tmp_path}", "--quick"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "control.md").read_text() in ended.stdout
    assert list(json.loads((tmp_path / "control.json").read_text())["arms"]) == list(QUICK_ARMS)
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 6  # 3 arms, 2 seeds
    assert (tmp_path / "control.png").stat().st_size > 0


@pytest.mark.slow
def test_a_run_is_what_training_comes_to(compared, tmp_path):
    _, found, _, _ = compared
    c = configure(tiny(), ARMS["control"], seed=1)
    train_and_evaluate(c, tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    arm = found["arms"]["control"]
    assert arm["ami"]["values"][1] == pytest.approx(result["test/ami"], abs=1e-6)
    assert arm["mse"]["values"][1] == pytest.approx(result["test/mse"], rel=1e-4)
    assert arm["I_XK"]["values"][1] == pytest.approx(result["test/I_XK"], abs=1e-4)


@pytest.mark.slow
def test_a_runner_reads_what_another_wrote(compared, monkeypatch):
    folder, found, _, _ = compared
    monkeypatch.setattr(comparison, "compile_runs", None)
    line = Runner(tiny(), folder, quiet).run("control", "test", Setting(), 1)
    assert line["ami"] == found["arms"]["control"]["ami"]["values"][1]
