"""A data set of Hugging Face on disk, as `datasets` saves it (extra `datasets`)."""

import io
import pathlib
from typing import Any

import numpy as np

from topojax.data.raw import NO_LABEL, Options, Raw, Split
from topojax.data.readers.arrow_cells import stacked
from topojax.data.readers.image_folder import decode
from topojax.data.readers.tabular import divided, label_of, typed
from topojax.errors import UserError, needing

KIND = "a data set of Hugging Face"
_TEST = ("test", "validation")


def knows(folder: pathlib.Path) -> bool:
    """Whether `datasets` has saved it."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "dataset_info.json").is_file() and (folder / "state.json").is_file()
    )


def read(folder: pathlib.Path, options: Options) -> Raw:
    """Its split `train`, and `test` or `validation` where there is one."""
    with needing("datasets", "reading a data set of Hugging Face"):
        import datasets
    found = datasets.load_from_disk(str(folder))
    splits = dict(found) if isinstance(found, datasets.DatasetDict) else {"train": found}
    if "train" not in splits:
        raise UserError(f"{folder}: no split 'train'; there are {', '.join(splits) or 'none'}")
    train = _read(splits["train"], options, str(folder))
    test = next((_read(splits[name], options, str(folder)).train for name in _TEST if name in splits), None)
    name = label_of(splits["train"].column_names, options, str(folder))
    feature = splits["train"].features.get(name) if name is not None else None
    return train._replace(test=test, names=tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None)


def _read(split: Any, options: Options, where: str) -> Raw:
    import datasets

    images = [name for name, feature in split.features.items() if isinstance(feature, datasets.Image)]
    if images and options.columns is None:
        name = label_of(split.column_names, options, where) if options.label != NO_LABEL else None
        split = split.cast_column(images[0], datasets.Image(decode=False))
        pixels = stacked([_decoded(cell, where, options) for cell in split[images[0]]], where)
        label = None if name is None else np.array(split[name])
        return Raw(Split(pixels, label), None, KIND, pictures=True)
    columns = {name: _column(list(split[name]), f"{where}: {name!r}") for name in split.column_names}
    return divided(columns, options, where, KIND)


def _column(cells: list[Any], where: str) -> np.ndarray:
    if any(isinstance(cell, list | tuple) for cell in cells):
        try:
            return np.array(cells, np.float64)
        except (TypeError, ValueError) as error:
            raise UserError(f"{where} holds lists that are no numbers of one shape") from error
    return typed(cells)


def _decoded(cell: Any, where: str, options: Options) -> np.ndarray:
    data = cell["bytes"] if cell["bytes"] is not None else pathlib.Path(cell["path"]).read_bytes()
    return decode(io.BytesIO(data).getvalue(), where, options.resize)
