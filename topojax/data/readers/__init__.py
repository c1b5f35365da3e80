"""Files of a person's own data: one small reader for each kind, in a table, imported when it is asked for."""

import importlib
import pathlib
from typing import Any

from topojax.data.raw import Options, Raw
from topojax.data.readers.on_disk import damaged, exists, require_regular, unreadable
from topojax.errors import UserError

SUFFIXES = {
    ".npz": ("numpy_files", "NumPy's archives"),
    ".npy": ("numpy_files", "NumPy's arrays"),
    ".csv": ("tabular", "comma-separated values"),
    ".tsv": ("tabular", "tab-separated values"),
    ".jsonl": ("tabular", "one JSON object a line"),
    ".parquet": ("parquet", "Parquet"),
    ".h5ad": ("h5ad", "annotated matrices of anndata"),
    ".zip": ("image_folder", "a folder of images, zipped"),
}
"""Ending of a file → its reader in this package, and what it reads."""
FOLDERS = ("idx", "hub", "numpy_files", "parquet", "image_folder")
"""Readers of folders, each asked in turn whether it is one of its own."""


def read(path: pathlib.Path, options: Options) -> Raw:
    """Read a file or a folder.

    Args:
      path: of it.
      options: of `config.data`.

    Raises:
      UserError: nothing there, nothing that any reader knows, or another kind than its name says.
    """
    if not exists(path):
        raise UserError(f"config.data.name = {str(path)!r}: there is no such file or folder")
    kind = "data"
    try:
        module = _reader(path)
        kind = module.KIND
        return module.read(path, options)
    except UserError:
        raise
    except ImportError:
        raise
    except (Exception, RecursionError) as error:  # a damaged file raises whatever its parser comes across
        if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.filename is not None):
            raise unreadable(path, error) from error
        raise damaged(path, kind, error) from error


def _reader(path: pathlib.Path) -> Any:
    if path.is_dir():
        for name in FOLDERS:
            module = importlib.import_module(f"{__name__}.{name}")
            if module.knows(path):
                return module
        raise UserError(
            f"{path}: no images, no IDX files, no arrays, no Parquet files and no Hugging Face data set in this folder"
        )
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(
            f"{path}: no reader for {suffix or 'a name without ending'!r}: {', '.join(SUFFIXES)}, or a folder"
        )
    require_regular(path)
    if not path.stat().st_size:
        raise UserError(f"{path}: the file is empty")
    return importlib.import_module(f"{__name__}.{SUFFIXES[suffix][0]}")
