"""What a run says on the terminal, and its surroundings."""

import subprocess

import jax
import pytest

from topojax.storage import runtime
from topojax.tracking import console

RESULT = {
    "name": "tiny",
    "test/mse": 0.0571234,
    "test/acc_supervised": None,
    "labels_used": False,
    "epochs": 4,
    "seed": 0,
    "contracts": [
        {
            "contract": "window",
            "mechanism": "dual",
            "signal": "I_XK",
            "relation": ">=",
            "target": 1.15,
            "value": 0.31234,
            "weight": 10.0,
            "satisfied": False,
            "saturated": True,
            "gated": False,
            "ripple": 0.01234,
            "advice": "use a wider model",
        },
        {
            "contract": "jump",
            "mechanism": "track",
            "signal": "jump",
            "relation": "<=",
            "target": 0.05,
            "value": None,
            "weight": 0.0,
            "satisfied": None,
            "saturated": False,
            "gated": True,
            "ripple": None,
            "advice": "",
        },
    ],
}
JUMP = RESULT["contracts"][1]


def test_the_table_shows_scores_contracts_and_advice():
    text = console.table(RESULT)
    assert "labels not used" in text
    lines = {line.split()[0]: " ".join(line.split()) for line in text.splitlines() if line}
    assert lines["mse"] == "mse 0.05712"
    assert lines["acc_supervised"] == "acc_supervised –"
    assert lines["window"] == "window I_XK >= 1.15 0.3123 10 1.2% saturated: use a wider model"
    assert lines["jump"] == "jump jump <= 0.05 – 0 – not measured"


@pytest.mark.parametrize(
    "change, verdict",
    [
        ({}, "not measured"),
        ({"mechanism": "constant"}, "constant"),
        ({"mechanism": "constant", "satisfied": True}, "satisfied"),
        ({"mechanism": "constant", "satisfied": False, "gated": False, "advice": "wait"}, "unsatisfied: wait"),
        ({"satisfied": False, "advice": "wait"}, "gate closed: wait"),
        ({"satisfied": False, "saturated": True, "advice": "wait"}, "saturated: wait"),
    ],
)
def test_a_verdict_says_what_is_known(change, verdict):
    text = console.contract_table([{**JUMP, **change}])
    assert " ".join(text.splitlines()[1].split()) == f"jump jump <= 0.05 – 0 – {verdict}"


QUIET = {
    "rate": {"cause": "grow", "from": 0.01, "to": 0.02},
    "group_rate": {"group": "router", "cause": "beta", "from": 1.0, "to": 0.5},
    "cap": {"from": "governor", "to": "schedule"},
    "phase": {"from": "coupling", "to": "ramp"},
    "lyapunov_rose": {"by": 0.2, "value": 2.4},
    "revived": {"codes": 1, "charts": 0},
    "barrier": {"scale": "beta", "groups": "router"},
}


@pytest.mark.parametrize("name", QUIET)
def test_what_comes_often_is_left_to_the_file(name, capsys):
    console.Progress(0, 4, enabled=True).say(1, {"event": name, **QUIET[name]})
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "event, line",
    [
        ({"event": "grounding_lost", "value": 0.31234, "epsilon": 0.9}, "grounding_lost: value 0.3123, epsilon 0.9"),
        ({"event": "barrier_given_up"}, "barrier_given_up"),
        ({"event": "signal_not_finite", "name": "jump", "count": 2}, "signal_not_finite: name jump, count 2"),
        ({"event": "spike", "loss": None}, "spike"),
    ],
)
def test_what_a_user_should_not_miss_is_a_line(event, line, capsys):
    console.Progress(0, 4, enabled=True).say(3, event)
    assert capsys.readouterr().err == f"epoch 3: {line}\n"


def test_without_a_terminal_a_log_is_a_line_and_rates_do_not_interrupt(capsys):
    progress = console.Progress(0, 4, enabled=True)
    progress.advance()
    progress.show(1, {"signal/task": 1.23456, "test/ami": 0.5, "lr": 0.01})
    progress.say(1, {"event": "rate", "cause": "grow", "from": 0.01, "to": 0.02})
    progress.say(1, {"event": "gate_opened", "gate": "window"})
    progress.say(2, {"event": "over_mixing"})
    progress.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "epoch 1/4  loss 1.235  ami 0.5  lr 0.01",
        "epoch 1: gate_opened: gate window",
        "epoch 2: over_mixing",
    ]


def test_switched_off_it_is_silent(capsys):
    progress = console.Progress(0, 4, enabled=False)
    progress.show(1, {"signal/task": 1.0})
    progress.say(1, {"event": "over_mixing"})
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = console.Progress(2, 4, enabled=True)
    progress.advance()
    progress.show(3, {"signal/task": 1.0})
    progress.say(3, {"event": "over_mixing"})
    progress.close()
    err = capsys.readouterr().err
    assert "3/4" in err
    assert "epoch 3: over_mixing\n" in err


def test_versions_name_what_numbers_depend_on():
    found = runtime.versions()
    assert found["jax"] == jax.__version__
    assert {"topojax", "python", "flax", "optax", "orbax-checkpoint"} <= found.keys()


def test_the_commit_is_known_in_a_checkout_alone(monkeypatch, tmp_path):
    checkout, package = tmp_path / "checkout", tmp_path / "checkout" / "topojax" / "storage"
    package.mkdir(parents=True)
    monkeypatch.setattr(runtime, "__file__", str(package / "runtime.py"))
    assert runtime.commit() is None
    assert runtime.versions()["commit"] == "unknown"
    git = ["git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    (package / "runtime.py").write_text("1")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    full = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert runtime.commit() == full[:12]
    (package / "runtime.py").write_text("2")
    assert runtime.commit() == f"{full[:12]}-dirty"


@pytest.fixture
def cache_setting():
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_the_cache_lies_in_the_users_cache_folder(cache_setting, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert runtime.use_compilation_cache() == tmp_path / "topojax" / "xla"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "topojax" / "xla")


def test_a_cache_that_cannot_be_written_is_no_error(cache_setting, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert runtime.use_compilation_cache() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_a_cache_that_is_set_stays(cache_setting, monkeypatch, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert runtime.use_compilation_cache() == tmp_path
    assert not (tmp_path / "other").exists()
