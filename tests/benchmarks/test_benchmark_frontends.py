"""Arms of equal size on the same turned images; what is finished is not trained again."""

import json
import pathlib
import types

import jax
import numpy as np
import pytest

from topojax.benchmarks import frontends
from topojax.config.command_line import load
from topojax.errors import UserError
from topojax.scoring.run import build

TINY = str(pathlib.Path(__file__).parents[1] / "tiny_config.py")
ARMS = {"flat": {"model.frontend": "flat"}, "rotation": {"model.frontend": "rotation", "model.channels": 4}}
RESULT = {
    **{"test/acc_supervised": 0.5, "test/mse": 0.0123, "test/ami": 0.25, "parameters": 1234, "epochs": 2},
    "time/total_s": 3.5,
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    (tmp_path / frontends.PAGE).write_text("before\n<!-- frontends -->\n<!-- /frontends -->\nafter\n")
    monkeypatch.setattr(
        frontends,
        "GROUPS",
        {"one": frontends.Group("digits, turned", TINY, ARMS, turned=True), "two": frontends.Group("more", TINY, ARMS)},
    )
    return tmp_path


@pytest.fixture
def commands(monkeypatch):
    """Command lines that were asked for; each leaves a result."""
    asked = []

    def ended(command, **_):
        asked.append(command)
        (workdir,) = (pathlib.Path(one.partition("=")[2]) for one in command if one.startswith("--workdir="))
        workdir.mkdir(parents=True)
        (workdir / "result.json").write_text(json.dumps(RESULT))
        return types.SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(frontends.subprocess, "run", ended)
    return asked


def test_images_are_turned_each_by_its_own_angle():
    images = np.zeros((40, 15, 15))
    images[:, 6:9, 10:13] = 1.0  # right of the middle
    turned = frontends.turn(images, np.random.default_rng(0))
    assert turned.dtype == np.uint8
    at = np.arange(15) - 7
    x, y = ((turned * axis).sum(axis=(1, 2)) / turned.sum(axis=(1, 2)) for axis in (at[None], at[:, None]))
    np.testing.assert_allclose(np.hypot(x, y), 4.0, atol=0.15)
    angles = np.sort(np.arctan2(y, x))
    assert len(np.unique(np.round(angles, 2))) > 30
    assert np.diff(angles).max() < np.pi / 3  # all around
    np.testing.assert_array_equal(turned, frontends.turn(images, np.random.default_rng(0)))


def test_turned_data_are_written_once_for_all_runs(tmp_path):
    path = frontends.turned_data(TINY, tmp_path / "w" / "turned.npz")
    with np.load(path) as file:
        assert file["x_train"].shape == (160, 8, 8)
        assert file["x_test"].shape == (40, 8, 8)
        assert set(file["y_test"]) == set(range(10))
    before = path.stat().st_mtime_ns
    assert frontends.turned_data(TINY, path).stat().st_mtime_ns == before


@pytest.mark.parametrize(("group", "picture"), [("turned", (28, 28, 1)), ("photographs", (32, 32, 3))])
def test_arms_have_about_equal_numbers_of_parameters(group, picture):
    about = {"num_train": 2400, "input_dim": int(np.prod(picture)), "num_classes": 10, "image_shape": picture}

    def parameters(fields):
        config = load(frontends.GROUPS[group].config)
        config.update_from_flattened_dict(fields)
        _, program = build(config, about)
        return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(jax.eval_shape(program.init).params))

    flat, *others = (parameters(fields) for fields in frontends.GROUPS[group].arms.values())
    assert others == pytest.approx([flat] * len(others), rel=0.04)


def test_each_arm_is_trained_once_and_what_others_measured_stays(root, commands):
    frontends.run(["one"], 2, root / "w", root, 2)
    assert len(commands) == 4
    assert {"--config.model.channels=4", "--config.seed=1", "--config.train.epochs=2"} <= set(commands[-1])
    assert f"--config.data.name={root / 'w' / 'one.npz'}" in commands[-1]
    page = (root / frontends.PAGE).read_text()
    assert "| digits, turned | `rotation` | 1,234 | 0.500 | 0.0123 | 0.250 | 2 | 4 | 2 |" in page
    assert page.endswith("<!-- /frontends -->\nafter\n")
    found = frontends.run(["one", "two"], 1, root / "w", root, 2)
    assert len(commands) == 6
    assert not any("data.name" in one for one in commands[-1])
    assert found.keys() == {"one", "two"}
    assert found["one"]["flat"].keys() == {"0", "1"}
    assert json.loads((root / frontends.FILE).read_text()) == found
    frontends.run(["one"], 1, root / "w", root, None)
    assert len(commands) == 8  # of another length, another run
    assert not any("epochs" in one for one in commands[-1] if one.startswith("--config.train"))


def test_accuracy_is_told_where_labels_were_trained_on_alone(root):
    row = {"mse": 0.03, "ami": 0.08, "parameters": 10, "epochs": 12, "seconds": 9.0}
    assert "| more | `flat` | 10 | – | 0.0300 | 0.080 | 12 | 9 | 1 |" in frontends.table({"two": {"flat": {"0": row}}})


@pytest.mark.campaign
@pytest.mark.slow
def test_a_run_is_trained_by_the_command(root, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # of the child: it is trained for its files alone
    monkeypatch.setitem(frontends.GROUPS, "one", frontends.GROUPS["one"]._replace(arms={"rotation": ARMS["rotation"]}))
    found = frontends.run(["one"], 1, root / "w", root, 1)
    assert found["one"]["rotation"]["0"]["epochs"] == 1
    assert (root / "w" / "one" / "rotation_1" / "seed0" / "checkpoints").is_dir()


def test_a_run_that_fails_is_told_in_one_line(root, monkeypatch):
    ended = types.SimpleNamespace(returncode=2, stderr="Traceback\nmodel.frontend needs pictures\n")
    monkeypatch.setattr(frontends.subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(UserError, match=r"flat_1/seed0: training ended with status 2: model\.frontend needs pictures$"):
        frontends.run(["two"], 1, root / "w", root, 1)
    assert not (root / frontends.FILE).exists()


@pytest.mark.parametrize("argument", ["--only=turned,none", "--seeds=0", "--epochs=0", "--pages"])
def test_bad_arguments_are_one_line(argument, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert frontends.main([argument]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
