"""MLflow, for real: a server of its own and SQLite files; what a board shows is what metrics.jsonl holds."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topojax.commands import main
from topojax.config.defaults import default_config
from topojax.config.io import telling
from topojax.errors import UserError
from topojax.storage import logs
from topojax.storage.workdir import write_config
from topojax.tracking import mlflow_run
from topojax.tracking.mlflow_run import MlflowRun, ends
from topojax.tracking.mlflow_writer import Mlflow, sync

pytestmark = [
    pytest.mark.skipif(find_spec("mlflow") is None, reason="MLflow is not installed"),
    pytest.mark.filterwarnings("ignore"),  # MLflow's own dependencies warn of each other
]
TINY = str(pathlib.Path(__file__).parents[1] / "tiny_config.py")


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@contextlib.contextmanager
def server(folder, port):
    """`mlflow server` on this machine, until the end of the block."""
    store = ("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files"))
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen([*command, *store], stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(240):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                if answer.status == 200:
                    break
            time.sleep(0.25)
        else:
            raise AssertionError((folder / "server.log").read_text())
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One folder for a database, which takes MLflow seconds to make, and for what is stored beside it."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def uri(store, monkeypatch):
    monkeypatch.chdir(store)  # with a file as its store, MLflow puts artifacts into the current folder
    return f"sqlite:///{store}/mlflow.db"


def config(uri, **fields):
    c = default_config()
    c.mlflow.enabled, c.mlflow.tracking_uri = True, uri
    c.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return c


def opened(workdir, c, epoch=0):
    """A run's files, cut to an epoch, and its MLflow run, in the order in which training opens them."""
    workdir.mkdir(exist_ok=True)
    write_config(workdir, c)
    run = MlflowRun(workdir)
    return logs.Writers(workdir, epoch), run


def log(sinks, epochs):
    for epoch in epochs:
        sinks.metrics(epoch, 10 * epoch, {"loss/recon": 1 / epoch, "signal/a": None, "contract/x/at": epoch > 2})


def board(workdir):
    """(run, {metric: [(step, value)]}) as a client sees them."""
    from mlflow.tracking import MlflowClient

    known = json.loads((workdir / "mlflow.json").read_text())
    client = MlflowClient(known["tracking_uri"])
    run = client.get_run(known["run_id"])
    history = {
        name: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }
    return run, history


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_numbers_arrive_and_those_that_are_not_finite_are_left_out_and_counted(tmp_path, uri):
    files, sending = opened(tmp_path / "run", config(uri, seed=3))
    log(files, (1, 2, 3))
    sending.close(finished=False)
    run, history = board(tmp_path / "run")
    assert history == {
        "loss/recon": [(1, 1.0), (2, 0.5), (3, 1 / 3)],
        "contract/x/at": [(1, 0.0), (2, 0.0), (3, 1.0)],
        "nonfinite": [(1, 1.0), (3, 1.0)],  # always 1: the ends of the line
        "epoch": [(1, 1.0), (2, 2.0), (3, 3.0)],
    }
    assert run.data.params["seed"] == "3"
    assert run.data.params.keys() == telling(config(uri)).keys()
    assert (run.info.run_name, run.info.status) == ("digits", "KILLED")


def test_events_are_tags_that_count(tmp_path, uri):
    files, sending = opened(tmp_path / "run", config(uri, mlflow__run_name="mine", mlflow__experiment="e"))
    files.event(2, 20, {"event": "rate", "cause": "grow", "from": 0.1, "to": 0.2})
    files.event(5, 50, {"event": "rate", "cause": "spike", "from": 0.2, "to": 0.1})
    files.event(5, 50, {"event": "constraint_unsatisfied", "name": "jump", "value": 0.3, "advice": "wider"})
    sending.close(finished=True)
    run, _ = board(tmp_path / "run")
    assert run.data.tags["event.rate"] == "2 ×, last in epoch 5: cause spike, from 0.2, to 0.1"
    assert run.data.tags["event.constraint_unsatisfied.jump"] == "1 ×, last in epoch 5: value 0.3, advice wider"
    assert run.data.tags["version.topojax"]
    assert (run.info.run_name, run.info.status) == ("mine", "FINISHED")


