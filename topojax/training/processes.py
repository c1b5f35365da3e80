"""Several processes that train one run: how they start, agree with each other, and leave.

Each goes through the same loop with the same data and the same state on its own first device; an epoch alone is
computed by all (`data.mesh`). Process 0 holds the folder and writes. What only one of them knows, as that it was
interrupted, the others are told by JAX's coordination service, which process 0 runs.
"""

import contextlib
import json
import os
import pathlib
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import jax

from topojax.config.io import differences
from topojax.config.validate import validate
from topojax.errors import Stopped, UserError, leave_at_once
from topojax.storage.runtime import use_every_core, versions
from topojax.training import aborted

START_S = 300
"""How long a process waits for the others to start."""
HEARTBEAT_S = 30
"""A process that has not been heard of for so long is lost."""
_SHUTDOWN_S = 20
_LOOK_MS = 1000
_LEAVE_S = 5.0
"""How long process 0 lets the others leave before it takes the service along."""
_OWN = ("mesh.process", "mesh.coordinator", "data.data_dir", "data.cache")
"""Fields that may differ between processes."""
_LOST = re.compile(r"[Gg]loo|NCCL|[Cc]oordination|heartbeat|UNAVAILABLE|DEADLINE_EXCEEDED")
"""In what JAX raises where another process is gone."""


class Lost(Stopped):
    """Another process of the run is gone, and has not said why."""


class Alone:
    """The one process of a run: it agrees with itself."""

    number, first = 1, True

    def agreed(self, wanted: bool) -> bool:
        """Whether one of all processes wants it; all wait for each other here."""
        return wanted

    def same(self, value: Any, complaint: str) -> None:
        """Refuse values that are not those of process 0."""

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes, in their order."""
        return [value]


class Peers(Alone):
    """One process among several.

    Args:
      client: of JAX's coordination service.
      index: of this process, from 0.
      number: of all.
    """

    def __init__(self, client: Any, index: int, number: int):
        self._client, self.index, self.number, self.first = client, index, number, index == 0
        self._turn = 0

    def agreed(self, wanted: bool) -> bool:
        """Whether one of all processes wants it.

        Raises:
          UserError: another has refused to go on.
          Stopped: another has stopped, or is lost.
        """
        return any(self.gathered(bool(wanted)))

    def same(self, value: Any, complaint: str) -> None:
        """Refuse, in every process, values that are not those of process 0.

        Args:
          value: JSON.
          complaint: about two processes.

        Raises:
          UserError: as `agreed`; or the values differ.
        """
        found = self.gathered(value)
        for index, other in enumerate(found):
            if other != found[0]:
                raise UserError(f"processes 0 and {index} {complaint}")

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes, in their order.

        Args:
          value: JSON.

        Raises:
          UserError, Stopped: as `agreed`.
        """
        self._turn += 1
        self._call("key_value_set", self._key(self._turn, self.index), json.dumps(value))
        found = [self._of(index) for index in range(self.number)]
        if self._turn > 1:  # all have read it: they have come to this turn
            self._call("key_value_delete", self._key(self._turn - 1, self.index))
        return found

    def told(self, error: BaseException) -> BaseException:
        """What this process ends with; the others are told, and process 0 leaves last.

        Args:
          error: that ends its part of the run.
        """
        aborted.leaving()
        leave_at_once()
        if isinstance(error, ValueError | RuntimeError | Stopped) and _LOST.search(str(error)):
            error = self._left_by() or self._lost(str(error))
        if isinstance(error, Lost):
            return error  # the service may be gone as well: nobody is told, and all find out
        kind = "refused" if isinstance(error, UserError) else "stopped"
        said = " ".join(str(error).split()) or type(error).__name__
        with contextlib.suppress(RuntimeError):
            self._client.key_value_set(f"topojax/left/{self.index}", json.dumps([kind, said]), allow_overwrite=True)
        if self.first:
            until = time.monotonic() + _LEAVE_S
            while len(self._have_left()) < self.number and time.monotonic() < until:
                time.sleep(0.05)
        return error

    def _of(self, index: int) -> Any:
        while True:
            try:
                return json.loads(self._client.blocking_key_value_get(self._key(self._turn, index), _LOOK_MS))
            except RuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise self._lost(str(error)) from error
            left = self._left_by()
            if left:
                raise left

    def _left_by(self) -> Stopped | UserError | None:
        """What this process ends with where another one has left, and said why."""
        for other, (kind, said) in self._have_left().items():
            if kind == "refused":
                return UserError(f"process {other}: {said}")
            return Stopped(f"process {other} has stopped ({said or 'interrupted'})")
        return None

    def _have_left(self) -> dict[int, list[str]]:
        """Process → how and why it has left."""
        try:
            found = self._client.key_value_dir_get("topojax/left/")
        except RuntimeError:
            return {}
        return {int(key.rpartition("/")[2]): json.loads(text) for key, text in found}

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self._client, name)(*arguments)
        except RuntimeError as error:
            raise self._lost(str(error)) from error

    def _lost(self, words: str) -> Lost:
        other = 1 - self.index if self.number == 2 else aborted.who(words)
        return Lost(gone(other))

    def _key(self, turn: int, index: int) -> str:
        return f"topojax/{turn}/{index}"


