"""What goes wrong costs no more than the work since the last good state; the rest is as if nothing had been.

On the program of `digits_run`, which is compiled.
"""

import json
import pathlib
import shutil
import signal

import jax
import jax.numpy as jnp
import pytest
from controller_runs import bits
from tiny_config import get_config

from topojax.errors import Terminated, UserError, exit_status
from topojax.scoring.run import restore
from topojax.storage import logs
from topojax.storage.checkpoint import Checkpoints
from topojax.storage.workdir import read_result
from topojax.tracking import mlflow_writer
from topojax.training import loop
from topojax.training.resumed import config_mended


def config(**fields):
    c = get_config()
    c.log.every_epochs, c.monitor.max_failures = 1, 10
    c.baselines.autoencoder = c.baselines.vq = True
    c.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return c


@pytest.fixture
def run(digits_run, tmp_path):
    """A copy of the finished run."""
    return pathlib.Path(shutil.copytree(digits_run, tmp_path / "run"))


def rows(workdir, name="metrics.jsonl"):
    found = [json.loads(line) for line in (workdir / name).read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in found]


def state_bits(workdir):
    state = restore(workdir).state
    return bits(state.replace(key=jax.random.key_data(state.key)))


def after_epoch(monkeypatch, epoch, act):
    """`act` once, when the row of an epoch is written."""
    write, done = logs.Writers.metrics, []

    def acting(self, at, step, values):
        write(self, at, step, values)
        if at == epoch and not done:
            done.append(at)
            act()

    monkeypatch.setattr(logs.Writers, "metrics", acting)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_what_a_script_or_notebook_trains(number, tmp_path, monkeypatch):
    """No command has prepared for it: the handlers are Python's own, before and after."""
    before = signal.getsignal(number)
    signal.signal(number, {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}[number])
    usual = signal.getsignal(number)
    after_epoch(monkeypatch, 3, lambda: signal.raise_signal(number))
    try:
        with pytest.raises(Terminated if number == signal.SIGTERM else KeyboardInterrupt, match="from epoch 3 of"):
            loop.train_and_evaluate(config(), tmp_path)
        assert signal.getsignal(number) == usual
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(
    "number, status", [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_the_run_goes_on_as_if_nothing_had_been(
    number, status, digits_run, tmp_path, monkeypatch, capsys
):
    after_epoch(monkeypatch, 3, lambda: signal.raise_signal(number))
    assert exit_status(lambda: loop.train_and_evaluate(config(), tmp_path) and 0) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"the same command goes on from epoch 3 of {tmp_path}")
    assert [row["epoch"] for row in rows(tmp_path)] == [1, 2, 3]
    loop.train_and_evaluate(config(), tmp_path)
    assert rows(tmp_path) == rows(digits_run)
    assert rows(tmp_path, "events.jsonl") == rows(digits_run, "events.jsonl")
    assert state_bits(tmp_path) == state_bits(digits_run)


@pytest.mark.slow
def test_a_disk_that_is_full_is_one_line_and_keeps_what_was_saved(run, monkeypatch, capsys):
    """Tensorstore's words are long, and no OSError."""

    def full(self, *_, **__):
        raise ValueError(
            "RESOURCE_EXHAUSTED: Error writing local file: write: No space left on device [os_error_code='28']\n" * 9
        )

    monkeypatch.setattr("orbax.checkpoint.CheckpointManager.save", full)
    assert exit_status(lambda: loop.train_and_evaluate(config(train__epochs=6), run) and 0) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device; the same command goes on from epoch 4" in line
    assert state_bits(run)


def test_a_folder_that_vanishes_is_one_line(tmp_path, monkeypatch, capsys):
    after_epoch(monkeypatch, 2, lambda: shutil.rmtree(tmp_path / "run"))
    assert exit_status(lambda: loop.train_and_evaluate(config(), tmp_path / "run") and 0) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.slow
def test_of_a_folder_that_vanished_under_a_save_the_checkpoint_goes_on(run, digits_run, capsys):
    for path in [run / "config.json", run / "result.json", *run.glob("*.jsonl")]:
        path.unlink()
    loop.train_and_evaluate(config(), run)
    assert "it is written again, as epoch 4 was trained" in capsys.readouterr().err
    assert read_result(run)["epochs"] == 4
    assert state_bits(run) == state_bits(digits_run)


def test_another_programs_checkpoints_are_nobody_s_configuration(tmp_path):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    config_mended(tmp_path)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.slow
def test_a_last_checkpoint_that_is_damaged_is_trained_again(run, digits_run, capsys):
    expected = rows(run)
    for path in (run / "checkpoints" / "4" / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-20])
    assert restore(run).epoch == 2
    assert capsys.readouterr().err.count("going back to an earlier one") <= 1
    loop.train_and_evaluate(config(), run)
    assert rows(run) == expected
    assert state_bits(run) == state_bits(digits_run)
    assert (run / "damaged" / "4").is_dir()


