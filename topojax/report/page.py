"""One HTML file with everything inside: text, figures, pictures, and plotly's script."""

import base64
import dataclasses
import hashlib
import html
import re
from collections.abc import Sequence

from topojax.report.block import Block, Figure, Markup, Note, Picture, Table
from topojax.report.still import PNG_DPI
from topojax.report.style import FONT, GRID, INK, QUIET

STYLE = f"""
:root {{ color-scheme: light; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: white; color: {INK}; font: 15px/1.6 {FONT}; }}
main {{ max-width: 1080px; margin: 0 auto; padding: 40px 24px 96px; }}
h1 {{ font-size: 30px; line-height: 1.2; letter-spacing: -0.01em; margin: 0 0 4px; }}
h2 {{ font-size: 20px; margin: 64px 0 4px; padding-top: 20px; border-top: 1px solid {GRID}; }}
p.lead {{ color: {QUIET}; margin: 0; max-width: 76ch; }}
nav {{ margin: 20px 0 0; font-size: 14px; display: flex; flex-wrap: wrap; gap: 2px 18px; }}
nav a, footer a {{ color: #1f5fa8; text-decoration: none; }} nav a:hover {{ text-decoration: underline; }}
figure {{ margin: 28px 0 0; }}
figure img {{ max-width: 100%; height: auto; display: block; margin: 0 auto; }}
.plot, .picture {{ overflow-x: auto; }}
#table-headline {{ font-size: 15px; }}
figcaption, caption {{ color: {INK}; font-size: 13.5px; line-height: 1.5; max-width: 92ch; text-align: left; }}
figcaption {{ margin: 6px 0 0; }}
caption {{ caption-side: top; padding: 0 0 8px; }}
.wide {{ overflow-x: auto; margin-top: 28px; }}
table {{ border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: 4px 20px 4px 0; vertical-align: top; border-bottom: 1px solid {GRID}; }}
thead th {{ border-bottom: 1.5px solid {INK}; font-weight: 600; white-space: nowrap; }}
tbody th {{ font-weight: 500; white-space: nowrap; }}
.note {{ margin: 24px 0 0; padding: 10px 14px; background: #f6f7f9; border-left: 3px solid {QUIET}; max-width: 92ch; }}
@media (max-width: 700px) {{
  main {{ padding: 20px 12px 64px; }}
  h1 {{ font-size: 24px; }}
  nav {{ flex-wrap: nowrap; overflow-x: auto; white-space: nowrap; padding-bottom: 6px; }}
  .plot > div {{ min-width: 720px; }} /* panels side by side keep their legends; the figure scrolls, not the page */
  #figure-atlas .plot > div {{ min-width: 0; }}
  .picture img {{ max-width: none; width: max(100%, var(--natural)); }} /* tiles stay as large as on a wide screen */
  th, td {{ padding-right: 12px; }}
}}
@media print {{ nav {{ display: none; }} figure, table {{ break-inside: avoid; }} h2 {{ break-after: avoid; }} }}
"""


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what stands below it.

    Attributes:
      anchor: of the link to it.
      title: of the heading.
      lead: one sentence below it.
      blocks: what follows.
    """

    anchor: str
    title: str
    lead: str
    blocks: Sequence[Block]


def render(title: str, lead: str, sections: Sequence[Section], *, style: str = "", colophon: str = "") -> str:
    """The page as HTML that reads nothing from outside itself.

    Args:
      title: of the page.
      lead: below it.
      sections: in order; figures and pictures are numbered through.
      style: CSS beyond the page's own.
      colophon: the last line.
    """
    from plotly.offline import get_plotlyjs

    count = _Counter()
    body = [
        f'<section id="{s.anchor}"><h2>{html.escape(s.title)}</h2><p class="lead">{html.escape(s.lead)}</p>'
        + "".join(_block(block, count) for block in s.blocks)
        + "</section>"
        for s in sections
    ]
    links = "".join(f'<a href="#{s.anchor}">{html.escape(s.title)}</a>' for s in sections)
    policy = _policy(get_plotlyjs(), "".join(body))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{html.escape(title)}</title><style>{STYLE}{style}</style>'
        f"<script>{get_plotlyjs()}</script></head>\n"
        f'<body><main><header><h1>{html.escape(title)}</h1><p class="lead">{html.escape(lead)}</p><nav>{links}</nav>'
        f'</header>\n{"".join(body)}<footer><p class="lead">{html.escape(colophon)}</p></footer></main></body></html>\n'
    )


_SCRIPT = re.compile(r"<script[^>]*>(.*?)</script>", re.S)
_HANDLER = re.compile(r'\son[a-z]+="([^"]*)"')


def _policy(library: str, body: str) -> str:
    """The page runs its own scripts and handlers, each by its digest, and loads and sends nothing.

    'unsafe-eval' is for plotly's WebGL, which makes functions of its shaders; styles are plotly's own.
    """
    handlers = map(html.unescape, _HANDLER.findall(_SCRIPT.sub("", body)))
    scripts = [library, *_SCRIPT.findall(body), *handlers]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts if script]
    allowed = " ".join(f"'sha256-{digest}'" for digest in dict.fromkeys(digests))
    return (
        f"default-src 'none'; script-src 'unsafe-eval' 'unsafe-hashes' {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'"
    )


@dataclasses.dataclass
class _Counter:
    figures: int = 0
    tables: int = 0


def _block(block: Block, count: _Counter) -> str:
    if isinstance(block, Note):
        return f'<p class="note">{html.escape(block.text)}</p>'
    if isinstance(block, Table):
        count.tables += 1
        return _table(block, count.tables)
    count.figures += 1
    if isinstance(block, Markup):
        inner = block.html
    else:
        inner = f'<div class="plot">{_plot(block)}</div>' if isinstance(block, Figure) else _picture(block)
    caption = f"<b>Figure {count.figures}.</b> {html.escape(block.caption)}"
    return f'<figure id="figure-{block.name}">{inner}<figcaption>{caption}</figcaption></figure>'


def _picture(block: Picture) -> str:
    """An image whose width in the page's column, in CSS pixels, narrow screens keep and scroll."""
    inches = int.from_bytes(block.png[16:20], "big") / PNG_DPI  # the width that the PNG's header states
    style = f"--natural:{round(96 * inches)}px"
    return f'<div class="picture"><img style="{style}" alt="{html.escape(block.caption)}" src="{uri(block.png)}"></div>'


