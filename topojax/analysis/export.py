"""Export what a run says of a split: coordinates, charts, codes, router weights and errors, one row an example.

  topojax export --workdir=runs/digits --out=digits.npz
  topojax export --workdir=runs/digits --out=digits.parquet     for embedding-atlas (extra `parquet`)
  topojax export --workdir=runs/digits --out=digits.h5ad        for scanpy (extra `anndata`)
  topojax export --workdir=runs/digits --out=projector          TensorBoard's projector: a folder
  topojax export --workdir=runs/digits --out=programs --format=stablehlo

A name without a suffix is a folder: vectors.tsv (z_geo), router.tsv, metadata.tsv, sprite.png where inputs are images,
projector_config.pbtxt; `tensorboard --logdir=projector` opens it.
"""

import io
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from topojax.analysis import annotated, columnar, portable
from topojax.errors import UserError
from topojax.scoring.run import Run, restore
from topojax.scoring.split import load_splits
from topojax.step.predict import compile_evaluate, predict
from topojax.storage.logs import whole, write_all
from topojax.storage.workdir import output
from topojax.types import Batch

SPRITE_LIMIT = 8192
"""Pixels along a side that the projector takes."""
_METADATA = ("label", "chart", "code", "squared_error", "readout_prediction", "class_prediction")


def rows(run: Run, split: Batch) -> dict[str, np.ndarray]:
    """Everything about each example of a split, n rows each.

    Args:
      run: restored.
      split: n ≥ 1 examples.

    Returns:
      index, label (−1 where there is none), class (its name, where classes have names), chart, code [n]; router [n, N];
      z_geo, z_n, z_tex [n, D]; squared_error, consistency, predictions of the heads and what the baselines say
      (`predict.make_evaluate`; ae/z is ae_z).
    """
    compiled = compile_evaluate(run.program.evaluate, run.state, split)
    encoding = run.encode_rows(np.asarray(split.image, np.float32))
    label = np.asarray(split.label)
    named = {"class": np.where(label >= 0, run.classes(np.maximum(label, 0)), "")} if run.units.classes else {}
    return {
        "index": np.arange(len(label)),
        "label": label,
        **named,
        **{name.replace("/", "_"): value for name, value in predict(compiled, run.state, split).items()},
        "z_n": np.asarray(encoding.z_n),
        "z_tex": np.asarray(encoding.z_tex),
    }


def export(
    workdir: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    step: int | None = None,
    split: str = "test",
    data: Any = None,
    format: str | None = None,
) -> pathlib.Path:
    """Restore a run and write its rows, or its programs.

    Args:
      workdir: of a run with at least one checkpoint, and its data at hand.
      out: .npz (with the run's centers [N, D] and codebook [N, K, D]), .parquet, .h5ad, or a folder.
      step: which checkpoint, by epoch; the latest unless told.
      split: test or train.
      data: the run's data where they no longer lie where they did: their path, or what was handed over.
      format: "stablehlo" writes encoder and decoder into the folder `out` (`portable`); it wants no data.

    Returns:
      `out`.

    Raises:
      UserError: nothing to restore, another suffix, a path that cannot be written, or a package is missing.
    """
    path = output(out)
    if format not in (None, *FORMATS):
        raise UserError(f"--format={format}: choose one of {', '.join(FORMATS)}")
    if format == "stablehlo":
        return _written(path, lambda: portable.write(path, restore(workdir, step)))
    if path.suffix not in ("", *SUFFIXES):
        raise UserError(f"--out={path}: ends in {', '.join(SUFFIXES)}, or has no suffix, for the projector's folder")
    if path.suffix and not path.parent.is_dir():
        raise UserError(f"--out={path}: the folder {path.parent} does not exist")
    if path.suffix == ".parquet":
        columnar.pyarrow()
    if path.suffix == ".h5ad":
        annotated.check()
    run = restore(workdir, step)
    train, test = load_splits(run, data)
    examples = {"train": train, "test": test}[split]
    columns, image = rows(run, examples), np.asarray(examples.image)
    about = {"split": split, "epoch": str(run.epoch), "name": run.config.name}

    def write() -> None:
        if not path.suffix:
            write_projector(path, columns, image, run.image_shape)
            return
        with whole(path) as file:
            if path.suffix == ".npz":
                _write_npz(file, columns, run, about)
            elif path.suffix == ".parquet":
                columnar.write(file, columns, run, image, about)
            else:
                annotated.write(file, columns, run, image, about)

    return _written(path, write)


