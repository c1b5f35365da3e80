"""Front ends and the learned distance beside what they take the place of, at about equal numbers of parameters.

  python -m topojax.benchmarks.frontends --workdir=runs/frontends [--seeds=1] [--only=turned,metric,photographs]
  python -m topojax.benchmarks.frontends --pages         only write the page from docs/frontends.json

Each run is the ordinary command's, in a process of its own, in WORKDIR/GROUP/ARM_EPOCHS/seedS: a finished one is read,
a stopped one goes on. `--epochs=N` limits all arms of a group alike. Writes docs/frontends.json after each run (groups
and seeds that were not asked for stay) and the table of docs/frontends.md.
"""

import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from topojax.commands import Parser
from topojax.errors import UserError, exit_status

FILE, PAGE = pathlib.Path("docs/frontends.json"), pathlib.Path("docs/frontends.md")
_MARKED = re.compile(r"(<!-- frontends -->\n)(.*?)(<!-- /frontends -->)", re.S)
Found = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""Group → arm → seed → what was measured."""


class Group(NamedTuple):
    """Runs that differ in front end or distance alone.

    Attributes:
      words: what the table calls it.
      config: value of --config.
      arms: name → fields of the configuration.
      turned: whether each image is turned by an angle of its own.
    """

    words: str
    config: str
    arms: Mapping[str, Mapping[str, Any]]
    turned: bool = False


def _with(kind: str, channels: int) -> dict[str, Any]:
    return {"model.frontend": kind, "model.channels": channels}


GROUPS: dict[str, Group] = {
    # Channels: such that all parameters of the atlas are those of `flat`, to 4 %.
    "turned": Group(
        "MNIST, 3,000 images, each turned by an angle of its own",
        "configs/mnist.py",
        {"flat": {"model.frontend": "flat"}, "conv": _with("conv", 16), "rotation": _with("rotation", 27)},
        turned=True,
    ),
    "metric": Group(
        "MNIST, 3,000 images",
        "configs/mnist.py",
        {"euclid": {"model.metric": "euclid"}, "soft_equivariant": {"model.metric": "soft_equivariant"}},
    ),
    "photographs": Group(
        "CIFAR-10, 3,000 images, labels not used",
        "configs/cifar10.py:subset",
        {"flat": {"model.frontend": "flat"}, "conv": _with("conv", 40)},
    ),
}
_KEPT = {
    "accuracy": "test/acc_supervised",  # only where labels are trained on
    "mse": "test/mse",
    "ami": "test/ami",
    "parameters": "parameters",
    "epochs": "epochs",
    "seconds": "time/total_s",
}


def turn(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image turned around its middle by an angle of its own, uniform over the circle; linear between pixels.

    Args:
      images: shape=(n, H, W), in [0, 1].
      rng: of the angles.

    Returns:
      shape=(n, H, W), uint8 from 0 to 255.
    """
    from scipy import ndimage

    angles = rng.uniform(0.0, 360.0, len(images))
    turned = [ndimage.rotate(one, by, reshape=False, order=1) for one, by in zip(images, angles, strict=True)]
    return np.round(255 * np.clip(np.asarray(turned), 0, 1)).astype(np.uint8)


def turned_data(config: str, path: pathlib.Path, seed: int = 0) -> pathlib.Path:
    """Write the data set of a configuration with turned images, training and test, unless it is there.

    Args:
      config: value of --config, of a set of square images with one channel.
      path: of the .npz to write.
      seed: of split and angles, the same for every run.

    Raises:
      UserError: the data set is not there, or holds no such images.
    """
    from topojax.config.command_line import load
    from topojax.data import sets

    if not path.exists():
        data = sets.load(load(config).data, seed=seed)
        if data.image_shape is None or data.image_shape[2] != 1:
            raise UserError(f"--config={config}: its examples have shape {data.image_shape}, not (H, W, 1)")
        rng, arrays = np.random.default_rng(seed), {}
        for split, batch in (("train", data.train), ("test", data.test)):
            arrays[f"x_{split}"] = turn(np.asarray(batch.image).reshape(-1, *data.image_shape[:2]), rng)
            arrays[f"y_{split}"] = np.asarray(batch.label)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.stem}.part.npz")
        np.savez_compressed(part, **arrays)  # type: ignore[arg-type]
        part.replace(path)
    return path


