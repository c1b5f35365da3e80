"""`.h5ad` (extra `anndata`): the matrix X, a column of `obs` for labels."""

import math
import pathlib

import numpy as np

from topojax.data.raw import NO_LABEL, Options, Raw, Split
from topojax.data.readers.tabular import label_of
from topojax.data.unfolding import require_unfolded
from topojax.errors import UserError, needing

KIND = "a file of anndata"
_CLUSTERS = ("cell_type", "celltype", "cell_types", "leiden", "louvain")


def read(path: pathlib.Path, options: Options) -> Raw:
    """Every observation; `config.data.columns` names variables."""
    with needing("anndata", "reading .h5ad"):
        import anndata
    _require_held(path)
    data = anndata.read_h5ad(path)
    if data.X is None:
        raise UserError(f"{path}: has no matrix X")
    names = [str(name) for name in data.var_names]
    name = label_of(list(data.obs.columns), options, str(path))
    if name is None and options.label != NO_LABEL:
        by_name = {column.lower(): column for column in data.obs.columns}
        name = next((by_name[each] for each in _CLUSTERS if each in by_name), None)
    index = list(range(len(names)))
    if options.columns is not None:
        missing = [column for column in options.columns if column not in names]
        if missing:
            raise UserError(f"{path}: config.data.columns names {missing[0]!r}, which is no variable of it")
        index = [names.index(column) for column in options.columns]
    matrix = data.X[:, index]
    matrix = np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix)
    label = None if name is None else np.asarray(data.obs[name].astype(object))
    told = (f"labels are obs[{name!r}]; config.data.label names another, or none",)
    notes = told if name is not None and options.label is None else ()
    columns = {names[i]: matrix[:, at] for at, i in enumerate(index)}
    if len(columns) != len(index):
        raise UserError(f"{path}: two variables have one name: make var_names unique")
    return Raw(Split(columns, label), None, "a file of anndata", notes=notes)


def _require_held(path: pathlib.Path) -> None:
    """Refuse arrays far larger than the file: HDF5 keeps a shape without numbers, and a sparse matrix is filled.

    Raises:
      UserError: with the bytes that they would take.
    """
    import h5py

    total = 0

    def add(_: str, node: "h5py.HLObject") -> None:
        nonlocal total
        if isinstance(node, h5py.Dataset):
            total += math.prod(node.shape or ()) * node.dtype.itemsize
        elif "shape" in node.attrs:  # of a sparse matrix
            total += 4 * math.prod(int(size) for size in node.attrs["shape"])

    with h5py.File(path, "r") as file:
        file.visititems(add)
    require_unfolded(path, path.stat().st_size, total)
