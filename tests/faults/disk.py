"""A disk that is full, a folder that vanishes, wherever a run writes; a read-only disk for each command.

On a tmpfs of a few megabytes, in a mount namespace of its own (`unshare`, no root needed): just before the write the
disk is filled to its last byte, or the folder removed; the kernel does the rest. The command says one line, and with
the fault gone the same command ends the run.
"""

import importlib
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

from tests.faults import short_run
from tests.faults.counts import Counts

MEGABYTES = 24
PLACES: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "config.json": ("topojax.storage.workdir", "write_config", (1,)),
    "metrics.jsonl": ("topojax.storage.logs", "Files.metrics", (1,)),
    "events.jsonl": ("topojax.storage.logs", "Files.event", (1,)),
    "checkpoint": ("topojax.storage.checkpoint", "Checkpoints.save", (1,)),
    "result.json": ("topojax.training.books", "write_result", (1,)),
    "TensorBoard": ("topojax.tracking.tensorboard_writer", "TensorBoard.metrics", (0, 1)),
    "kept program": ("topojax.storage.program_cache", "_write", (0, 1)),
    "evaluation.json": ("topojax.commands.evaluate", "_default_path", (1, 2)),
    "export": ("topojax.analysis.export", "export", (1, 2)),
    "report": ("topojax.report.write", "write", (1, 2)),
}
"""What is written → the function before whose second call the disk fails, and what the process may end with: caches and
boards may be lost, the run may not."""
ON_A_RUN = ("evaluation.json", "export", "report")
FULL, VANISHED, READ_ONLY = "full", "vanished", "read-only"


def run(folder: pathlib.Path, count: int, seed: int) -> Counts:
    """Every place, with both faults."""
    counts = Counts(folder, "disks")
    if os.environ.get("TOPOJAX_OWN_MOUNTS") != "1":
        command = ["unshare", "-rm", sys.executable, "-m", "tests.faults", "disk", f"--count={count}"]
        command += [f"--state={folder.parent}"]
        ended = subprocess.run(command, env={**os.environ, "TOPOJAX_OWN_MOUNTS": "1"}, check=False)
        counts = Counts(folder, "disks")
        if ended.returncode not in (0, 1):
            counts.broke(f"no mount namespace: status {ended.returncode}")
        return counts
    short_run.import_all()
    importlib.import_module("topojax.commands.evaluate")
    mount = folder / "mount"
    mount.mkdir(exist_ok=True)
    cases = [(place, fault) for fault in (FULL, VANISHED) for place in PLACES]
    cases = [*cases, *((place, READ_ONLY) for place in ("config.json", *ON_A_RUN))][:count]
    for place, fault in cases:
        if not counts[f"{place} {fault}"]:
            _case(folder, mount, place, fault, counts)
            counts.keep()
    return counts


def _case(folder: pathlib.Path, mount: pathlib.Path, place: str, fault: str, counts: Counts) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(mount)], check=True)
    try:
        workdir, said = mount / "run", folder / "said.txt"
        said.write_text("")
        if (place in ON_A_RUN or fault == READ_ONLY) and short_run.ended(
            short_run.fork(lambda: _train(workdir, False), said)
        ):
            counts.broke(f"no run for {place}: {said.read_text()[-1000:]}")
            return
        said.write_text("")
        if fault == READ_ONLY:
            (workdir / "result.json").unlink()  # so that there is something left to do
            subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
        status = short_run.ended(short_run.fork(lambda: _work(workdir, mount, place, fault), said))
        lines = [line for line in said.read_text().splitlines() if line.startswith("topojax: error: ")]
        told = said.read_text()
        counts[f"{place} {fault}"] += 1
        allowed = {FULL: PLACES[place][2], VANISHED: (0, 1, 2), READ_ONLY: (1, 2)}[fault]
        if status not in allowed:
            counts.broke(f"{place}, {fault}: status {status}: {told[-1500:]}")
        if "Traceback" in told or (status and len(lines) != 1):
            counts.broke(f"{place}, {fault}: not one line: {told[-1500:]}")
        _readable(folder, mount, workdir, place, fault, counts)
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def _readable(
    folder: pathlib.Path, mount: pathlib.Path, workdir: pathlib.Path, place: str, fault: str, counts: Counts
) -> None:
    """What was saved is there: with room again, the same command ends the run."""
    if fault == READ_ONLY:
        subprocess.run(["mount", "-o", "remount,rw", str(mount)], check=True)
    (mount / "ballast").unlink(missing_ok=True)
    saved = max((int(p.name) for p in (workdir / "checkpoints").glob("[0-9]*") if p.name.isdecimal()), default=0)
    said = folder / "again.txt"
    said.write_text("")
    status = short_run.ended(short_run.fork(lambda: _train(workdir, False), said))
    if status:
        counts.broke(f"{place}, {fault}: does not go on from epoch {saved}: {said.read_text()[-1500:]}")
    counts["went on"] += not status


def _train(workdir: pathlib.Path, board: bool) -> None:
    from topojax.training.loop import train_and_evaluate

    train_and_evaluate(short_run.config(**{"log.tensorboard": board}), workdir)


def _work(workdir: pathlib.Path, mount: pathlib.Path, place: str, fault: str) -> Any:
    module, name, _ = PLACES[place]
    owner: Any = importlib.import_module(module)
    *outer, name = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    before, calls = getattr(owner, name), 0

    def failing(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2 or not outer:
            _break(mount, fault)
        return before(*arguments, **keywords)

    setattr(owner, name, failing)
    if place == "kept program":
        os.environ["XDG_CACHE_HOME"] = str(mount / "cache")
    if place == "evaluation.json":
        return owner.main([f"--workdir={workdir}"])
    if place == "export":
        return failing(workdir, mount / "rows.npz")
    if place == "report":
        return failing(workdir)
    return _train(workdir, place == "TensorBoard")


def _break(mount: pathlib.Path, fault: str) -> None:
    if fault == VANISHED:
        shutil.rmtree(mount / "run", ignore_errors=True)
        shutil.rmtree(mount / "cache", ignore_errors=True)
        return
    if fault == READ_ONLY:
        return
    with open(mount / "ballast", "ab", buffering=0) as file:
        block = 1 << 20
        while block:
            try:
                file.write(b"\0" * block)
            except OSError:
                block //= 2