def measure(group: Group, fields: Mapping[str, Any], seed: int, folder: pathlib.Path) -> dict[str, Any]:
    """Train one run, unless it is finished, and read what it came to.

    Args:
      group: whose configuration it has.
      fields: of the configuration, beside the seed.
      seed: of the run.
      folder: its workdir.

    Raises:
      UserError: a run that failed, with its own last line.
    """
    file = folder / "result.json"
    if not file.exists():
        given = {"seed": seed, **fields}
        command = [sys.executable, "-m", "topojax", "train", f"--config={group.config}", f"--workdir={folder}"]
        ended = subprocess.run(
            [*command, *(f"--config.{name}={value}" for name, value in given.items())], capture_output=True, text=True
        )
        if ended.returncode:
            last = (ended.stderr.strip() or "it said nothing").splitlines()[-1]
            raise UserError(f"{folder}: training ended with status {ended.returncode}: {last}")
    result = json.loads(file.read_text(encoding="utf-8"))
    return {name: result[key] for name, key in _KEPT.items() if key in result}


def run(names: Sequence[str], seeds: int, workdir: pathlib.Path, root: pathlib.Path, epochs: int | None) -> Found:
    """Measure groups, arm by arm; docs/frontends.json and the page are written after each run.

    Args:
      names: of `GROUPS`.
      seeds: how many, from 0.
      workdir: where runs live.
      root: of the repository whose pages are written.
      epochs: a limit for every arm, None for the configuration's own.
    """
    from topojax.storage.logs import write_json

    file = root / FILE
    found: Found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for name in names:
        group = GROUPS[name]
        common: dict[str, Any] = {} if epochs is None else {"train.epochs": epochs}
        if group.turned:
            path = turned_data(group.config, workdir / f"{name}.npz").absolute()
            common |= {"data.name": str(path), "data.num_examples": None, "data.test_fraction": None}
        for seed in range(seeds):
            for arm, fields in group.arms.items():
                folder = workdir / name / f"{arm}_{epochs or 'all'}" / f"seed{seed}"
                row = measure(group, {**common, **fields}, seed, folder)
                print(f"{name} {arm} {seed}: {row}", flush=True)
                found.setdefault(name, {}).setdefault(arm, {})[str(seed)] = row
                write_json(file, found)
                write_page(root)
    return found


def table(found: Found) -> str:
    """A line an arm; means over seeds, of MSE to four places."""
    rows: list[Sequence[str]] = [
        ("data", "arm", "parameters", "accuracy", "MSE", "AMI", "epochs", "seconds", "seeds"),
        ("---",) * 9,
    ]
    for name, group in GROUPS.items():
        for arm in group.arms:
            if not (seeds := list(found.get(name, {}).get(arm, {}).values())):
                continue
            mean = {key: np.mean([one[key] for one in seeds]) for key in _KEPT if all(key in one for one in seeds)}
            accuracy = f"{mean['accuracy']:.3f}" if "accuracy" in mean else "–"
            cells = (f"{mean['parameters']:,.0f}", accuracy, f"{mean['mse']:.4f}", f"{mean['ami']:.3f}")
            last = (f"{mean['epochs']:.0f}", f"{mean['seconds']:.0f}", f"{len(seeds)}")
            rows.append((group.words, f"`{arm}`", *cells, *last))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def write_page(root: pathlib.Path) -> None:
    """Put the table of docs/frontends.json into docs/frontends.md."""
    from topojax.storage.logs import write_text

    if not (root / FILE).exists():
        raise UserError(f"there is no {FILE} here: measure first, without --pages")
    found = json.loads((root / FILE).read_text(encoding="utf-8"))
    page = root / PAGE
    text = page.read_text(encoding="utf-8")
    write_text(page, _MARKED.sub(lambda match: f"{match[1]}{table(found)}{match[3]}", text))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 on a UserError."""
    return exit_status(lambda: _carry_out(argv))


def _carry_out(argv: Sequence[str] | None) -> None:
    parser = Parser(prog="python -m topojax.benchmarks.frontends", description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/frontends"))
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 (default: 1)")
    parser.add_argument("--only", help=f"groups, separated by commas: {', '.join(GROUPS)}")
    parser.add_argument("--epochs", type=int, help="a limit for every arm (default: the configuration's own)")
    parser.add_argument("--pages", action="store_true", help="only write the page from docs/frontends.json")
    options = parser.parse_args(argv)
    root = pathlib.Path()
    names = list(GROUPS) if options.only is None else options.only.split(",")
    if unknown := [name for name in names if name not in GROUPS]:
        raise UserError(f"--only={options.only}: no group is called {unknown[0]!r}; there are {', '.join(GROUPS)}")
    if options.seeds < 1 or (options.epochs is not None and options.epochs < 1):
        raise UserError(f"--seeds={options.seeds} --epochs={options.epochs}: must be at least 1")
    if not (root / PAGE).exists():
        raise UserError(f"there is no {PAGE} here: run it in the root of the repository")
    if options.pages:
        write_page(root)
    else:
        run(names, options.seeds, options.workdir, root, options.epochs)


if __name__ == "__main__":
    sys.exit(main())
