"""A run on MLflow while it trains, and after: `topojax mlflow --workdir=runs/digits` sends what MLflow lacks.

A training run does so by itself where `config.mlflow.enabled` says so, through a process of its own: MLflow writes some
hundred numbers a logged epoch one object at a time, and training should share no interpreter with that.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import IO, Any, cast

from topojax.errors import UserError, tell
from topojax.storage.logs import Row, Sink
from topojax.storage.workdir import finished, read_config
from topojax.tracking.mlflow_run import MlflowRun, remedy

SECONDS_BETWEEN = 5.0
"""What has been logged is sent so often: many rows at once cost MLflow less than one by one."""
NICE = 10
"""Of the sending process, where the system knows such a thing: training has the processors first."""


_READY, _SEND, _FINISH = "ready\n", "send\n", "finish\n"  # what the two processes say to each other


class Mlflow(Sink):
    """A process that sends what a run writes into its files: training waits for none of it, `close` waits for all.

    A server that goes away stops nothing, and nothing is lost: the files have it all. The process also ends, with all
    sent, where training is interrupted or killed.

    Args:
      workdir: of the run; its config.json says where MLflow is.

    Raises:
      UserError: MLflow is not installed, or its server or file cannot be used.
    """

    def __init__(self, workdir: pathlib.Path):
        self._workdir, self._told = workdir, time.monotonic()
        command = [sys.executable, "-m", "topojax", "mlflow", f"--workdir={workdir}", "--follow"]
        # A session of its own: an interrupt at the terminal is for training, which then ends this one.
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        pipes |= {"encoding": "utf-8", "errors": "backslashreplace"}
        self._process: subprocess.Popen = subprocess.Popen(command, start_new_session=True, **pipes)
        self._stdin, self._stdout = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        said = ""
        for line in self._stdout:
            if line == _READY:
                return
            said = line.strip()
        with self._process:  # closes its ends of the pipes, and waits
            pass
        raise UserError(said or f"the process that sends to MLflow ended ({self._process.returncode})")

    def metrics(self, epoch: int, step: int, values: Row) -> None:
        """Have the rows sent, if some seconds have passed."""
        if time.monotonic() - self._told > SECONDS_BETWEEN:
            self._told = time.monotonic()
            self._tell(_SEND)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Have the run's files sent, and the run called finished."""
        self._tell(_FINISH)
        print(f"MLflow: {where(self._workdir)}")

    def close(self) -> None:
        """Wait until all is sent."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        status = self._process.wait()
        self._stdout.close()
        if status:
            tell(f"topojax: warning: the process that sends to MLflow ended ({status}); {remedy(self._workdir)}")

    def _tell(self, what: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended: `close` says so
            self._stdin.write(what)
            self._stdin.flush()


def follow(workdir: pathlib.Path) -> None:
    """Open the run, say so on stdout, send when told to on stdin and, at its end, leave the run finished or killed.

    The files are read when first told to, not before: a run that goes on has cut them to its checkpoint by then.
    """
    if hasattr(os, "nice"):
        os.nice(NICE)
    try:
        run = MlflowRun(workdir)
    except UserError as error:
        print(error, flush=True)
        return
    print(_READY, end="", flush=True)
    while (told := sys.stdin.readline()) == _SEND:
        run.send()
    run.close(finished=told == _FINISH)


def sync(workdir: pathlib.Path) -> str:
    """Send what MLflow lacks of a run, and its files.

    Returns:
      Where they are, in words.

    Raises:
      UserError: no run there, or what `MlflowRun` refuses.
    """
    run = MlflowRun(workdir)
    run.close(finished=finished(workdir, read_config(workdir).train.epochs))
    return f"MLflow: {where(workdir)}"


def where(workdir: pathlib.Path) -> str:
    """Where MLflow has the run of a workdir that it knows."""
    known = json.loads((workdir / "mlflow.json").read_text(encoding="utf-8"))
    return f"run {known['run_id']} of experiment {known['experiment']} at {known['tracking_uri']}"
