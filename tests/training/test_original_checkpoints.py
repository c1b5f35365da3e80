"""Checkpoints that the original itself has written: imported, compared, looked at, and trained on.

`ORIGINAL_CHECKPOINTS` names a folder of folders, each of a `topo_epoch_….pt` and what the original made of some inputs,
`reference64.npz`. They are not in the repository.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

FOLDER = pathlib.Path(os.environ.get("ORIGINAL_CHECKPOINTS", "none"))
FOUND = sorted(FOLDER.glob("*/topo_epoch_*.pt"))

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.skipif(not FOUND, reason="ORIGINAL_CHECKPOINTS names no folder of checkpoints"),
]


def command(*arguments):
    """What a command of a process of its own says: compiled as a user's is, not as tests are, for rounding counts."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_DISABLE_MOST_OPTIMIZATIONS"}
    line = [sys.executable, "-m", "topojax", *arguments]
    ended = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.parent.name)
def test_a_checkpoint_is_imported_evaluated_reported_and_trained_on(path, tmp_path):
    workdir = tmp_path / "run"
    told = command("import-torch", str(path), f"--workdir={workdir}", f"--verify={path.with_name('reference64.npz')}")
    for name in ("K_chart: 0 of", "K_code: 0 of", "indices: 0 of", "x_hat: off by", "vq: off by", "jumped: off by"):
        assert name in told
    command("evaluate", f"--workdir={workdir}")
    command("report", f"--workdir={workdir}")
    assert (workdir / "report" / "index.html").exists()
    epoch = int(path.stem.rpartition("_")[2])
    task, recon = trained_on(workdir, epoch)
    assert recon[-1] < recon[0]
    if "they spread the latent" not in told:
        assert task[-1] < task[0]
        return
    # A prior that outweighs the codes raises their part of the task, there as here: what the line says lowers it.
    fresh = tmp_path / "fresh"
    assert "they spread the latent" not in command(
        "import-torch", str(path), f"--workdir={fresh}", "--controllers=fresh"
    )
    task, recon = trained_on(fresh, epoch)
    assert task[-1] < task[0]
    assert recon[-1] < recon[0]


def trained_on(workdir, epoch):
    """Task loss and reconstruction of 50 epochs from there."""
    changed = (f"--config.train.epochs={epoch + 50}", "--config.log.every_epochs=1")
    command("train", f"--config={workdir / 'config.py'}", f"--workdir={workdir}", *changed)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["epoch"] == epoch + 50
    task, recon = ([row[name] for row in rows if row["epoch"] > epoch] for name in ("signal/task", "loss/recon"))
    assert np.isfinite(task).all()
    return task, recon
