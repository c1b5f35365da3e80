"""Numbers of short runs and of the golden files, bit for bit: recorded before a change that must not move them.

  python tests/fingerprint.py --out=before.json              records
  python tests/fingerprint.py --against=before.json          compares; exit 1 where a number differs

Three runs through the command line, in processes of their own (digits, MNIST-3000, digits without labels, of a few
epochs), every number of metrics.jsonl and of result.json but times; and everything that tests/test_golden.py computes.
Equal on one machine only: sums are ordered otherwise on another number of cores. TFDS_DATA_DIR says where MNIST is.
"""

import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
RUNS = {
    "digits": ("--config=configs/digits.py", "--config.train.epochs=3"),
    "mnist_3000": ("--config=configs/mnist.py", "--config.train.epochs=2"),
    "digits_unsupervised": ("--config=configs/digits.py:unsupervised", "--config.train.epochs=3"),
}
EVERY = ("--config.log.every_epochs=1", "--config.log.progress=false")


def trained(arguments: tuple[str, ...], folder: pathlib.Path) -> dict[str, Any]:
    """Every number of a run that is not a time: `epoch/name` of metrics.jsonl, `name` of result.json."""
    command = [sys.executable, "-m", "topojax.train", *arguments, *EVERY, f"--workdir={folder}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    numbers = {f"{row['epoch']}/{name}": value for row in rows for name, value in row.items()}
    result = json.loads((folder / "result.json").read_text())
    numbers |= {name: value for name, value in result.items() if isinstance(value, int | float)}
    return {name: value for name, value in numbers.items() if "time/" not in name}


def golden() -> dict[str, str]:
    """Digest of every array that the golden tests compute."""
    import jax
    import numpy as np

    sys.path.append(str(ROOT / "tests" / "atlas"))
    from golden_files import NAMES
    from test_golden import computed

    jax.config.update("jax_disable_most_optimizations", True)
    out = {}
    for name in NAMES:
        for path, leaf in jax.tree_util.tree_leaves_with_path(computed(name)[3]):
            key = f"{name}{jax.tree_util.keystr(path)}"
            out[key] = hashlib.sha256(np.ascontiguousarray(leaf).tobytes()).hexdigest()[:16]
    return out


def record() -> dict[str, dict[str, Any]]:
    """All of it, by run."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: trained(arguments, pathlib.Path(folder) / name) for name, arguments in RUNS.items()}
    return {**runs, "golden": golden()}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, help="write the numbers there")
    parser.add_argument("--against", type=pathlib.Path, help="compare with what was written before")
    arguments = parser.parse_args()
    now = record()
    if arguments.out:
        arguments.out.write_text(json.dumps(now, indent=1, sort_keys=True))
    print(", ".join(f"{name} {len(numbers)} numbers" for name, numbers in now.items()))
    if not arguments.against:
        return 0
    before = json.loads(arguments.against.read_text())
    differ = [
        f"{run}: {name}: {before.get(run, {}).get(name)} before, {now.get(run, {}).get(name)} now"
        for run in sorted({*before, *now})
        for name in sorted({*before.get(run, {}), *now.get(run, {})})
        if before.get(run, {}).get(name) != now.get(run, {}).get(name)
    ]
    print("\n".join(differ[:20]) or "no number differs")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