def _plot(block: Figure) -> str:
    save = {"format": "svg", "filename": block.name}  # the camera button gives what a paper can print
    config = {"responsive": True, "displaylogo": False, "toImageButtonOptions": save, "scrollZoom": bool(block.script)}
    plot = block.plot.to_html(
        full_html=False,
        include_plotlyjs=False,
        include_mathjax=False,
        div_id=f"plot-{block.name}",
        config=config,
        post_script=block.script or None,
    )
    return plot + block.extra


def _table(table: Table, number: int) -> str:
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in table.head)
    rows = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(c)}</td>" for c in row[1:])
        + "</tr>"
        for row in table.rows
    )
    caption = f"<caption><b>Table {number}.</b> {html.escape(table.caption)}</caption>"
    return (
        f'<div class="wide"><table id="table-{table.name}">{caption}<thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def uri(data: bytes, kind: str = "png") -> str:
    """Bytes of an image as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def pictures(sections: Sequence[Section]) -> dict[str, bytes]:
    """File name → PNG of every figure and picture of the page, drawn by matplotlib."""
    from topojax.report.still import draw, png

    blocks = [block for section in sections for block in section.blocks]
    found = {f"{b.name}.png": png(draw(b.plot)) for b in blocks if isinstance(b, Figure)}
    for block in blocks:
        found |= block.pngs if isinstance(block, Markup) else {}
    return found | {f"{b.name}.png": b.png for b in blocks if isinstance(b, Picture)}
