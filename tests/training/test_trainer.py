"""The trainer on a run of seconds: what it leaves, and that stopping and going on changes nothing."""

import copy
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from controller_runs import bits
from tiny_config import get_config

import topojax
from topojax.data import sets
from topojax.errors import UserError
from topojax.scoring import audit
from topojax.scoring.encoder import restore_encoder
from topojax.training import loop, outcome

TESTS = pathlib.Path(__file__).parents[1]
VOLATILE = ("time/first_epoch_s", "time/train_s", "time/compile_s", "time/total_s")


def config(**fields):
    c = get_config()
    c.log.every_epochs, c.monitor.max_failures = 1, 10
    c.baselines.autoencoder = c.baselines.vq = True  # the configuration of `digits_run`: its program is compiled
    c.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return c


@pytest.fixture(scope="module")
def finished(digits_run, tmp_path_factory):
    """(workdir, final state) of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("run") / "whole"
    return workdir, loop.train_and_evaluate(config(), workdir)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run."""
    return pathlib.Path(shutil.copytree(finished[0], tmp_path / "run"))


def rows(workdir, name="metrics.jsonl"):
    lines = [json.loads(line) for line in (workdir / name).read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in VOLATILE} for row in lines]


def result(workdir):
    return {k: v for k, v in json.loads((workdir / "result.json").read_text()).items() if k not in VOLATILE}


def state_bits(state):
    return bits(state.replace(key=jax.random.key_data(state.key)))


def test_what_a_run_leaves(finished):
    workdir, state = finished
    assert int(state.step) == 20  # 4 epochs of 160 // 32 steps
    metrics = rows(workdir)
    assert [(row["epoch"], row["step"]) for row in metrics] == [(1, 5), (2, 10), (3, 15), (4, 20)]
    for row in metrics:
        assert {"lr", "loss/recon", "weight/window", "signal/I_XK", "norm/update", "test/ami"} <= row.keys()
        # The ratios of gradients that commitment and route hold are measured only where their weights track them.
        assert row["contract/route/error"] > 0
        assert None not in row.values()
        assert row.get("nonfinite", 0) == 0
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["2", "4"]
    assert json.loads((workdir / "config.json").read_text())["model"]["num_charts"] == 4
    final = result(workdir)
    assert final["labels_used"] is True
    assert final["readout_labels_used"] is True
    assert (final["epochs"], final["step"], final["seed"], final["data"]["name"]) == (4, 20, 0, "digits")
    assert final["parameters"] == sum(x.size for x in jax.tree.leaves(state.params))
    assert final["test/mse"] == metrics[-1]["test/mse"]
    assert final["best_epoch"] in (2, 4)
    assert final["ended"] == "horizon"
    assert not [p for p in workdir.rglob("*") if p.name.endswith(".part")]


def test_it_learns(finished):
    losses = [row["signal/task"] for row in rows(finished[0])]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_a_guess_beyond_its_bound_is_named_and_no_change_of_the_rate(tmp_path):
    """The rate starts at the bound: nothing changed it in the first epoch, and nobody unknown does."""
    loop.train_and_evaluate(config(train__epochs=1, optim__learning_rate=0.5, optim__learning_rate_max=0.004), tmp_path)
    first, *later = rows(tmp_path, "events.jsonl")
    assert first.pop("epoch") == first.pop("step") == 0
    assert first == {"event": "clipped", "field": "optim.learning_rate", "value": 0.5, "start": 0.004}
    assert rows(tmp_path)[0]["lr_governor"] == 0.004
    assert not [event for event in later if event["event"] in ("rate", "clipped")]


def test_a_finished_run_is_returned_as_it_is(run, finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.json*")}
    state = loop.train_and_evaluate(config(), run)
    assert "is finished: 4 epochs" in capsys.readouterr().out
    assert state_bits(state) == state_bits(finished[1])
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*.json*")}


KILLED = """
    import os, sys
    sys.path[:0] = [{tests!r}, {tests!r} + "/training"]
    from test_trainer import config
    from topojax.training import loop
    from topojax.storage import logs

    write = logs.Writers.metrics

    def last_words(self, epoch, step, values):
        write(self, epoch, step, values)
        if epoch == 3:
            os.kill(os.getpid(), 9)

    logs.Writers.metrics = last_words
    loop.train_and_evaluate(config(), sys.argv[1])
"""


@pytest.mark.slow
def test_killed_and_restarted_equals_uninterrupted(finished, tmp_path):
    """Killed in epoch 3, after its row is written and one epoch after the checkpoint of epoch 2."""
    workdir = tmp_path / "killed"
    command = [sys.executable, "-c", textwrap.dedent(KILLED).format(tests=str(TESTS)), str(workdir)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ})
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert [row["epoch"] for row in rows(workdir)] == [1, 2, 3]
    assert not (workdir / "result.json").exists()

    state = loop.train_and_evaluate(config(), workdir)
    whole, whole_state = finished
    assert state_bits(state) == state_bits(whole_state)
    assert rows(workdir) == rows(whole)
    assert rows(workdir, "events.jsonl") == rows(whole, "events.jsonl")
    assert result(workdir) == result(whole)


