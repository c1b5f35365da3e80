"""The MLflow run of a workdir: parameters, every metric, events as tags, its files at the end.

What is sent is what metrics.jsonl and events.jsonl hold and MLflow lacks: a run that resumes, or whose server was away,
goes on in the same run there and repeats nothing. Of a metric that stays the same for a while the two ends are sent,
and the line that MLflow draws is the same. The run's id is kept in <workdir>/mlflow.json. MLflow's step is the epoch.
"""

import json
import os
import pathlib
import socket
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from topojax.config.io import telling
from topojax.errors import UserError, needing, tell
from topojax.storage.logs import write_json
from topojax.storage.runtime import versions
from topojax.storage.workdir import read_config

METRICS_A_REQUEST = 1000
"""MLflow's own limits; the same for parameters and tags."""
PARAMS_A_REQUEST = 100
FILES = ("config.json", "result.json", "metrics.jsonl", "events.jsonl", "atlas.png", "report", "comparison")
"""What becomes an artifact, where it is there."""


class MlflowRun:
    """The MLflow run of a workdir: found again by mlflow.json, otherwise made.

    A server that goes away loses nothing: what it did not take is sent with what comes next.

    Args:
      workdir: of the run; its config.json says where MLflow is.

    Raises:
      UserError: no run there; MLflow is not installed, or its server or file cannot be used.
    """

    def __init__(self, workdir: pathlib.Path):
        self._workdir = workdir
        config = read_config(workdir)
        self._client, self._artifacts = _client(config.mlflow.tracking_uri, workdir.absolute())
        try:
            self._run, self._sent = self._open(config)
        except UserError:
            raise
        except Exception as error:  # MLflow raises its own, SQLAlchemy's and requests'
            where = self._client.tracking_uri
            raise UserError(f"config.mlflow.tracking_uri = {where}: MLflow refuses: {_line(error)}") from error
        self._rows, self._events = (_Lines(workdir / name) for name in ("metrics.jsonl", "events.jsonl"))
        self._unsent: list[Any] = []  # MLflow's metrics that it has not taken yet; tags likewise
        self._tags: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._failed = False

    def send(self) -> None:
        """Send what the files have gained; numbers that are not finite are left out, `nonfinite` counts them."""
        from mlflow.entities import Metric, RunTag

        for event in self._events.read():
            self._count(event)
        rows = [row for row in self._rows.read() if row["epoch"] > self._sent]
        if rows:
            now = time.time() - rows[-1].get("time/train_s", 0.0)
            when = {row["epoch"]: int(1000 * (now + row.get("time/train_s", 0.0))) for row in rows}
            # The epochs come last: where one has arrived, its row is whole.
            names = [*dict.fromkeys(name for row in rows for name in row if name not in ("epoch", "step")), "epoch"]
            for name in names:  # points of one metric in a row: they cost MLflow less
                points = [(row["epoch"], float(row[name])) for row in rows if row.get(name) is not None]
                if name != "epoch":
                    points = ends(points)
                self._unsent += [Metric(name, value, when[epoch], epoch) for epoch, value in points]
            self._sent = rows[-1]["epoch"]
        try:
            while self._tags:
                tags = [RunTag(name, value) for name, value in list(self._tags.items())[:PARAMS_A_REQUEST]]
                self._client.log_batch(self._run, tags=tags)
                for tag in tags:
                    del self._tags[tag.key]
            while self._unsent:
                self._client.log_batch(self._run, metrics=self._unsent[:METRICS_A_REQUEST])
                del self._unsent[:METRICS_A_REQUEST]
        except Exception as error:  # training goes on: metrics.jsonl has all of it
            self._warn(error)

    def close(self, finished: bool) -> None:
        """Send what is left, and the files; leave the run as finished or killed."""
        self.send()
        try:
            for path in (self._workdir / name for name in FILES):
                if path.is_dir():
                    self._client.log_artifacts(self._run, str(path), path.name)
                elif path.exists():
                    self._client.log_artifact(self._run, str(path))
            self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")
        except Exception as error:
            self._warn(error)
        left = len(self._unsent) + len(self._tags)
        if left:
            tell(f"topojax: warning: {left} numbers and tags did not reach MLflow; {remedy(self._workdir)}")

    def _open(self, config: Any) -> tuple[str, int]:
        """(run id, last epoch that is whole there)."""
        from mlflow.exceptions import MlflowException

        kept = self._workdir / "mlflow.json"
        client = self._client
        if kept.exists():
            known = _known(kept)
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
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(name, self._artifacts)
        tags = {f"version.{package}": version for package, version in versions().items()}
        tags["labels_used"] = str(config.supervised.enabled).lower()
        run = client.create_run(experiment_id, run_name=config.mlflow.run_name or config.name, tags=tags)
        self._send_params(run.info.run_id, telling(config))
        write_json(kept, {"tracking_uri": client.tracking_uri, "experiment": name, "run_id": run.info.run_id})
        return run.info.run_id, 0

    def _send_params(self, run_id: str, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)) for name, value in values.items()]
        for start in range(0, len(params), PARAMS_A_REQUEST):
            self._client.log_batch(run_id, params=params[start : start + PARAMS_A_REQUEST])

    def _count(self, event: Mapping[str, Any]) -> None:
        """One tag a kind of event (and contract, or group): how often, when last, and what it said."""
        kind = ".".join(str(event[key]) for key in ("event", "name", "group") if key in event)
        self._counts[kind] = count = self._counts.get(kind, 0) + 1
        told = ("event", "name", "group", "epoch", "step")
        said = ", ".join(f"{k} {v}" for k, v in event.items() if k not in told and v != "")
        self._tags[f"event.{kind}"] = f"{count} ×, last in epoch {event['epoch']}{f': {said}' if said else ''}"

    def _warn(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            tell(f"topojax: warning: MLflow does not answer, training goes on: {_line(error)}")


def _known(kept: pathlib.Path) -> dict[str, str]:
    """mlflow.json: the run on MLflow and where that is.

    Raises:
      UserError: it cannot be read.
    """
    try:
        known = json.loads(kept.read_text(encoding="utf-8"))
        if all(isinstance(known[name], str) for name in ("run_id", "tracking_uri")):
            return known
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise UserError(f"{kept} cannot be read: put it back, or remove it to begin another run on MLflow")


def ends(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Points (epoch, value) without those inside a stretch of equal values: lines through them draw the same curve."""
    last = len(points) - 1
    return [
        point
        for i, point in enumerate(points)
        if i in (0, last) or points[i - 1][1] != point[1] or points[i + 1][1] != point[1]
    ]


def remedy(workdir: pathlib.Path) -> str:
    """How to send what MLflow lacks."""
    return f"send them with topojax mlflow --workdir={workdir}"


class _Lines:
    """A file of one JSON object a line that is still being written: each `read` returns the lines that are new."""

    def __init__(self, path: pathlib.Path):
        self._path, self._read = path, 0

    def read(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


def _client(uri: str | None, workdir: pathlib.Path) -> tuple[Any, str | None]:
    """A client that says soon when nobody listens, and where a new experiment keeps its files, None: as MLflow does.

    MLflow's own defaults, `mlflow.db` and `mlruns`, would lie in whatever folder the command was called from.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workdir / 'mlflow.db'}"
    artifacts = None
    if (database := urllib.parse.urlsplit(uri)).scheme not in ("", "file", "http", "https", "databricks"):
        local = database.scheme.partition("+")[0] == "sqlite" and database.path.strip("/")
        folder = pathlib.Path(database.path[1:]).absolute().parent if local else workdir
        artifacts = (folder / "mlartifacts").as_uri()
        os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = artifacts  # or a store makes `mlruns` when it is opened
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its default, 7, waits for minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    with needing("mlflow", "MLflow"):
        from mlflow.tracking import MlflowClient
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
    return client, artifacts


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