def test_a_resumed_run_goes_on_and_repeats_nothing(tmp_path, uri):
    """Killed after epoch 4, its last checkpoint of epoch 2: epochs 3 and 4 are trained again, and are there once."""
    workdir = tmp_path / "run"
    files, sending = opened(workdir, config(uri, train__epochs=4))
    log(files, (1, 2))
    sending.send()
    log(files, (3, 4))
    files.event(4, 40, {"event": "over_mixing"})
    sending.close(finished=False)
    first = json.loads((workdir / "mlflow.json").read_text())
    files, sending = opened(workdir, config(uri, train__epochs=6), epoch=2)
    log(files, (3, 4, 5, 6))
    files.event(4, 40, {"event": "over_mixing"})
    sending.close(finished=True)
    assert json.loads((workdir / "mlflow.json").read_text()) == first
    run, history = board(workdir)
    assert [step for step, _ in history["loss/recon"]] == [1, 2, 3, 4, 5, 6]
    assert run.data.tags["event.over_mixing"].startswith("1 ×, last in epoch 4")
    assert run.data.params["train.epochs"] == "4"  # MLflow lets no parameter change
    assert run.data.tags["config.train.epochs"] == "6"


def test_a_run_that_began_without_mlflow_or_was_deleted_there_is_sent_whole(tmp_path, uri):
    from mlflow.tracking import MlflowClient

    workdir = tmp_path / "run"
    files, sending = opened(workdir, config(uri))
    log(files, (1, 2))
    sending.close(finished=False)
    gone = json.loads((workdir / "mlflow.json").read_text())["run_id"]
    MlflowClient(uri).delete_run(gone)
    (workdir / "result.json").write_text("{}")
    (workdir / "report").mkdir()
    (workdir / "report" / "index.html").write_text("<p>")
    said = sync(workdir)
    run, history = board(workdir)
    assert run.info.run_id != gone
    assert f"MLflow: run {run.info.run_id} of experiment topojax at {uri}" in said
    assert [step for step, _ in history["loss/recon"]] == [1, 2]
    client = MlflowClient(uri)
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"config.json", "metrics.jsonl", "events.jsonl", "result.json", "report"}
    assert [file.path for file in client.list_artifacts(run.info.run_id, "report")] == ["report/index.html"]


@pytest.mark.slow
def test_many_rows_go_in_requests_that_mlflow_takes(tmp_path, uri):
    files, sending = opened(tmp_path / "run", config(uri))
    for epoch in range(1, 31):
        files.metrics(epoch, epoch, {f"signal/{i}": float(epoch) for i in range(150)})
    sending.close(finished=False)
    _, history = board(tmp_path / "run")
    assert len(history) == 152
    assert {len(points) for name, points in history.items() if name != "nonfinite"} == {30}


@given(st.lists(st.integers(0, 2), max_size=12))
def test_points_left_out_are_on_the_lines_between_those_that_are_sent(values):
    points = [(3 * i, float(v)) for i, v in enumerate(values)]
    sent = ends(points)
    assert set(sent) <= set(points)
    if points:
        (x, y), (x_sent, y_sent) = (np.transpose(some) for some in (points, sent))
        assert np.interp(x, x_sent, y_sent).tolist() == y.tolist()


def test_a_line_that_is_still_being_written_waits_and_times_are_those_of_training(tmp_path, uri):
    from mlflow.tracking import MlflowClient

    workdir = tmp_path / "run"
    files, sending = opened(workdir, config(uri))
    for epoch in (1, 2):
        files.metrics(epoch, epoch, {"loss": 1 / epoch, "time/train_s": 30.0 * epoch})
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo')
        file.flush()
        sending.send()
        assert [step for step, _ in board(workdir)[1]["loss"]] == [1, 2]
        file.write('ss": 0.25}\n')
    sending.send()
    run, history = board(workdir)
    assert history["loss"][-1] == (3, 0.25)
    points = MlflowClient(uri).get_metric_history(run.info.run_id, "loss")
    assert points[1].timestamp - points[0].timestamp == 30_000


@pytest.mark.parametrize(
    "uri, said",
    [
        ("http://127.0.0.1:9", r"http://127\.0\.0\.1:9: nobody answers .* set config\.mlflow\.enabled to false"),
        ("sqlite:////dev/null/x.db", "tracking_uri = sqlite:////dev/null/x.db: "),
        ("nonsense://x", "tracking_uri = nonsense://x: "),
    ],
)
def test_a_server_or_file_that_cannot_be_is_one_line_before_anything_is_written(tmp_path, uri, said):
    write_config(tmp_path, config(uri))
    with pytest.raises(UserError, match=said) as caught:
        MlflowRun(tmp_path)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.slow
def test_what_the_sending_process_is_refused_is_one_line_of_the_run(tmp_path):
    write_config(tmp_path, config("http://127.0.0.1:9"))
    with pytest.raises(UserError, match=r"^config\.mlflow\.tracking_uri = http://127\.0\.0\.1:9: nobody answers .*$"):
        Mlflow(tmp_path)