def test_a_run_killed_before_its_result_evaluates_again(run, finished):
    expected = result(run)
    (run / "result.json").unlink()
    state = loop.train_and_evaluate(config(), run)
    assert result(run) == expected
    assert state_bits(state) == state_bits(finished[1])


def test_results_whose_checkpoints_are_gone_are_not_written_over(run, capsys):
    before = rows(run)
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"has the results of 4 epochs but no checkpoint: .* name another --workdir"):
        loop.train_and_evaluate(config(), run)
    assert rows(run) == before
    (run / "result.json").unlink()  # a run that was left before its first checkpoint begins anew
    assert outcome.finished(run, config(), False, shown=True) is None


def test_another_configuration_is_refused_with_its_fields(run):
    with pytest.raises(UserError, match=r"\(seed: 0 → 1\): choose another --workdir"):
        loop.train_and_evaluate(config(seed=1, optim__b1=0.5, log__every_epochs=3), run)


def test_fewer_epochs_than_trained_are_refused(run):
    with pytest.raises(UserError, match=r"epochs = 3, but .* has trained 4"):
        loop.train_and_evaluate(config(train__epochs=3), run)


@pytest.mark.slow
def test_other_data_of_the_same_name_are_refused(run, monkeypatch):
    load = sets.load

    def other(*args, **kwargs):
        dataset = load(*args, **kwargs)
        manifest = copy.deepcopy(dataset.manifest)
        manifest["train"]["sha256"] = "0" * 64
        return dataset._replace(manifest=manifest)

    monkeypatch.setattr(sets, "load", other)
    (run / "result.json").unlink()
    with pytest.raises(UserError, match=r"the data of digits are not those .* was trained on"):
        loop.train_and_evaluate(config(), run)


def test_a_workdir_without_checkpoint_starts_anew(tmp_path, monkeypatch):
    """What an interrupt before the first checkpoint leaves binds no one to its configuration."""

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "compile_epoch", interrupted)
        for seed in (0, 1):
            with pytest.raises(KeyboardInterrupt, match="from epoch 0"):
                loop.train_and_evaluate(config(seed=seed), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"train__batch_size": 161}, "train.batch_size = 161 exceeds the 160 training examples: lower config.train"),
        ({"data__neighbours": 100_000}, "data.neighbours = 100000: must be a whole number below the 160 training"),
    ],
)
def test_what_does_not_fit_the_data_says_what_to_change_and_leaves_nothing(tmp_path, fields, said):
    with pytest.raises(UserError, match=f"^config.{said}"):
        loop.train_and_evaluate(config(**fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_processes_do_not_share_a_workdir(tmp_path):
    with (
        loop.workdirs.claim(tmp_path),
        pytest.raises(UserError, match="another process is training there"),
    ):
        loop.train_and_evaluate(config(), tmp_path)


@pytest.mark.slow
def test_a_run_that_diverges_stops_and_overwrites_nothing(run, monkeypatch):
    """A finished run, extended by epochs whose images are all NaN: no step is finite any more."""
    load = sets.load

    def poisoned(*args, **kwargs):
        dataset = load(*args, **kwargs)
        return dataset._replace(train=dataset.train._replace(image=np.full_like(dataset.train.image, np.nan)))

    monkeypatch.setattr(sets, "load", poisoned)
    with pytest.raises(UserError, match=r"diverged in epoch 6 after 3 roll-backs: .* as it was after epoch 4"):
        loop.train_and_evaluate(config(train__epochs=8), run)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["2", "4"]
    diverged = rows(run, "events.jsonl")[-1]
    assert diverged.pop("term") == "recon"
    assert diverged == {"epoch": 6, "step": 30, "event": "diverged", "failures": 10, "tensor": "batch.image"}
    kinds = [event["event"] for event in rows(run, "events.jsonl") if event["epoch"] == 5]
    assert "steps_skipped" in kinds


def test_the_front_door(finished):
    workdir, state = finished
    run = topojax.restore(workdir)
    assert state_bits(run.state) == state_bits(state)
    assert (run.epoch, run.config.model.num_charts) == (4, 4)
    x = np.random.default_rng(0).uniform(size=(5, 64)).astype(np.float32)
    encoding = topojax.encode(run, x)
    assert encoding.router.shape == (5, 4)
    assert encoding.z_geo.shape == (5, 2)
    np.testing.assert_array_equal(run.encode(x.reshape(5, 8, 8, 1)).z_geo, encoding.z_geo)
    # One model, whatever the batch: 600 rows are two padded batches.
    many = run.encode(np.repeat(x[:1], 600, axis=0))
    assert many.z_geo.shape == (600, 2)
    np.testing.assert_array_equal(many.z_geo, np.repeat(encoding.z_geo[:1], 600, axis=0))
    assert run.encode(x[:0]).chart.shape == (0,)

    free = topojax.decode(run, encoding.z_geo, encoding.z_tex)
    assert free.x_hat.shape == (5, 64)
    np.testing.assert_allclose(free.router.sum(axis=1), 1.0, rtol=1e-5)
    chosen = run.decode(encoding.z_geo, chart=2)
    np.testing.assert_array_equal(chosen.router, np.eye(4, dtype=np.float32)[[2] * 5])
    each = run.decode(encoding.z_geo, chart=np.array([2, 0, 2, 1, 3]))
    np.testing.assert_array_equal(each.x_hat[0], chosen.x_hat[0])
    assert not np.array_equal(each.x_hat[1], chosen.x_hat[1])


def test_an_earlier_checkpoint_can_be_restored(finished):
    run = topojax.restore(finished[0], step=2)
    assert (run.epoch, int(run.state.step)) == (2, 10)
    with pytest.raises(UserError, match=r"no checkpoint of epoch 3 .*there are 2, 4"):
        topojax.restore(finished[0], step=3)


def test_restoring_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"no run in .*nowhere"):
        topojax.restore(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "call, said",
    [
        (
            lambda run: run.encode(np.zeros((3, 63))),
            r"shape \[3, 63\], this model takes \[n, 64\] or \[n, 8, 8, 1\]",
        ),
        (lambda run: run.encode(np.full((2, 64), np.nan)), r"not finite, the first in row 0"),
        (lambda run: run.decode(np.zeros((3, 5))), r"z_geo has shape \[3, 5\], must be \[n, 2\]"),
        (lambda run: run.decode(np.zeros((3, 2)), np.zeros((2, 2))), r"must agree"),
        (lambda run: run.decode(np.zeros((3, 2)), chart=4), r"chart must lie in \[0, 4\), got 4 to 4"),
        (lambda run: run.decode(np.zeros((3, 2)), chart=1.5), r"chart must be an integer"),
        (lambda run: run.decode([["a", "b"]]), r"z_geo must be numbers"),
    ],
)
def test_bad_inputs_of_a_restored_model_are_refused(finished, call, said):
    with pytest.raises(UserError, match=said):
        call(topojax.restore(finished[0]))


# Reads that are still under way when the first of them fails find orbax's event loop closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_whatever_reads_a_state_goes_back_where_the_last_one_is_damaged(run):
    for path in (run / "checkpoints" / "4" / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:10])
    assert topojax.restore(run).epoch == 2
    assert restore_encoder(run).epoch == 2
    assert "epoch 2\n" in audit.show(run)
    with pytest.raises(UserError, match=r"4 cannot be read .*: there are 2") as told:
        audit.show(run, 4)
    assert "bound method" not in str(told.value)
    assert "TensorStore details" not in str(told.value)


