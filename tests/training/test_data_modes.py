"""Where the training split lies changes no digit of a run, also where a run goes on with it elsewhere."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from controller_runs import bits
from tiny_config import get_config
from tiny_program import STEPS, Tiny, data

from topojax.data import feed
from topojax.data.fit import units
from topojax.data.rows import Given, Rows
from topojax.training import loop
from topojax.training.within import Within


def config(mode, **fields):
    c = get_config()
    c.data.mode, c.log.every_epochs = mode, 1
    c.baselines.vq = True
    c.data.neighbours, c.contracts.orbit.enabled = 3, True
    c.view.noise_std, c.augment.rotation = 0.1, 0.2
    c.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return c


def trained(path, mode, **fields):
    """(bits of the state, rows of metrics without times)"""
    state = loop.train_and_evaluate(config(mode, **fields), path)
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    told = [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]
    return bits(state.replace(key=jax.random.key_data(state.key))), told


@pytest.mark.slow
def test_memory_and_host_are_the_same_run_bit_for_bit(tmp_path, monkeypatch):
    """Five steps an epoch in chunks of two, pairs of neighbours, views, a baseline; stopped, and gone on elsewhere."""
    memory = [trained(tmp_path / "memory", "memory", train__epochs=epochs) for epochs in (2, 4)]
    monkeypatch.setattr(feed, "BYTES", 2 * 32 * 64 * 2)
    assert trained(tmp_path / "host", "host", train__epochs=2) == memory[0]
    assert trained(tmp_path / "host", "memory", train__epochs=4) == memory[1]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["host", "stream"])
def test_a_run_goes_on_within_an_epoch_bit_for_bit(tmp_path, monkeypatch, mode):
    """Interrupted in the first epoch, and again in the third: nothing of an epoch is trained again."""
    monkeypatch.setattr(feed, "BYTES", 2 * 32 * 64 * 2)
    whole = trained(tmp_path / "whole", mode)
    leave_after, chunks = [0], []

    def noted():
        return len(chunks) == leave_after[0]

    def raised():
        if noted():
            raise KeyboardInterrupt

    gathered = feed.Feed.epoch

    def counted(self):
        for chunk in gathered(self):
            chunks.append(int(chunk.number))
            yield chunk

    monkeypatch.setattr(feed.Feed, "epoch", counted)
    monkeypatch.setattr(loop, "interrupted", noted)
    monkeypatch.setattr(loop, "raise_if_interrupted", raised)
    for leave_after[0] in (2, 7):  # chunks of 2, 2 and 1 steps: within the first epoch, and the third
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "left", mode)
        assert list((tmp_path / "left" / "within" / "checkpoints").iterdir())
    leave_after[0] = -1
    assert trained(tmp_path / "left", mode) == whole
    assert sum(chunks) == 4 * 5  # each step once
    assert not list((tmp_path / "left" / "within" / "checkpoints").glob("[0-9]*"))


@pytest.mark.slow
def test_a_run_that_is_made_shorter_ends_before_the_epoch_that_it_had_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(feed, "BYTES", 2 * 32 * 64 * 2)
    short = trained(tmp_path / "short", "host", train__epochs=2)
    leave = iter([False] * 4 + [True] * 9)  # chunks of 2, 2 and 1 steps, asked between: within the third epoch
    monkeypatch.setattr(loop.Training, "_leave_if_interrupted", lambda *_: None)
    monkeypatch.setattr(loop, "interrupted", lambda: next(leave))
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "left", "host")
    assert [path.name for path in (tmp_path / "left" / "within" / "checkpoints").iterdir()] == ["12"]
    monkeypatch.setattr(loop, "interrupted", lambda: False)
    assert trained(tmp_path / "left", "host", train__epochs=2) == short


def test_a_folder_of_states_within_an_epoch_that_holds_none_is_passed_over(tmp_path):
    """A kill may come between the two folders that are made for the first of them."""
    (tmp_path / "within").mkdir()
    assert Within(tmp_path).newest(None, None) is None


@pytest.mark.slow
def test_a_damaged_state_within_an_epoch_is_a_line_and_the_epoch_begins_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(feed, "BYTES", 2 * 32 * 64 * 2)
    fields = {"checkpoint__every_steps": 2, "train__epochs": 2}
    whole, saves = trained(tmp_path / "whole", "host", **fields), []
    save = Within.save

    def saved(self, step, *given):
        save(self, step, *given)
        saves.append(step)
        if step > 5:  # in the second epoch
            raise KeyboardInterrupt

    monkeypatch.setattr(Within, "save", saved)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "left", "host", **fields)
    monkeypatch.setattr(Within, "save", save)
    for path in (tmp_path / "left" / "within" / "checkpoints").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-20])
    capsys.readouterr()
    assert trained(tmp_path / "left", "host", **fields) == whole
    (line,) = capsys.readouterr().err.splitlines()
    assert f"within/checkpoints/{saves[-1]} cannot be read" in line
    assert line.endswith("its epoch begins anew")


@pytest.mark.slow
def test_a_diagnosis_is_the_same_from_the_host():
    tiny, train = Tiny(), data()
    rows = Rows(Given(np.asarray(train.image)), units(np.asarray(train.image), pictures=False, shape="3x3"))
    made = feed.Feed(train._replace(image=rows), seed=tiny.config.seed, batch_size=8, probe_size=16)
    codebook = tiny.first.params["atlas"]["encoder"]["codebook"]
    tiny.first.params["atlas"]["encoder"]["codebook"] = codebook.at[0, 0, 0].set(jnp.nan)
    told = tiny.program.diagnosis.culprit(tiny.first, train)
    assert told is not None
    assert tiny.program.diagnosis.culprit_in(tiny.first, made.again(tiny.first.key, 0)) == told
    assert made.steps == STEPS
    made.close()