def gone(index: int | None) -> str:
    """What is said where a process is lost, None: one of the others."""
    which = "another process of this run" if index is None else f"process {index}"
    return f"{which} has ended or cannot be reached"


@contextlib.contextmanager
def joined(config: Any, path: pathlib.Path) -> Iterator[Alone]:
    """Train together with the other processes of a run, if there are others.

    Args:
      config: of the run.
      path: its folder.

    Raises:
      UserError: a bad configuration; processes of other versions or with another configuration.
      Stopped: another process has stopped or is lost, or the others do not come.
    """
    if config.mesh.processes == 1:
        yield Alone()
        return
    validate(config)
    peers = _started(config, path)
    try:
        _compare(peers, config)
        yield peers
        peers.agreed(False)  # nobody leaves before all is written
        jax.distributed.shutdown()
    except BaseException as error:
        told = peers.told(error)
        if told is error:
            raise
        raise told from error


def _started(config: Any, path: pathlib.Path) -> Peers:
    """Connect to the other processes, before JAX looks for devices."""
    mesh, several = config.mesh, f"config.mesh.processes = {config.mesh.processes}"

    _reachable(mesh.coordinator, mesh.process)
    waited = (
        f"process {mesh.process} has waited {START_S} s for the others at {mesh.coordinator}: start all "
        f"{mesh.processes}, with the same config.mesh.coordinator"
    )
    connected: list[bool] = []

    def line(words: str) -> str:
        if not connected:
            return waited
        if "oordination" not in words and "distributed service" not in words:
            return f"aborted ({' '.join(words.split())[-200:]}); {_goes_on(path)}"
        other = 1 - mesh.process if mesh.processes == 2 else aborted.who(words)
        return f"{gone(other)}; {_goes_on(path)}"

    aborted.watch(line)
    use_every_core(mesh.data // mesh.processes)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM for itself
    jax.config.update("jax_check_proxy_envs", False)
    try:
        jax.distributed.initialize(
            mesh.coordinator,
            mesh.processes,
            mesh.process,
            cluster_detection_method="deactivate",
            coordinator_bind_address=mesh.coordinator,  # not on every network of the machine
            initialization_timeout=START_S,
            heartbeat_timeout_seconds=HEARTBEAT_S,
            shutdown_timeout_seconds=_SHUTDOWN_S,
        )
    except RuntimeError as error:
        leave_at_once()
        said = " ".join(str(error).split())
        if "must be called before" in said or "only be called once" in said:
            raise UserError(f"{several}: JAX has started in this process already, train in one of its own") from error
        raise Stopped(waited if "DEADLINE_EXCEEDED" in said else f"{several}: {said[:200]}") from error
    connected.append(True)
    from jax._src import distributed  # as orbax does: there is no public way to the coordination service

    return Peers(distributed.global_state.client, mesh.process, mesh.processes)


def _reachable(coordinator: str, index: int) -> None:
    """Refuse an address that is none, and in process 0 a port that is taken: JAX would crash."""
    host, _, port = coordinator.rpartition(":")
    where = f"config.mesh.coordinator = {coordinator!r}"
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        if index == 0:
            with socket.socket(family, kind) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind(address)
    except OSError as error:
        if isinstance(error, socket.gaierror):
            raise UserError(f"{where}: {error.strerror}; name the host of process 0") from error
        advice = "name an address of process 0's machine and a port that is free"
        raise UserError(f"{where}: {os.strerror(error.errno or 0)}; {advice}") from error


def _compare(peers: Peers, config: Any) -> None:
    """Refuse, in every process, others of other versions or with another configuration."""
    found = peers.gathered({"versions": versions(), "config": config.to_dict()})
    for index, other in enumerate(found):
        for what, advice in (
            ("versions", "install the same everywhere"),
            ("config", "start all with the same flags but config.mesh.process"),
        ):
            lines = differences(found[0][what], other[what], _OWN)
            if lines:
                raise UserError(f"processes 0 and {index} differ in {'; '.join(lines[:3])}: {advice}")


def _goes_on(path: pathlib.Path) -> str:
    """As the loop's words, without anything that might wait: the names of whole checkpoints are their epochs."""
    with contextlib.suppress(OSError):
        epochs = [int(folder.name) for folder in (path / "checkpoints").iterdir() if folder.name.isdigit()]
        return f"the same command goes on from epoch {max(epochs, default=0)} of {path}"
    return f"the same command begins {path} again"
