"""What a section is made of: figures, pictures, tables and sentences."""

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Figure:
    """An interactive figure.

    Attributes:
      name: of its element in the page and of its PNG.
      plot: of plotly.
      caption: what it shows; plain text.
      script: JavaScript run after the plot stands, `{plot_id}` its element.
      extra: HTML after the plot.
    """

    name: str
    plot: Any
    caption: str
    script: str = ""
    extra: str = ""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A still picture.

    Attributes:
      name: of its element in the page and of its PNG.
      png: its bytes.
      caption: what it shows; plain text.
    """

    name: str
    png: bytes
    caption: str


@dataclasses.dataclass(frozen=True)
class Markup:
    """Something drawn in HTML alone.

    Attributes:
      name: of its element in the page.
      html: what stands there, escaped.
      caption: what it shows; plain text.
      pngs: file name → picture that lies beside the page.
    """

    name: str
    html: str
    caption: str
    pngs: dict[str, bytes]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text; the first cell of a row is its head.

    Attributes:
      name: of its element in the page.
      head: names of the columns.
      rows: cells.
      caption: what it shows; plain text.
    """

    name: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Note:
    """A sentence where something is missing or needs saying."""

    text: str


Block = Figure | Picture | Markup | Table | Note