def test_its_contracts_can_be_printed_for_any_checkpoint(run):
    table = audit.show(run)
    told = {line["contract"] for line in result(run)["contracts"]}
    assert told == {line.split()[0] for line in table.splitlines()[3:]}
    with pytest.raises(UserError, match="there are"):
        audit.show(run, 99)


def test_another_configuration_is_refused_and_the_way_out_is_named(run):
    with pytest.raises(UserError, match=r"learning_rate_max: 0.01 → 0.005.*--allow_change"):
        loop.train_and_evaluate(config(train__epochs=6, optim__learning_rate_max=0.005), run)
    changed = config(train__epochs=6, model__hidden_dim=32, optim__learning_rate_max=0.005)
    with pytest.raises(UserError, match=r"\(model.hidden_dim: 16 → 32\)") as caught:
        loop.train_and_evaluate(changed, run, allow_change=True)
    assert "--allow_change" not in str(caught.value)


@pytest.mark.slow
def test_allowed_changes_hold_from_then_on_and_are_events(run):
    before = rows(run)
    fields = {
        "optim__learning_rate_max": 0.004,
        "contracts__diversity__target": 0.5,
        "contracts__entropy__enabled": False,
        "contracts__variance__enabled": True,
    }
    state = loop.train_and_evaluate(config(train__epochs=6, **fields), run, allow_change=True)
    after = rows(run)
    assert after[: len(before)] == before
    assert [row["epoch"] for row in after] == [1, 2, 3, 4, 5, 6]
    assert max(row["lr"] for row in after[4:]) <= 0.004
    assert "weight/entropy" not in after[-1]
    assert "weight/variance" in after[-1]
    assert state.step == 6 * (state.step // 6)
    events = [event for event in rows(run, "events.jsonl") if event["event"] == "setting"]
    assert {(e["epoch"], e["field"], e["from"], e["to"]) for e in events} == {
        (5, "optim.learning_rate_max", 0.01, 0.004),
        (5, "contracts.diversity.target", 0.95, 0.5),
        (5, "contracts.entropy.enabled", True, False),
        (5, "contracts.variance.enabled", False, True),
    }
    # The new configuration is the run's: the same command, without the flag, finds it finished.
    loop.train_and_evaluate(config(train__epochs=6, **fields), run)
