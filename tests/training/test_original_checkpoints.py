"""Checkpoints that the original itself has written: imported, compared, looked at, and trained on.

`ORIGINAL_CHECKPOINTS` names a folder of folders, each of a `topo_epoch_….pt` and what the original made of some inputs,
`reference64.npz`. They are not in the repository.
"""

import json
import os
import pathlib

import numpy as np
import pytest

from topojax import commands

FOLDER = pathlib.Path(os.environ.get("ORIGINAL_CHECKPOINTS", "none"))
FOUND = sorted(FOLDER.glob("*/topo_epoch_*.pt"))

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.skipif(not FOUND, reason="ORIGINAL_CHECKPOINTS names no folder of checkpoints"),
]


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.parent.name)
def test_a_checkpoint_is_imported_evaluated_reported_and_trained_on(path, tmp_path, capsys):
    workdir = tmp_path / "run"
    reference = path.with_name("reference64.npz")
    assert commands.main(["import-torch", str(path), f"--workdir={workdir}", f"--verify={reference}"]) == 0
    told = capsys.readouterr().out
    for name in ("K_chart: 0 of", "K_code: 0 of", "indices: 0 of", "x_hat: off by", "vq: off by", "jumped: off by"):
        assert name in told
    assert commands.main(["evaluate", f"--workdir={workdir}"]) == 0
    assert commands.main(["report", f"--workdir={workdir}"]) == 0
    assert (workdir / "report" / "index.html").exists()
    epoch = int(path.stem.rpartition("_")[2])
    config = f"--config={workdir / 'config.py'}"
    more = ["train", config, f"--workdir={workdir}", f"--config.train.epochs={epoch + 50}"]
    assert commands.main([*more, "--config.log.every_epochs=5", "--allow_change"]) == 0
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    task = [row["signal/task"] for row in rows if row["epoch"] > epoch]
    assert rows[-1]["epoch"] == epoch + 50
    assert np.isfinite(task).all()
    assert task[-1] < task[0]
