"""Populations: ordinary run directories, stopping and going on, members that stop, and what is refused."""

import copy
import json
import shutil

import jax
import numpy as np
import pytest
from tiny_config import get_config

import topojax
from topojax.config import found as of_data
from topojax.config import memory
from topojax.config import sweep as of_sweep
from topojax.config.defaults import default_config
from topojax.data import sets
from topojax.errors import UserError
from topojax.report.members import page_of
from topojax.scoring.split import evaluate
from topojax.storage.checkpoint import Checkpoints, digest
from topojax.training import population, population_file
from topojax.training.population import train_population

SWEEP = "losses.recon_weight=1.0,3e38; seed=0,1"  # the second weight overflows: no step is finite


def config(sweep=SWEEP, **fields):
    c = get_config()
    c.population.sweep = sweep
    c.log.every_epochs, c.monitor.max_failures, c.checkpoint.keep, c.checkpoint.every_epochs = 1, 8, 1, 1
    c.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return c


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(workdir, population.json) of four members, of which two diverge."""
    workdir = tmp_path_factory.mktemp("population") / "whole"
    return workdir, train_population(config(), workdir)


def rows(folder, name="metrics.jsonl"):
    lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in lines]


@pytest.mark.slow
def test_members_that_diverge_stop_and_the_others_go_on(whole):
    workdir, found = whole
    assert found == json.loads((workdir / "population.json").read_text())
    assert [line["state"] for line in found["members"]] == ["finished", "finished", "stopped", "stopped"]
    assert "diverged in epoch 2" in found["members"][2]["reason"]
    assert found["best"] in (0, 1)
    scores = [line["score"] for line in found["members"]]
    assert scores[found["best"]] == min(scores[:2])
    assert scores[2:] == [None, None]
    values = [line["result"]["test/mse"] for line in found["members"][:2]]
    assert found["mean"]["test/mse"] == pytest.approx(np.mean(values), rel=1e-5)
    assert found["sd"]["test/mse"] == pytest.approx(np.std(values, ddof=1), rel=1e-3)
    assert {row["event"] for row in rows(workdir / "member_002", "events.jsonl")} >= {"diverged"}
    assert not (workdir / "member_002" / "result.json").exists()


@pytest.mark.slow
def test_a_member_is_an_ordinary_run(whole, tmp_path):
    workdir, found = whole
    run = topojax.restore(workdir, member=1)
    assert (run.config.seed, run.epoch) == (1, 4)
    assert topojax.restore(workdir, member="best").config.seed == found["members"][found["best"]]["numbers"]["seed"]
    result = json.loads((workdir / "member_001" / "result.json").read_text())
    assert evaluate(workdir / "member_001").numbers["ami"] == result["test/ami"]
    alone = tmp_path / "alone"
    c = copy.deepcopy(config(""))
    c.seed = 1
    topojax.train_and_evaluate(c, alone)
    for one, other in zip(rows(alone), rows(workdir / "member_001"), strict=True):
        assert one.keys() == other.keys()
        for name in ("signal/task", "loss/recon", "norm/gradient", "lr"):
            assert one[name] == pytest.approx(other[name], rel=1e-4)
    assert json.loads((alone / "result.json").read_text())["test/ami"] == pytest.approx(result["test/ami"], abs=0.01)
    for bad in (7, -1, "worst"):
        with pytest.raises(UserError, match="has 0 to 3"):
            topojax.restore(workdir, member=bad)
    with pytest.raises(UserError, match=r"is a population: --workdir=\S*/member_00\d is one of its 4 runs"):
        topojax.restore(workdir)
    with pytest.raises(UserError, match="no population"):
        topojax.restore(alone, member=0)


@pytest.mark.slow
def test_stopping_and_going_on_changes_nothing(whole, tmp_path):
    workdir, found = whole
    train_population(config(train__epochs=3), tmp_path / "run")
    # A kill between two members' saves: one of them is an epoch ahead.
    ahead = Checkpoints(tmp_path / "run" / "member_000", keep=2)
    run = topojax.restore(tmp_path / "run", member=0)
    ahead.save(4, run.state, {**ahead.meta(), "epoch": 4}, loss=0.0)
    ahead.close()
    again = train_population(config(), tmp_path / "run")
    for i in (0, 1):
        assert again["members"][i]["result"] == found["members"][i]["result"]
        name = f"member_{i:03d}"
        assert digest(topojax.restore(tmp_path / "run" / name).state) == digest(topojax.restore(workdir / name).state)
        assert rows(tmp_path / "run" / name) == rows(workdir / name)
    assert [line["state"] for line in again["members"]] == [line["state"] for line in found["members"]]


@pytest.mark.slow
def test_where_a_member_s_checkpoint_is_damaged_all_go_back_to_the_one_before(whole, tmp_path, capsys):
    workdir, found = whole
    train_population(config(train__epochs=3), tmp_path / "run")
    for path in (tmp_path / "run" / "member_001" / "checkpoints" / "3" / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-20])
    capsys.readouterr()
    again = train_population(config(), tmp_path / "run")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "member_001/checkpoints/3 cannot be read" in line
    assert "going back to an earlier one" in line
    for i in (0, 1):
        name = f"member_{i:03d}"
        assert again["members"][i]["result"] == found["members"][i]["result"]
        assert digest(topojax.restore(tmp_path / "run" / name).state) == digest(topojax.restore(workdir / name).state)
        assert rows(tmp_path / "run" / name) == rows(workdir / name)
    assert (tmp_path / "run" / "member_001" / "damaged" / "3").is_dir()


def test_members_that_do_not_fit_in_memory_are_refused_before_anything_is_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 2**19)
    monkeypatch.setattr(population._Population, "_compile", None)
    with pytest.raises(UserError, match=r"this run needs \d{7,} bytes of memory at least, and there are 524288"):
        train_population(config("seed=" + ",".join(map(str, range(16)))), tmp_path / "run")


@pytest.mark.slow
def test_what_is_finished_is_not_trained_again_and_another_sweep_is_refused(whole, monkeypatch):
    workdir, found = whole
    monkeypatch.setattr(jax, "jit", None)
    assert train_population(config(), workdir) == found
    with pytest.raises(UserError, match=r"another configuration \(population.sweep"):
        train_population(config("seed=0,1"), workdir)


DAMAGES = {
    "epochs": lambda found: found.pop("epochs"),
    "swept": lambda found: found["swept"].clear(),
    "members": lambda found: found["members"].insert(0, 7),
    "state": lambda found: found["members"][0].pop("state"),
    "folder": lambda found: found["members"][0].update(folder="../elsewhere"),
    "numbers": lambda found: found["members"][0]["numbers"].clear(),
    "best": lambda found: found.update(best=9),
    "score": lambda found: found["members"][0].update(score="low"),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", [*DAMAGES, "null", "[1]", "[" * 100_000])
def test_a_damaged_population_json_is_a_line_and_no_traceback(whole, damage, tmp_path, capsys):
    workdir, found = whole
    assert population_file.read(workdir) == found
    if damage in DAMAGES:
        DAMAGES[damage](found := copy.deepcopy(found))
        damage = json.dumps(found)
    shutil.copy(workdir / "config.json", tmp_path)
    (tmp_path / "population.json").write_text(damage)
    assert population_file.finished(tmp_path, config()) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert "population.json cannot be read: it is written again" in line
    with pytest.raises(UserError, match=r"population\.json cannot be read: it is damaged"):
        page_of(tmp_path)


@pytest.mark.slow
def test_fewer_epochs_than_were_trained_are_refused(whole):
    workdir, found = whole
    with pytest.raises(UserError, match=r"train\.epochs = 2, but members of \S+ have trained 4"):
        train_population(config(train__epochs=2), workdir)
    assert json.loads((workdir / "population.json").read_text()) == found


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["member_001", "population.json"])
def test_what_is_gone_of_a_population_is_no_reason_to_train_the_rest_anew(whole, gone, tmp_path):
    """Of a member, or of the file that names those that have stopped."""
    workdir = shutil.copytree(whole[0], tmp_path / "run")
    shutil.rmtree(workdir / gone) if (workdir / gone).is_dir() else (workdir / gone).unlink()
    before = (workdir / "member_000" / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match=r"no checkpoint of the same epoch \(member_000: 3, 4; member_001: "):
        train_population(config(train__epochs=5), workdir)
    assert Checkpoints(workdir / "member_000", read_only=True).epochs() == [3, 4]
    assert (workdir / "member_000" / "metrics.jsonl").read_text() == before


@pytest.mark.campaign
@pytest.mark.slow
def test_the_worst_learn_from_the_best(tmp_path):
    sweep = "optim.learning_rate=1e-5,1e-3,2e-3,1e-2"
    fields = {"optim__learning_rate_max": 0.02, "population__exploit_every_epochs": 1, "optim__rate": "constant"}
    found = train_population(config(sweep, train__epochs=3, **fields), tmp_path)
    told = [event for event in rows(tmp_path / "member_000", "events.jsonl") if event["event"] == "exploited"]
    assert [event["epoch"] for event in told][:1] == [1]
    assert told[0]["member"] != 0
    assert told[0]["optim.learning_rate"] > 1e-5
    assert found["members"][0]["numbers"]["optim.learning_rate"] > 1e-5
    assert rows(tmp_path / "member_000")[-1]["lr"] > 1e-5


def test_one_run_and_a_population_are_not_mistaken_for_each_other(tmp_path):
    with pytest.raises(UserError, match="train_population"):
        topojax.train_and_evaluate(config("seed=0,1"), tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="a run of its own"):
        train_population(config("seed=0,1"), tmp_path)


def test_what_is_measured_is_one_for_all_members(tmp_path):
    """Seeds split the data differently, and measure different numbers; the members have one program."""
    c = config("seed=0..2")
    c.model.ball_scale = default_config().model.ball_scale
    c.view.noise_std = 0.2
    c.contracts.orbit.enabled = True
    each = of_sweep.members(c)
    alone = [of_data.fitted(one, sets.load(one.data, seed=one.seed), in_memory=False)[0] for one in each]
    assert len({one.model.ball_scale for one in alone}) > 1
    made = population._Population(c, each, tmp_path, 0.0, ())
    first = made.members[0].config
    assert first.model.ball_scale == alone[0].model.ball_scale
    assert first.view.noise_std == 0.2
    assert all(member.config.view == first.view for member in made.members)
    assert all(member.config.model == first.model for member in made.members)


def test_a_chunk_that_does_not_divide_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=r"population.chunk = 3: must divide the 4 members"):
        train_population(config("seed=0..3", population__chunk=3), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
