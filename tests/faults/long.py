"""Long runs: thousands of epochs of one, hundreds of runs in one process: memory, logs and an epoch's time stay flat.

The first is digits, logs and checkpoints as they come; its memory after the last epoch is held against that after epoch
100, when a few have been saved, the bytes of its logs in the last third against those in the first. The others are
runs of a second with another configuration each, in one process, some of them from the host, of populations or of the
estimator: what they leave behind is held against the first few.
"""

import contextlib
import gc
import io
import itertools
import json
import pathlib
import shutil
import statistics
import time
from typing import Any

from tests.faults import short_run
from tests.faults.counts import Counts

EPOCHS = 3000
BASE = 100
"""The epoch after which nothing may grow."""
RUNS, BASE_RUNS = 200, 20
MORE = 1.03
"""Resident memory at the end, of that at the base."""
A_RUN = 2**20 // 4
"""Bytes that each of many runs may leave behind: a program that stays is some megabytes."""


def run(folder: pathlib.Path, count: int, seed: int) -> Counts:
    """`count` epochs of one run, and a run for each 15 of them; each part in a process of its own."""
    short_run.import_all()
    counts = Counts(folder, "long runs")
    for name, part in (("epochs", _epochs), ("runs", _runs)):
        said = folder / f"{name}.txt"
        if counts[f"done {name}"]:
            continue
        said.write_text("")
        status = short_run.ended(short_run.fork(lambda part=part: part(folder, count), said))
        if status:
            counts.broke(f"{name}: status {status}: {said.read_text()[-1500:]}")
            continue
        for what, value in json.loads((folder / f"{name}.json").read_text()).items():
            counts[what] = value
        for line in said.read_text().splitlines():
            if line.startswith("BROKEN: "):
                counts.broke(line.removeprefix("BROKEN: "))
        counts[f"done {name}"] = 1
        counts.keep()
    return counts


def resident() -> int:
    """Bytes of this process in memory, what nobody uses any more given back."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def _epochs(folder: pathlib.Path, count: int) -> None:
    from topojax.training.loop import train_and_evaluate

    workdir = folder / "digits"
    shutil.rmtree(workdir, ignore_errors=True)
    config = _digits(count)
    seen: list[tuple[int, int, float, int]] = []  # epoch, bytes in memory, seconds, bytes of logs

    def look(told: Any) -> None:
        if told.epoch % BASE == 0:
            logs = sum(file.stat().st_size for file in workdir.glob("*.jsonl"))
            seen.append((told.epoch, resident(), time.monotonic(), logs))

    train_and_evaluate(config, workdir, callbacks=[look])
    (_, first, _, _), (_, last, _, _) = seen[0], seen[-1]
    paces = [b[2] - a[2] for a, b in itertools.pairwise(seen)]
    growths = [b[3] - a[3] for a, b in itertools.pairwise(seen)]
    third = -(-len(paces) // 3)
    kept = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())
    found = {
        "epochs": seen[-1][0],
        "MiB at epoch 100": first >> 20,
        "MiB at the end": last >> 20,
        "ms an epoch, first third": round(1000 / BASE * statistics.median(paces[:third])),
        "ms an epoch, last third": round(1000 / BASE * statistics.median(paces[-third:])),
        "log bytes an epoch": max(growths) // BASE,
        "checkpoints kept": len(kept),
    }
    (folder / "epochs.json").write_text(json.dumps(found))
    (folder / "seen.json").write_text(json.dumps(seen))
    if last > MORE * first:
        print(f"BROKEN: {first} bytes in memory at epoch {BASE}, {last} at the end")
    early, late = statistics.median(growths[:third]), statistics.median(growths[-third:])
    if late > 1.2 * early:
        print(f"BROKEN: logs grow by {late} bytes in {BASE} epochs, by {early} at first")
    if len(kept) > config.checkpoint.keep + 1:
        print(f"BROKEN: checkpoints {kept} are left")


def _digits(epochs: int) -> Any:
    """Digits as they come, for so many epochs."""
    import runpy

    config = runpy.run_path(str(pathlib.Path(__file__).parents[2] / "configs" / "digits.py"))["get_config"]()
    config.train.epochs, config.log.progress = epochs, False
    return config


def _a_run(workdir: pathlib.Path, number: int, fields: dict[str, Any]) -> None:
    """One of each ten from the host, one of a population, one of the estimator."""
    from topojax.analysis.estimator import Atlas
    from topojax.data import sets
    from topojax.training.loop import train_and_evaluate
    from topojax.training.population import train_population

    kind = number % 10
    if kind == 7:
        train_and_evaluate(short_run.config(**fields, **{"data.mode": "host"}), workdir)
    elif kind == 8:
        train_population(short_run.config(**fields, **{"population.sweep": "losses.recon_weight=1.0,2.0"}), workdir)
    elif kind == 9:
        config = short_run.config()
        train = sets.load(config.data, seed=number).train
        contracts = {f"contracts.{name}.enabled": row.enabled for name, row in config.contracts.items()}
        settings = {"model.covariant": False, "data.neighbours": 0, **contracts}
        Atlas(charts=4, epochs=1, hidden=fields["model.hidden_dim"], settings=settings).fit(train.image, train.label)
    else:
        train_and_evaluate(short_run.config(**fields), workdir)


def _runs(folder: pathlib.Path, count: int) -> None:
    import jax

    workdir, runs, seen = folder / "run", max(BASE_RUNS + 1, count * RUNS // EPOCHS), []
    for number in range(runs):
        shutil.rmtree(workdir, ignore_errors=True)
        # Every other one is a program of its own, the rest differ in a number.
        fields = {"train.epochs": 1, "seed": number, "model.hidden_dim": 8 + number // 2 % 4}
        with contextlib.redirect_stdout(io.StringIO()):
            _a_run(workdir, number, fields)
        seen.append(resident())
    a_run = (seen[-1] - seen[BASE_RUNS - 1]) // (runs - BASE_RUNS)
    found = {
        "runs": runs,
        f"MiB after {BASE_RUNS} runs": seen[BASE_RUNS - 1] >> 20,
        "MiB after all runs": seen[-1] >> 20,
        "KiB a run": a_run >> 10,
        "live arrays": len(jax.live_arrays()),
    }
    (folder / "runs.json").write_text(json.dumps(found))
    (folder / "runs_seen.json").write_text(json.dumps(seen))
    if a_run > A_RUN:
        print(f"BROKEN: each run leaves {a_run} bytes behind")