@pytest.mark.slow
def test_a_run_that_goes_on_does_not_wait_for_the_server_of_mlflow(run, tmp_path, monkeypatch, capsys):
    pytest.importorskip("mlflow")

    def away(workdir):
        raise UserError("nobody answers")

    monkeypatch.setattr(mlflow_writer, "Mlflow", away)
    loop.train_and_evaluate(config(train__epochs=5, mlflow__enabled=True), run)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "nobody answers" in line]
    assert line.endswith(f"the run goes on without it: send them with topojax mlflow --workdir={run}")
    assert [row["epoch"] for row in rows(run)] == [1, 2, 3, 4, 5]
    with pytest.raises(UserError, match="nobody answers"):  # who begins one is told at once
        loop.train_and_evaluate(config(mlflow__enabled=True), tmp_path / "new")


def poisoned(state):
    """A state of which a moment is NaN."""
    leaves, tree = jax.tree.flatten(state.opt_state)
    place = max(range(len(leaves)), key=lambda i: leaves[i].size)
    leaves[place] = leaves[place].at[0].set(jnp.nan)
    return state.replace(opt_state=jax.tree.unflatten(tree, leaves))


def poisoned_once(monkeypatch, epoch, times=1, *, after=False):
    """A moment becomes NaN before an epoch is trained (or after it, when the next one begins with it), so often."""
    compiles, left = loop.Training._compile, [times]

    def compiling(self, abstract, batch):
        run_epoch = compiles(self, abstract, batch)

        def spoilt(*arguments):
            *numbers, state, data = arguments
            at = int(state.step) // self.program.steps_per_epoch + 1
            if at == epoch and left[0]:
                left[0] -= 1
                if after:
                    state, metrics = run_epoch(*numbers, state, data)
                    return poisoned(state), metrics
                state = poisoned(state)
            return run_epoch(*numbers, state, data)

        return spoilt

    monkeypatch.setattr(loop.Training, "_compile", compiling)


@pytest.mark.slow
def test_a_moment_that_is_not_finite_takes_the_run_back_to_a_lower_rate(digits_run, tmp_path, monkeypatch):
    poisoned_once(monkeypatch, 3)
    state = loop.train_and_evaluate(config(), tmp_path)
    assert state.sound()
    (event,) = (event for event in rows(tmp_path, "events.jsonl") if event["event"] == "rolled_back")
    assert (event["epoch"], event["epoch_failed"], event["attempt"]) == (3, 3, 1)
    assert event["tensor"].startswith("opt_state")
    assert event["to"] == pytest.approx(0.5 * event["from"])
    assert rows(tmp_path)[:2] == rows(digits_run)[:2]
    assert [row["epoch"] for row in rows(tmp_path)] == [1, 2, 3, 4]


@pytest.mark.slow
def test_after_as_many_attempts_as_there_may_be_it_stops_and_names_what_went_bad(tmp_path, monkeypatch):
    poisoned_once(monkeypatch, 3, times=99)
    with pytest.raises(
        UserError, match=r"diverged in epoch 3 after 2 roll-backs: .* tensor opt_state\S+; .* epoch 2\."
    ):
        loop.train_and_evaluate(config(monitor__max_rollbacks=2), tmp_path)
    assert state_bits(tmp_path)


@pytest.mark.campaign
def test_debugging_names_the_first_operation_that_is_not_finite(tmp_path, monkeypatch):
    poisoned_once(monkeypatch, 1, after=True)
    with pytest.raises(UserError, match=r"config\.debug: epoch 2, step 1: "):
        loop.train_and_evaluate(config(debug=True), tmp_path)


def test_a_schedule_that_is_stretched_is_said(run):
    from topojax.training.recovery import stretched

    c = config(optim__schedule="cosine", train__epochs=8)
    saved = config(optim__schedule="cosine").to_dict()
    told = stretched(c, saved, step=20, steps_per_epoch=5)
    assert (told["event"], told["epochs_before"], told["epochs"]) == ("schedule_changed", 4, 8)
    assert told["cap"] > 10 * told["cap_before"]
    assert stretched(c, c.to_dict(), step=20, steps_per_epoch=5) is None
    assert stretched(config(train__epochs=8), saved, step=20, steps_per_epoch=5) is None


def test_checkpoints_that_only_read_leave_what_is_damaged(run):
    for path in (run / "checkpoints" / "4" / "state").rglob("d/*"):
        path.write_bytes(b"")
    reader = Checkpoints(run, read_only=True)
    assert reader.epochs() == [2, 4]
    reader.close()
    restore(run)
    assert not (run / "damaged").exists()
