"""Rows of a run as an annotated matrix, `.h5ad` (extra `anndata`): what scanpy expects, where it expects it.

X has the examples in their units; obs one value an example; obsm `X_topojax` (the latent) and `X_router`; obsp
`distances` and `connectivities` of the nearest neighbours in the latent, with uns `neighbors`; uns `topojax` codebook,
centres and configuration of the run.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from topojax.analysis.surroundings import nearest
from topojax.errors import needing
from topojax.scoring.run import Run


def write(path: pathlib.Path, columns: Mapping[str, np.ndarray], run: Run, rows: np.ndarray, about: dict) -> None:
    """Write the file; arguments as of `columnar.write`."""
    anndata, pandas, sparse = _packages()
    n = len(rows)
    obs = pandas.DataFrame(
        {name: value for name, value in columns.items() if value.ndim == 1}, index=[str(i) for i in range(n)]
    )
    for name in ("label", "chart"):
        obs[name] = pandas.Categorical(obs[name])
    inputs = rows if run.units.text else np.asarray(run.units.back(rows)).reshape(n, -1)
    data = anndata.AnnData(np.ascontiguousarray(inputs), obs=obs, var=pandas.DataFrame(index=_names(run)))
    data.obsm["X_topojax"] = np.asarray(columns["z_geo"])
    data.obsm["X_router"] = np.asarray(columns["router"])
    ids, distances = nearest(columns["z_geo"])
    k = ids.shape[1]
    start, flat = np.arange(n + 1) * k, ids.reshape(-1)
    data.obsp["distances"] = sparse.csr_matrix((distances.reshape(-1), flat, start), shape=(n, n))
    near = sparse.csr_matrix((np.ones(n * k, np.float32), flat, start), shape=(n, n))
    data.obsp["connectivities"] = near.maximum(near.T).tocsr()
    data.uns["neighbors"] = {
        "connectivities_key": "connectivities",
        "distances_key": "distances",
        "params": {"n_neighbors": k, "method": "topojax", "metric": "euclidean", "use_rep": "X_topojax"},
    }
    encoder: Any = run.weights["encoder"]
    tables = {name: np.asarray(encoder[name]) for name in ("centers", "codebook")}
    data.uns["topojax"] = {**about, **tables, "config": json.dumps(run.config.to_dict(), sort_keys=True)}
    data.write_h5ad(path)


def check() -> None:
    """Refuse before any work what cannot be written.

    Raises:
      UserError: the extra is missing.
    """
    _packages()


def _packages() -> tuple[Any, Any, Any]:
    with needing("anndata", "--out=….h5ad"):
        import anndata
        import pandas
    from scipy import sparse

    return anndata, pandas, sparse


def _names(run: Run) -> list[str]:
    """Of the variables: those of a table's columns, else numbers."""
    names = [f"{c.name}={level}" if level else c.name for c in run.units.columns for level in c.levels or ("",)]
    return names or [f"x{i}" for i in range(run.input_dim)]