SUFFIXES = (".npz", ".parquet", ".h5ad")
FORMATS = ("stablehlo",)


def _written(path: pathlib.Path, write: Callable[[], None]) -> pathlib.Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write()
    except OSError as error:
        raise UserError(f"--out={path} cannot be written: {error.strerror or error}") from error
    return path


def _write_npz(path: pathlib.Path, columns: Mapping[str, np.ndarray], run: Run, about: Mapping[str, str]) -> None:
    encoder = run.state.params["atlas"]["encoder"]
    tables = {name: np.asarray(encoder[name]) for name in ("centers", "codebook")}
    with path.open("wb") as file:
        np.savez_compressed(file, **columns, **tables, **{k: np.array(v) for k, v in about.items()})  # type: ignore[arg-type]


def write_projector(
    folder: pathlib.Path,
    columns: Mapping[str, np.ndarray],
    image: np.ndarray,
    image_shape: tuple[int, int, int] | None,
) -> None:
    """Files of TensorBoard's embedding projector, in the formats it documents; no TensorFlow needed.

    Args:
      folder: made if missing, in one that is there.
      columns: of `rows`.
      image: [n, X] in [0, 1].
      image_shape: (H, W, C), None for points: no sprite.
    """
    names = [name for name in _METADATA if name in columns]
    lines = ["\t".join(["index", *names])]
    lines += ["\t".join(map(_cell, row)) for row in zip(columns["index"], *(columns[n] for n in names), strict=True)]
    files = {"metadata.tsv": "\n".join(lines) + "\n"}
    sprite = None if image_shape is None else sprite_sheet(image.reshape(-1, *image_shape))
    picture, drawn = "", io.BytesIO()
    if sprite is not None and image_shape is not None:
        from PIL import Image

        Image.fromarray(sprite).save(drawn, "png")
        sizes = f"single_image_dim: {image_shape[1]}\n    single_image_dim: {image_shape[0]}"
        picture = f'  sprite {{\n    image_path: "sprite.png"\n    {sizes}\n  }}\n'
    config = []
    for name, file in (("z_geo", "vectors.tsv"), ("router", "router.tsv")):
        files[file] = "".join("\t".join(map(_cell, row)) + "\n" for row in columns[name])
        paths = f'  tensor_name: "{name}"\n  tensor_path: "{file}"\n  metadata_path: "metadata.tsv"\n'
        config.append(f"embeddings {{\n{paths}{picture}}}\n")
    files["projector_config.pbtxt"] = "".join(config)
    sprites = {"sprite.png": drawn.getvalue()} if picture else {}
    write_all(folder, sprites | {name: text.encode() for name, text in files.items()})


def sprite_sheet(images: np.ndarray) -> np.ndarray | None:
    """Images row by row in a square grid, as many rows as columns, blank at the end; None where it would be too large.

    Args:
      images: [n, H, W, C] in [0, 1], one channel or three.

    Returns:
      [S H, S W, 3] uint8 with S = ⌈√n⌉.
    """
    n, height, width, channels = images.shape
    side = int(np.ceil(np.sqrt(n)))
    if side * max(height, width) > SPRITE_LIMIT:
        return None
    pixels = np.zeros((side * side, height, width, 3), np.uint8)
    pixels[:n] = np.round(255 * np.clip(images if channels == 3 else np.repeat(images, 3, axis=3), 0.0, 1.0))
    return pixels.reshape(side, side, height, width, 3).swapaxes(1, 2).reshape(side * height, side * width, 3)


def _cell(value: np.generic) -> str:
    return str(value.item() if value.dtype.kind in "iub" else value)
