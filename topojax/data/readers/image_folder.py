"""A folder of images, also zipped: sub-folders are classes, or train and test with classes in them; flat: no labels."""

import contextlib
import io
import pathlib
import warnings
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from topojax.data.raw import NO_LABEL, Options, Raw, Split
from topojax.data.readers.on_disk import walked
from topojax.data.unfolding import require_unfolded
from topojax.errors import UserError

KIND = "images"
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "val": "test", "valid": "test"}
_LARGEST = 2**31
"""Numbers in all images together: 8 GiB of float32."""
_CHANNELS = 4
"""Bytes a pixel takes while it is decoded, at most but for rare depths."""


class _File(NamedTuple):
    parts: tuple[str, ...]  # below the folder
    open: Callable[[], bytes]


def knows(folder: pathlib.Path) -> bool:
    """Whether there is an image in it."""
    return next(walked(folder, ENDINGS), None) is not None


def read(path: pathlib.Path, options: Options) -> Raw:
    """Every image below it, in the order of names."""
    if path.is_dir():
        files = [_File(file.relative_to(path).parts, file.read_bytes) for file in sorted(walked(path, ENDINGS))]
        return _read(path, files, options)
    with zipfile.ZipFile(path) as archive:
        require_unfolded(path, path.stat().st_size, sum(info.file_size for info in archive.infolist()))
        return _read(path, _zipped(path, archive), options)


def _zipped(path: pathlib.Path, archive: zipfile.ZipFile) -> list[_File]:
    files = []
    for info in sorted(archive.infolist(), key=lambda info: info.filename):
        parts = pathlib.PurePosixPath(info.filename.replace("\\", "/")).parts
        if ".." in parts or parts[:1] == ("/",):
            raise UserError(f"{path}: holds {info.filename!r}, a path out of the archive: refused")
        if (
            not info.is_dir()
            and pathlib.PurePosixPath(info.filename).suffix.lower() in ENDINGS
            and "__MACOSX" not in parts
        ):
            files.append(_File(parts, lambda info=info: archive.read(info)))  # type: ignore[misc]
    while files and len({file.parts[0] for file in files}) == 1 and all(len(file.parts) > 2 for file in files):
        files = [file._replace(parts=file.parts[1:]) for file in files]  # one folder about everything
    if not files:
        raise UserError(f"{path}: no images in it")
    return files


def _read(path: pathlib.Path, files: list[_File], options: Options) -> Raw:
    heads = {file.parts[0].lower() for file in files if len(file.parts) > 1}
    official = bool(heads) and heads <= _SPLITS.keys() and "train" in {_SPLITS[head] for head in heads}
    split_of = [_SPLITS[file.parts[0].lower()] if official and len(file.parts) > 1 else "train" for file in files]
    below = [file.parts[1:] if official and len(file.parts) > 1 else file.parts for file in files]
    labelled = options.label != NO_LABEL and any(len(parts) > 1 for parts in below)
    images = _decoded(path, files, options)
    label = np.array([parts[0] if len(parts) > 1 else None for parts in below], object) if labelled else None

    def split(name: str) -> Split | None:
        index = np.array([i for i, of in enumerate(split_of) if of == name], int)
        return Split(images[index], None if label is None else label[index]) if len(index) else None

    train = split("train")
    assert train is not None
    return Raw(train, split("test"), "a folder of images", pictures=True)


def _decoded(path: pathlib.Path, files: list[_File], options: Options) -> np.ndarray:
    """[n, H, W, C] uint8: grey where all are, else RGB; over white where something is transparent."""
    colour, pictures = False, list[np.ndarray]()
    for file in files:
        name = "/".join(file.parts)
        pixels = decode(file.open(), f"{path}/{name}", options.resize)
        if pictures and pixels.shape[:2] != pictures[0].shape[:2]:
            (h, w), (a, b) = pictures[0].shape[:2], pixels.shape[:2]
            raise UserError(
                f"{path}: images differ in size: {'/'.join(files[0].parts)} is {h}×{w}, {name} is {a}×{b}; "
                f"--config.data.resize={h}x{w} brings all to one"
            )
        if pixels.size * len(files) > _LARGEST:
            raise UserError(f"{path}: {len(files)} images of {pixels.size} numbers do not fit: use config.data.resize")
        colour |= pixels.ndim == 3
        pictures.append(pixels)
    if colour:
        return np.stack([p if p.ndim == 3 else np.repeat(p[..., None], 3, axis=-1) for p in pictures])
    return np.stack(pictures)[..., None]


def decode(data: bytes, where: str, resize: tuple[int, int] | None = None, *, strict: bool = True) -> np.ndarray:
    """One image: [H, W] if it is grey, else [H, W, 3]; uint8.

    Args:
      data: of the file.
      where: what the message calls it.
      resize: (height, width) that it is brought to.
      strict: whether what the decoder warns of is an error; not in threads, since filters are of the whole process.

    Raises:
      UserError: no image, or a damaged one.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise UserError(f"{where}: the file is empty: mend it, or take it out")
    try:
        with warnings.catch_warnings() if strict else contextlib.nullcontext():
            if strict:
                warnings.simplefilter("error")
            with Image.open(io.BytesIO(data)) as image:
                require_unfolded(where, len(data), image.width * image.height * _CHANNELS)
                image.load()
                return _pixels(image, resize)
    except UserError:
        raise
    except UnidentifiedImageError as error:  # says no more than that, and how the bytes lie in memory
        raise UserError(f"{where}: not an image that can be read: mend it, or take it out") from error
    except Exception as error:  # each format has its own
        cause = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{where}: not an image that can be read ({cause}): mend it, or take it out") from error


def _pixels(image: "object", resize: tuple[int, int] | None) -> np.ndarray:
    from PIL import Image

    assert isinstance(image, Image.Image)
    found: Image.Image = image
    if found.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        values = np.asarray(found, np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        found = Image.fromarray(np.round(255 * np.clip(values / top, 0, 1)).astype(np.uint8))
    if "transparency" in found.info or found.mode in ("RGBA", "LA", "PA"):
        found = found.convert("RGBA")
        found = Image.alpha_composite(Image.new("RGBA", found.size, (255, 255, 255, 255)), found).convert("RGB")
    elif found.mode not in ("L", "RGB"):
        found = found.convert("L" if found.mode == "1" else "RGB")
    if resize is not None and found.size != (resize[1], resize[0]):
        found = found.resize((resize[1], resize[0]), Image.Resampling.BILINEAR)
    return np.array(found, np.uint8)
