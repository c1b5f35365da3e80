"""The tree of charts, codes and data: what a chart holds, code by code, down to the examples."""

import html
import io

import numpy as np

from topojax.report import grids
from topojax.report.block import Block, Markup
from topojax.report.embedding import Embedding
from topojax.report.page import uri

EXAMPLES = 8
"""Most examples shown of a code."""
_CLASSES = 3


def tree(embedding: Embedding) -> list[Block]:
    """Charts by their examples, codes by theirs, and of each code the examples nearest to where it lies."""
    code = np.asarray(embedding.encoding.code)
    offset = np.asarray(embedding.encoding.v) - np.asarray(embedding.encoding.c_bar)
    codebook = np.asarray(embedding.run.weights["encoder"]["codebook"])
    charts, used = [], 0
    for chart in np.argsort(-embedding.population, kind="stable"):
        members = np.flatnonzero(embedding.chart == chart)
        if not len(members):
            continue
        count = np.bincount(code[members], minlength=embedding.codes)
        leaves = []
        for k in np.argsort(-count, kind="stable"):
            its = members[code[members] == k]
            if len(its):
                distance = np.sum((offset[its] - codebook[chart, k]) ** 2, axis=1)
                leaves.append(_leaf(embedding, f"code {k}", its, its[np.argsort(distance)[:EXAMPLES]]))
        used += len(leaves)
        label = _told(embedding, f"chart {chart}", members, f"{len(leaves)} of {embedding.codes} codes")
        charts.append(f"<details><summary>{label}</summary><ul>{''.join(leaves)}</ul></details>")
    idle = embedding.charts - len(charts)
    unused = f", {idle} charts without an example" if idle else ""
    caption = (
        f"The {embedding.evaluation.split} split by chart and code, the fullest first: {len(charts)} charts and {used} "
        f"codes in use{unused}. Of each code up to {EXAMPLES} examples, the nearest to it."
    )
    if embedding.label is not None:
        caption += " Shares are of the most frequent labels."
    return [Markup("tree", "".join(charts), caption, {})]


def _leaf(embedding: Embedding, name: str, members: np.ndarray, nearest: np.ndarray) -> str:
    text = _told(embedding, name, members)
    if embedding.run.image_shape is None:
        rows = ", ".join(str(i) for i in nearest)
        return f"<li>{text}: examples {rows}</li>"
    pictures = grids.visible(embedding.image[nearest], embedding.run.image_shape)[None]
    return f'<li>{text}<br><img alt="examples of {html.escape(name)}" src="{uri(_png(grids.sheet(pictures, 2)))}"></li>'


def _told(embedding: Embedding, name: str, members: np.ndarray, more: str = "") -> str:
    parts = [f"{len(members)} example{'s' if len(members) > 1 else ''}", *([more] if more else [])]
    if embedding.label is not None:
        values, count = np.unique(embedding.label[members], return_counts=True)
        top = np.argsort(-count, kind="stable")[:_CLASSES]
        parts.append("labels " + ", ".join(f"{values[i]}: {count[i] / len(members):.0%}" for i in top))
    return html.escape(f"{name} ({'; '.join(parts)})")


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
