"""Evaluation of a run: the same digits everywhere, tables against sums written out, and what cannot be had."""

import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from controller_runs import bits
from tiny_config import get_config

import topojax
from topojax.commands import main
from topojax.scoring.baseline_scores import fit_clusters
from topojax.scoring.scores import clustering
from topojax.scoring.split import ABOUT, LABELS, evaluate, evaluate_run, load_splits
from topojax.scoring.told import as_json, text
from topojax.scoring.transitions import transition_errors
from topojax.training import loop
from topojax.types import Batch


@pytest.fixture(scope="module")
def restored(digits_run):
    run = topojax.restore(digits_run)
    return run, *load_splits(run)


@pytest.fixture(scope="module")
def evaluation(restored):
    run, train, test = restored
    return evaluate_run(run, test, train)


@pytest.mark.slow
def test_another_process_finds_the_digits_of_the_result(digits_run, tmp_path):
    out = tmp_path / "found.json"
    # On one core, where the run was trained on all there are.
    code = (
        "import os, runpy; hasattr(os, 'sched_setaffinity') and os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    )
    code += "; runpy.run_module('topojax', run_name='__main__')"
    command = [sys.executable, "-c", code, "evaluate", f"--workdir={digits_run}", f"--out={out}"]
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith(f"written to {out}\n")
    found, result = json.loads(out.read_text()), json.loads((digits_run / "result.json").read_text())
    expected = {name: value for name, value in result.items() if name.startswith("test/")}
    assert {"test/mse", "test/jump_error", "test/class_table_gap", "test/ae/ami", "test/vq/acc_majority"} <= set(
        expected
    )
    assert {name: found[name] for name in found if name.startswith("test/")} == expected
    for name in expected:  # each with its labels, and a line of the table
        assert found["labels"][name] in LABELS
        assert f"\n{name.removeprefix('test/')} " in ended.stdout


@pytest.mark.slow
def test_labels_are_told_apart(evaluation, points_run):
    assert evaluation.labels["mse"] == evaluation.labels["ami"] == "train"
    assert evaluation.labels["ae/mse"] == "none"
    assert evaluation.labels["ae/ami"] == evaluation.labels["vq/acc_majority"] == "score"
    assert evaluation.labels["vq/acc_probe"] == "head"
    free = evaluate(points_run).labels
    assert (free["mse"], free["ami"], free["acc_readout"]) == ("none", "score", "head")
    assert "acc_supervised" not in free
    assert set(evaluation.labels) <= set(ABOUT)


def test_other_splits_and_steps_have_files_of_their_own(digits_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("topojax.storage.runtime.use_compilation_cache", lambda: None)
    run = shutil.copytree(digits_run, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(["evaluate", f"--workdir={run}", "--split=train", "--step=2"]) == 0
    assert before == {path: path.read_bytes() for path in before}
    found = json.loads((run / "evaluation_train_step2.json").read_text())
    assert (found["split"], found["epoch"], found["examples"]) == ("train", 2, 160)
    assert "epoch 2, train split, 160 examples" in capsys.readouterr().out


def test_a_step_that_does_not_exist_lists_those_that_do(digits_run, monkeypatch, capsys):
    monkeypatch.setattr("topojax.storage.runtime.use_compilation_cache", lambda: None)
    assert main(["evaluate", f"--workdir={digits_run}", "--step=3"]) == 2
    error = capsys.readouterr().err
    assert "no checkpoint of epoch 3" in error
    assert "there are 2, 4" in error
    assert error.count("\n") == 1


def test_a_run_without_a_finished_epoch(digits_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("topojax.storage.runtime.use_compilation_cache", lambda: None)
    (tmp_path / "config.json").write_text((digits_run / "config.json").read_text())
    assert main(["evaluate", f"--workdir={tmp_path}"]) == 2
    assert "no checkpoint in" in capsys.readouterr().err
    assert main(["evaluate", f"--workdir={tmp_path / 'nowhere'}"]) == 2
    assert "no run in" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_told(digits_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("topojax.storage.runtime.use_compilation_cache", lambda: None)
    assert main(["evaluate", f"--workdir={digits_run}", f"--out={tmp_path / 'no' / 'such.json'}"]) == 2
    assert "cannot be written: No such file" in capsys.readouterr().err


def test_other_data_are_refused(digits_run, monkeypatch):
    load = topojax.restore(digits_run)
    load.manifest["train"]["sha256"] = "0" * 64
    with pytest.raises(topojax.UserError, match="not those the run was trained on"):
        load_splits(load)


def test_one_example(restored):
    run, train, test = restored
    found = evaluate_run(run, Batch(test.image[:1], test.label[:1]), train)
    assert found.numbers["mse"] == pytest.approx(float(found.predictions["squared_error"][0]))
    for name in ("ami", "nmi", "ari", "effective_rank", "ae/ami"):
        assert found.numbers[name] is None
    assert found.numbers["acc_matched"] == 1.0
    assert found.numbers["I_XK"] == pytest.approx(0.0, abs=1e-6)
    said = " ".join(found.notes)
    for words in ("one example", "one class", "no example is routed to chart"):
        assert words in said
    json.dumps(as_json(found), allow_nan=False)
    assert "–" in text(found)


def test_one_class(restored):
    run, train, test = restored
    label = np.asarray(test.label)
    found = evaluate_run(run, Batch(test.image[label == 3], label[label == 3]), train)
    assert found.numbers["ami"] is None
    assert found.numbers["acc_readout"] is not None
    assert any(note.startswith("one class") for note in found.notes)


def test_no_labels(restored):
    run, train, test = restored
    found = evaluate_run(run, Batch(test.image, None), train)
    whole = evaluate_run(run, test, train)
    for name, value in found.numbers.items():
        if ABOUT[name].labels == "none":
            assert value == whole.numbers[name]
        else:
            assert value is None, name
    assert "class_given_chart" not in found.tables
    assert "no labels: nothing is compared with them" in found.notes
    json.dumps(as_json(found), allow_nan=False)


def test_a_chart_that_nobody_uses(restored, evaluation):
    run, train, test = restored
    chart = evaluation.predictions["chart"]
    kept = chart != np.bincount(chart).argmax()
    found = evaluate_run(run, Batch(test.image[kept], np.asarray(test.label)[kept]), train)
    unused = int(np.bincount(chart).argmax())
    assert np.isnan(found.tables["class_given_chart"][unused]).all()
    assert any(f"chart {unused}" in note or f", {unused}" in note for note in found.notes)
    assert found.numbers["class_table_gap"] is not None


def test_baselines_without_the_training_split_are_left_out(restored):
    run, _, test = restored
    found = evaluate_run(run, test)
    assert not [name for name in found.numbers if "/" in name]
    assert any("baselines are clustered there" in note for note in found.notes)


def test_baselines_are_clustered_on_the_training_split(restored, evaluation):
    run, train, test = restored
    z = run.program.baselines.encode(run.state.baselines, train.image)["ae"].z_q
    clusters = fit_clusters(np.asarray(z), 4, run.config.seed)(evaluation.predictions["ae/z"])
    assert evaluation.numbers["ae/ami"] == pytest.approx(clustering(clusters, np.asarray(test.label))["ami"])
    code = np.asarray(run.program.baselines.encode(run.state.baselines, train.image)["vq"].code)
    right = 0
    for mine, label in zip(evaluation.predictions["vq/code"], np.asarray(test.label), strict=True):
        members = np.asarray(train.label)[code == mine]
        right += members.size > 0 and np.bincount(members).argmax() == label
    assert evaluation.numbers["vq/acc_majority"] == pytest.approx(right / len(test.label))


def test_tables_against_sums_written_out(restored, evaluation):
    test = restored[2]
    chart, code = evaluation.predictions["chart"], evaluation.predictions["code"]
    label, tables = np.asarray(test.label), evaluation.tables
    assert tables["code_usage"].sum() == len(label)
    assert tables["code_usage"][chart[0], code[0]] == np.sum((chart == chart[0]) & (code == code[0]))
    k = chart[0]
    shares = np.bincount(label[chart == k], minlength=10) / np.sum(chart == k)
    np.testing.assert_allclose(tables["class_given_chart"][k], shares)
    np.testing.assert_allclose(tables["class_table"].sum(axis=1), 1.0, rtol=1e-5)
    # A label's probability is the router's mixture of the learned table.
    mixed = evaluation.predictions["router"] @ tables["class_table"]
    np.testing.assert_allclose(evaluation.predictions["class_probability"], mixed, rtol=1e-4, atol=1e-6)
    distance = 0.5 * np.abs(tables["class_table"] - tables["class_given_chart"]).sum(axis=1)
    gap = sum(distance[k] for k in chart) / len(chart)
    assert evaluation.numbers["class_table_gap"] == pytest.approx(gap)


def test_transitions_of_a_pair_written_out_whatever_the_batches(restored, evaluation):
    run, _, test = restored
    weights = jax.device_get(run.weights)
    encoding = run.encode(test.image)
    jump = {name: np.asarray(value["kernel"]) if isinstance(value, dict) else np.asarray(value)
            for name, value in weights["jump"].items()}  # fmt: skip
    up, down, c, d = jump["up"], jump["down"], jump["c"], jump["d"]

    def leap(i, j, z):
        return (z @ up[i].T + c[i]) @ down[j].T + d[j]

    i, j = 0, 2
    w = encoding.router[:, i].astype(np.float64) * encoding.router[:, j]
    there = leap(i, j, encoding.z_n_all[:, i])
    # The way back starts from where the way there ended.
    back = leap(j, i, there)
    errors = [
        np.sum((a - b) ** 2, axis=1) for a, b in ((there, encoding.z_n_all[:, j]), (back, encoding.z_n_all[:, i]))
    ]
    tables = evaluation.tables
    assert tables["overlap"][i, j] == pytest.approx(w.sum(), rel=1e-4)
    assert tables["jump_error"][i, j] == pytest.approx(np.sum(w * errors[0]) / w.sum(), rel=1e-3)
    assert tables["cycle_error"][i, j] == pytest.approx(np.sum(w * errors[1]) / w.sum(), rel=1e-3)
    assert np.isnan(np.diag(tables["jump_error"])).all()
    assert evaluation.numbers["jump_error"] == pytest.approx(np.nanmean(tables["jump_error"]))
    few = transition_errors(run.model, run.weights, np.asarray(test.image), size=7)
    np.testing.assert_allclose(few.jump, tables["jump_error"], rtol=1e-4)


@pytest.mark.slow
def test_a_resumed_run_with_baselines_equals_an_uninterrupted_one(digits_run, restored, tmp_path):
    c = get_config()
    c.baselines.autoencoder = c.baselines.vq = True
    c.train.epochs = 2
    loop.train_and_evaluate(c, tmp_path / "run")
    c.train.epochs = 4
    state = loop.train_and_evaluate(c, tmp_path / "run")
    assert bits(state.baselines) == bits(restored[0].state.baselines)
    tested = [
        {k: v for k, v in json.loads((path / "result.json").read_text()).items() if k.startswith("test/")}
        for path in (tmp_path / "run", digits_run)
    ]
    assert tested[0] == tested[1]