@pytest.mark.slow
def test_a_run_that_is_killed_is_sent_to_its_end_and_called_killed(tmp_path, uri):
    """The process that sends outlives the one that trains, however that ends."""
    write_config(tmp_path, config(uri))
    died = """
import os, pathlib, signal, sys
from topojax.tracking import mlflow_writer
from topojax.storage import logs
path = pathlib.Path(sys.argv[1])
sinks = logs.Writers(path, 0, [mlflow_writer.Mlflow(path)])
sinks.metrics(1, 10, {"loss": 0.5})
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", died, str(tmp_path)], timeout=60)
    for _ in range(240):
        run, history = board(tmp_path)
        if run.info.status != "RUNNING":
            break
        time.sleep(0.25)
    assert run.info.status == "KILLED"
    assert history["loss"] == [(1, 0.5)]


@pytest.mark.slow
def test_by_default_a_run_keeps_all_of_mlflow_in_its_workdir(tmp_path):
    workdir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    workdir.mkdir()
    write_config(workdir, config(None))
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    ended = subprocess.run(
        [sys.executable, "-m", "topojax", "mlflow", f"--workdir={workdir}"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=elsewhere,
        env=environment,
    )
    assert ended.returncode == 0, ended.stderr
    assert not list(elsewhere.iterdir())
    assert (workdir / "mlflow.db").exists()
    assert list((workdir / "mlartifacts").rglob("config.json"))


def test_without_mlflow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    write_config(tmp_path, config("sqlite:///x.db"))
    with pytest.raises(UserError, match=r"topojax\[mlflow\]"):
        MlflowRun(tmp_path)


def train(workdir, uri, *arguments):
    command = [sys.executable, "-m", "topojax.train", "--config", TINY, f"--workdir={workdir}", *arguments]
    flags = ["--config.mlflow.enabled=true", f"--config.mlflow.tracking_uri={uri}", "--config.mlflow.experiment=tiny"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    ended = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=300, env=environment)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.campaign
def test_training_on_a_server_that_goes_away_and_comes_back(tmp_path, store, port, capfd):
    """A real run logs to a real server, resumes in the same run, loses the server, and is made whole again."""
    workdir = tmp_path / "run"
    with server(store, port) as address:
        train(workdir, address)
        train(workdir, address, "--config.train.epochs=6")
        run, history = board(workdir)
        assert run.info.status == "FINISHED"
        for name in {name for row in rows(workdir) for name in row} - {"step"}:
            logged = [(row["epoch"], float(row[name])) for row in rows(workdir) if row.get(name) is not None]
            assert set(history.get(name, [])) <= set(logged), name
            if logged:  # what was left out lies on the line through what was sent
                (x, y), (x_sent, y_sent) = (np.transpose(points) for points in (logged, history[name]))
                assert np.interp(x, x_sent, y_sent).tolist() == y.tolist(), name
        from mlflow.tracking import MlflowClient

        listed = {file.path for file in MlflowClient(address).list_artifacts(run.info.run_id)}
        assert {"config.json", "result.json", "metrics.jsonl", "events.jsonl"} <= listed
        sinks = logs.Writers(workdir, 6, [Mlflow(workdir)])
    log(sinks, (7, 8))  # nobody is there
    capfd.readouterr()
    sinks.close()
    said = capfd.readouterr().err
    assert said.count("MLflow does not answer, training goes on") == 1
    assert f"send them with topojax mlflow --workdir={workdir}" in said
    with server(store, port):
        ended = subprocess.run(
            [sys.executable, "-m", "topojax", "mlflow", f"--workdir={workdir}"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ended.returncode == 0, ended.stderr
        assert run.info.run_id in ended.stdout
        _, history = board(workdir)
    assert history["loss/recon"][-2:] == [(7, 1 / 7), (8, 1 / 8)]


def test_the_limits_are_mlflows():
    from mlflow.utils.validation import MAX_METRICS_PER_BATCH, MAX_PARAMS_TAGS_PER_BATCH

    assert mlflow_run.METRICS_A_REQUEST <= MAX_METRICS_PER_BATCH
    assert mlflow_run.PARAMS_A_REQUEST <= MAX_PARAMS_TAGS_PER_BATCH


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"run_id": 5, "tracking_uri": "x"}', "[" * 100_000])
def test_a_damaged_mlflow_json_is_named_and_begins_no_other_run(uri, tmp_path, text):
    write_config(tmp_path, config(uri))
    (tmp_path / "mlflow.json").write_text(text)
    with pytest.raises(UserError, match=r"mlflow\.json cannot be read: put it back, or remove it"):
        MlflowRun(tmp_path)
    assert (tmp_path / "mlflow.json").read_text() == text


def test_a_population_is_not_sent_as_one_run(uri, tmp_path, capsys):
    write_config(tmp_path, config(uri))
    (tmp_path / "member_000").mkdir()
    assert main(["mlflow", f"--workdir={tmp_path}"]) == 2
    assert "is a population: --workdir=" in capsys.readouterr().err
    assert not (tmp_path / "mlflow.json").exists()
