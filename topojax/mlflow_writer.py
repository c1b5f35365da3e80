"""A run on MLflow: parameters, every metric, events as tags, its files at the end.

  python -m topojax.mlflow_writer --workdir=runs/digits       sends what MLflow lacks, and files made since (a report)

A training run writes there by itself where `config.mlflow.enabled` says so. What is sent is what metrics.jsonl and
events.jsonl hold: a run that resumes, or whose server was away, sends what is missing there and repeats nothing. The
run's id is kept in <workdir>/mlflow.json. MLflow's step is the epoch.
"""

import argparse
import contextlib
import json
import os
import pathlib
import socket
import sys
import threading
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any

from topojax.config_io import telling
from topojax.errors import UserError, exit_status
from topojax.runtime import versions
from topojax.writers import Row, Sink, lines_until, write_json

METRICS_A_REQUEST = 1000
"""MLflow's own limits; the same for parameters and tags."""
PARAMS_A_REQUEST = 100
ROWS_A_BATCH, SECONDS_BETWEEN = 20, 5.0
"""Rows wait for so many, or so long and the next one; they are sent metric by metric, which costs MLflow less."""
NICE = 10
"""Of the sending thread, where the system knows such a thing: training has the processors first."""
FILES = ("config.json", "result.json", "metrics.jsonl", "events.jsonl", "atlas.png", "report")
"""What becomes an artifact, where it is there."""


