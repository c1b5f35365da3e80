"""Rows of a run as Parquet, in the convention of embedding-atlas (extra `parquet`).

x, y where a point is drawn; neighbors {ids, distances} of it; image {bytes, path} where examples are images; then every
number, one column each. `embedding-atlas rows.parquet --x x --y y --neighbors neighbors --image image` opens it.
"""

import io
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from topojax.analysis.surroundings import nearest, plane
from topojax.errors import needing
from topojax.scoring.run import Run


def write(path: pathlib.Path, columns: Mapping[str, np.ndarray], run: Run, rows: np.ndarray, about: dict) -> None:
    """Write the file.

    Args:
      path: of it.
      columns: of `export.rows`; [n, D] is one column a number, as z_geo_0 … z_geo_{D−1}.
      run: restored.
      rows: [n, X] in [0, 1].
      about: kept in the schema's metadata.
    """
    arrow, parquet = pyarrow()
    at, (ids, distances) = plane(columns["z_geo"]), nearest(columns["z_geo"])
    found: dict[str, Any] = {"x": at[:, 0], "y": at[:, 1]}
    for name, value in columns.items():
        found |= {name: value} if value.ndim == 1 else {f"{name}_{i}": value[:, i] for i in range(value.shape[1])}
    lists = {"ids": ids.tolist(), "distances": distances.tolist()}
    kind = arrow.struct([("ids", arrow.list_(arrow.int64())), ("distances", arrow.list_(arrow.float32()))])
    each = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    found["neighbors"] = arrow.array(each, kind)
    if run.image_shape is not None:
        kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
        found["image"] = arrow.array([{"bytes": data, "path": None} for data in pngs(run.units.images(rows))], kind)
    parquet.write_table(arrow.table(found).replace_schema_metadata(about), path)


def pngs(images: np.ndarray) -> list[bytes]:
    """Each of [n, H, W, C] bytes, grey or RGB, as a PNG."""
    from PIL import Image

    out = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
        out.append(file.getvalue())
    return out


def pyarrow() -> tuple[Any, Any]:
    """(pyarrow, pyarrow.parquet).

    Raises:
      UserError: the extra is missing.
    """
    with needing("parquet", "--out=….parquet"):
        import pyarrow
        import pyarrow.parquet
    return pyarrow, pyarrow.parquet