class MlflowRun(Sink):
    """The MLflow run of a workdir: found again by mlflow.json, otherwise made.

    Rows are sent by one thread, in batches: training waits for none of it, but `close` waits for all. A server that
    goes away loses nothing and stops nothing: rows are kept and sent with the next ones.

    Args:
      workdir: of the run.
      config: its configuration.
      epoch: the epoch it goes on from; rows of the files up to there that MLflow lacks are sent.

    Raises:
      UserError: MLflow is not installed, or its server or file cannot be used.
    """

    def __init__(self, workdir: pathlib.Path, config: Any, epoch: int):
        self._workdir, self._uri = workdir, config.mlflow.tracking_uri
        self._client = _client(config.mlflow.tracking_uri)
        try:
            self._run, self._sent = self._open(config)
        except Exception as error:  # MLflow raises its own, SQLAlchemy's and requests'
            where = self._client.tracking_uri
            raise UserError(f"config.mlflow.tracking_uri = {where}: MLflow refuses: {_line(error)}") from error
        self._pool = futures.ThreadPoolExecutor(1, thread_name_prefix="mlflow", initializer=_step_back)
        self._rows: list[tuple[int, int, Row]] = []  # epoch, time in ms, values: not yet handed to the thread
        self._unsent: list[Any] = []  # MLflow's metrics that a request has failed with; the thread's own
        self._tags: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._handed, self._failed, self._finished = time.monotonic(), "", False
        for row in _rows(workdir / "events.jsonl", epoch):
            self.event(row.pop("epoch"), row.pop("step"), row)
        for row in _rows(workdir / "metrics.jsonl", epoch):
            self.metrics(row.pop("epoch"), row.pop("step"), row)

    def _open(self, config: Any) -> tuple[str, int]:
        """(run id, last epoch that is whole there)."""
        from mlflow.exceptions import MlflowException

        kept = self._workdir / "mlflow.json"
        client = self._client
        if kept.exists():
            known = json.loads(kept.read_text())
            try:
                run = client.get_run(known["run_id"]) if known["tracking_uri"] == client.tracking_uri else None
            except MlflowException:  # deleted for good, or another server at the same address
                run = None
            if run is not None and run.info.lifecycle_stage == "active":
                client.update_run(run.info.run_id, status="RUNNING")
                changed = {k: str(v) for k, v in telling(config).items() if run.data.params.get(k) != str(v)}
                for name, value in changed.items():  # MLflow lets no parameter change: the new value is a tag
                    client.set_tag(run.info.run_id, f"config.{name}", value)
                return run.info.run_id, int(run.data.metrics.get("epoch", 0))
        name = config.mlflow.experiment
        experiment = client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
        tags = {f"version.{package}": version for package, version in versions().items()}
        tags["labels_used"] = str(config.supervised.enabled).lower()
        run = client.create_run(experiment_id, run_name=config.mlflow.run_name or config.name, tags=tags)
        self._send_params(run.info.run_id, telling(config))
        write_json(kept, {"tracking_uri": client.tracking_uri, "experiment": name, "run_id": run.info.run_id})
        return run.info.run_id, 0

    def _send_params(self, run_id: str, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)) for name, value in values.items()]
        for part in _parts(params, PARAMS_A_REQUEST):
            self._client.log_batch(run_id, params=part)

    def metrics(self, epoch: int, step: int, values: Row) -> None:
        """Take a row, unless MLflow has it; values that are not finite are left out, `nonfinite` counts them."""
        if epoch <= self._sent:
            return
        self._rows.append((epoch, int(time.time() * 1000), values))
        if len(self._rows) >= ROWS_A_BATCH or time.monotonic() - self._handed > SECONDS_BETWEEN:
            self._hand_over()

    def event(self, epoch: int, step: int, event: Mapping[str, Any]) -> None:
        """One tag a kind of event (and contract, or group): how often, when last, and what it said."""
        kind = ".".join(str(event[key]) for key in ("event", "name", "group") if key in event)
        self._counts[kind] = count = self._counts.get(kind, 0) + 1
        said = ", ".join(f"{k} {v}" for k, v in event.items() if k not in ("event", "name", "group") and v != "")
        self._tags[f"event.{kind}"] = f"{count} ×, last in epoch {epoch}{f': {said}' if said else ''}"

    def finish(self, result: Mapping[str, Any]) -> None:
        """Send the run's files and say that it is finished."""
        self._hand_over()
        self._pool.submit(self._send_files).result()
        self._finished = True
        print(f"MLflow: {where(self._workdir)}")

    def close(self) -> None:
        """Wait until all is sent, once more for what failed, and leave the run as finished or killed."""
        self._hand_over()
        self._pool.submit(self._end).result()
        self._pool.shutdown()

    def _hand_over(self) -> None:
        rows, self._rows = self._rows, []
        tags, self._tags = self._tags, {}
        self._handed = time.monotonic()
        if rows or tags:
            self._pool.submit(self._send, rows, tags)

    # What follows runs on the thread.

    def _send(self, rows: Sequence[tuple[int, int, Row]], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Metric, RunTag

        for name in {name: None for _, _, values in rows for name in values}:
            points = [(epoch, when, values.get(name)) for epoch, when, values in rows]
            self._unsent += [Metric(name, float(v), when, epoch) for epoch, when, v in points if v is not None]
        # The epochs come last: where one has arrived, its row is whole.
        self._unsent += [Metric("epoch", epoch, when, epoch) for epoch, when, _ in rows]
        try:
            for part in _parts([RunTag(name, value) for name, value in tags.items()], PARAMS_A_REQUEST):
                self._client.log_batch(self._run, tags=part)
            while self._unsent:
                self._client.log_batch(self._run, metrics=self._unsent[:METRICS_A_REQUEST])
                del self._unsent[:METRICS_A_REQUEST]
        except Exception as error:  # training goes on: metrics.jsonl has all of it
            self._warn(error)

    def _send_files(self) -> None:
        try:
            for name in FILES:
                path = self._workdir / name
                if path.is_dir():
                    self._client.log_artifacts(self._run, str(path), name)
                elif path.exists():
                    self._client.log_artifact(self._run, str(path))
        except Exception as error:
            self._warn(error)

    def _end(self) -> None:
        self._send((), {})
        try:
            self._client.set_terminated(self._run, "FINISHED" if self._finished else "KILLED")
        except Exception as error:
            self._warn(error)
        if self._failed:
            print(
                f"topojax: warning: {len(self._unsent)} numbers did not reach MLflow; send them with "
                f"python -m topojax.mlflow_writer --workdir={self._workdir}",
                file=sys.stderr,
            )

    def _warn(self, error: Exception) -> None:
        if not self._failed:
            self._failed = _line(error)
            print(f"topojax: warning: MLflow does not answer, training goes on: {self._failed}", file=sys.stderr)


def _step_back() -> None:
    with contextlib.suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def _client(uri: str | None) -> Any:
    """A client that says soon when nobody listens."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its default, 7, waits for minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise UserError(
            f"config.mlflow.enabled needs MLflow ({error}): pip install 'topojax[mlflow]', or leave it off"
        ) from error
    try:
        client = MlflowClient(uri)
    except Exception as error:
        raise UserError(f"config.mlflow.tracking_uri = {uri}: {_line(error)}") from error
    address = urllib.parse.urlsplit(client.tracking_uri)
    if address.scheme in ("http", "https"):
        try:
            port = address.port or {"http": 80, "https": 443}[address.scheme]
            socket.create_connection((address.hostname or "", port), timeout=10).close()
        except (OSError, ValueError) as error:
            raise UserError(
                f"config.mlflow.tracking_uri = {client.tracking_uri}: nobody answers ({error}); start one with "
                "mlflow server, or set config.mlflow.enabled to false"
            ) from error
    return client


def _rows(path: pathlib.Path, epoch: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_until(path, epoch)]


def _parts(items: list[Any], size: int) -> list[list[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def sync(workdir: pathlib.Path) -> None:
    """Send what MLflow lacks of a run, and its files; says where they are.

    Raises:
      UserError: no run there, or what `MlflowRun` refuses.
    """
    from topojax.workdir import read_config

    config = read_config(workdir)
    run = MlflowRun(workdir, config, sys.maxsize)
    result = workdir / "result.json"
    run.finish(json.loads(result.read_text()) if result.exists() else {})
    run.close()


def where(workdir: pathlib.Path) -> str:
    """Where MLflow has the run of a workdir that it knows."""
    known = json.loads((workdir / "mlflow.json").read_text())
    return f"run {known['run_id']} of experiment {known['experiment']} at {known['tracking_uri']}"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m topojax.mlflow_writer", description="Send to MLflow what it lacks of a run, and its files."
    )
    parser.add_argument("--workdir", required=True, help="where the run lives")
    arguments = parser.parse_args()
    return exit_status(lambda: sync(pathlib.Path(arguments.workdir)))


if __name__ == "__main__":
    sys.exit(main())
