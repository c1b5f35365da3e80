"""The site: pages, notebooks as executed, the API reference from docstrings.

  python docs/build.py site                  then open site/index.html
  python docs/build.py site --no-execute     notebooks without outputs; nothing is trained

Wants the extra `docs`. A relative link to a file or a heading that is not there is an error, and nothing is written.
"""

import argparse
import html
import importlib
import itertools
import pathlib
import pkgutil
import posixpath
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from topojax.errors import UserError, exit_status

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md", "colab/*.md", "colab/*.ipynb")
FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }}
table {{ display: block; overflow-x: auto; border-collapse: collapse; }}
th, td {{ border: 1px solid #ccc; padding: 0.2rem 0.6rem; text-align: left; }}
pre {{ overflow-x: auto; padding: 0.6rem; background: #f4f4f4; }} img {{ max-width: 100%; }}
</style></head><body>
<nav><a href="{up}index.html">topojax</a> · <a href="{up}docs/results.html">results</a> ·
<a href="{up}docs/commands.html">commands</a> · <a href="{up}docs/config.html">configuration</a> ·
<a href="{up}docs/control-in-your-own-loop.html">control</a> ·
<a href="{up}colab/index.html">notebooks</a> · <a href="{up}api/topojax.html">API</a></nav>
{body}</body></html>
"""


class Page(NamedTuple):
    """A page, parsed.

    Attributes:
      at: its path on the site, with slashes.
      tokens: of markdown-it; headings have ids.
      anchors: ids of its headings.
    """

    at: str
    tokens: list[Any]
    anchors: set[str]


def build(folder: pathlib.Path, root: pathlib.Path = ROOT, *, execute: bool = True) -> None:
    """Write the site of the pages and notebooks under `root`, and of the package that is imported.

    Raises:
      UserError: the extra is not installed, or links are broken; it names them all.
    """
    for name in ("markdown_it", "pdoc", "nbformat", "nbclient"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"{name} is not installed: pip install 'topojax[docs]'") from error
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark").enable("table")
    found = sorted({path.relative_to(root).as_posix() for pattern in SOURCES for path in root.glob(pattern)})
    texts = {source: (root / source).read_text(encoding="utf-8") for source in found if source.endswith(".md")}
    # Links first: they are known in no time, and a notebook takes a minute.
    drafts = texts | {source: notebook(root / source, execute=False) for source in found if source not in texts}
    files = resolve({source: parse(markdown, source, text) for source, text in drafts.items()}, root)
    texts |= {source: notebook(root / source, execute=execute) for source in found if source not in texts}
    done = {source: parse(markdown, source, text) for source, text in texts.items()}
    resolve(done, root)
    for source, page in done.items():
        body = markdown.renderer.render(page.tokens, markdown.options, {})
        title = next((t.content for t in page.tokens if t.type == "inline"), source)
        path = folder / page.at
        path.parent.mkdir(parents=True, exist_ok=True)
        up = "../" * page.at.count("/")
        path.write_text(FRAME.format(title=html.escape(title), up=up, body=body), encoding="utf-8")
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / file, folder / file)
    api(folder / "api")


def parse(markdown: Any, source: str, text: str) -> Page:
    """Markdown as tokens, its headings with the ids that GitHub gives them."""
    tokens = markdown.parse(text)
    anchors: set[str] = set()
    for heading, content in itertools.pairwise(tokens):
        if heading.type == "heading_open":
            words = "".join(child.content for child in content.children)
            slug = name = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            again = 0
            while name in anchors:
                again += 1
                name = f"{slug}-{again}"
            anchors.add(name)
            heading.attrSet("id", name)
    at = re.sub(r"(^|/)README$", r"\1index", source.rpartition(".")[0]) + ".html"
    return Page(at, tokens, anchors)


def resolve(pages: dict[str, Page], root: pathlib.Path) -> set[str]:
    """Point relative links, in place, at where they lead on the site.

    Args:
      pages: by their path below `root`, with slashes.
      root: of the repository.

    Returns:
      Files that are linked and are no pages, below `root`.

    Raises:
      UserError: naming every link that leads nowhere.
    """
    broken, files = [], set()
    for source, page in pages.items():
        for token, attribute in _links(page.tokens):
            link = urlsplit(str(token.attrGet(attribute)))
            if link.scheme or link.netloc:
                continue
            target = posixpath.normpath(posixpath.join(posixpath.dirname(source), unquote(link.path)))
            target = target if link.path else source
            if target in pages:
                if link.fragment and link.fragment not in pages[target].anchors:
                    broken.append(f"{source}: {link.geturl()}")
                way = posixpath.relpath(pages[target].at, posixpath.dirname(page.at) or ".")
                token.attrSet(attribute, way + (f"#{link.fragment}" if link.fragment else ""))
            elif not target.startswith("..") and (root / target).is_file():
                files.add(target)
            else:
                broken.append(f"{source}: {link.geturl()}")
    if broken:
        raise UserError(f"links that lead nowhere: {'; '.join(broken)}")
    return files


def _links(tokens: list[Any]) -> Iterator[tuple[Any, str]]:
    for token in tokens:
        yield from _links(token.children or [])
        if token.type in ("link_open", "image"):
            yield token, "href" if token.type == "link_open" else "src"


def notebook(path: pathlib.Path, *, execute: bool) -> str:
    """A notebook as Markdown; executed in a folder of its own, with its outputs, pictures among them.

    Raises:
      UserError: a cell that fails.
    """
    import nbclient
    import nbformat

    found = nbformat.read(path, as_version=4)
    if execute:
        with tempfile.TemporaryDirectory() as place:
            client = nbclient.NotebookClient(found, timeout=1800, resources={"metadata": {"path": place}})
            try:
                client.execute()
            except nbclient.exceptions.CellExecutionError as error:
                raise UserError(f"{path} fails: {error.ename}: {error.evalue}") from error
    parts = []
    for cell in found.cells:
        parts.append(cell.source if cell.cell_type == "markdown" else _fenced(cell.source, "python"))
        parts += [_shown(output) for output in cell.get("outputs", ())]
    return "\n\n".join(parts)


def _shown(output: Any) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f'<p><img alt="output" src="data:image/png;base64,{"".join(data["image/png"].split())}"></p>'
    return _fenced(output.get("text") or data.get("text/plain", ""), "text")


def _fenced(text: str, language: str) -> str:
    return f"~~~~~~{language}\n{text.rstrip()}\n~~~~~~"


def api(folder: pathlib.Path) -> None:
    """The reference of the package, from its docstrings."""
    import pdoc
    import pdoc.render
    from absl import flags

    import topojax

    for name in topojax.__all__:  # they are imported when first used: pdoc looks without using them
        setattr(topojax, name, getattr(topojax, name))
    inside = list(pkgutil.walk_packages(topojax.__path__, "topojax."))
    for module in inside:
        before = set(flags.FLAGS)
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
        for flag in set(flags.FLAGS) - before:  # several commands have a flag of one name
            delattr(flags.FLAGS, flag)
    packages = ["topojax", *(module.name for module in inside if module.ispkg)]
    for package in map(importlib.import_module, packages):
        if hasattr(package, "__all__"):  # pdoc would leave out modules that are not named there
            modules = [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]
            package.__all__ = list(dict.fromkeys([*package.__all__, *modules]))
    pdoc.render.configure(docformat="google", footer_text=f"topojax {topojax.__version__}")
    pdoc.pdoc("topojax", output_directory=folder)


def main() -> int:
    """Command line; 2 on a UserError."""
    parser = argparse.ArgumentParser(prog="python docs/build.py", description="Build the site.")
    parser.add_argument("folder", type=pathlib.Path, help="where it goes")
    parser.add_argument("--no-execute", action="store_true", help="notebooks without outputs")
    arguments = parser.parse_args()

    def carry_out() -> None:
        build(arguments.folder, execute=not arguments.no_execute)
        print(arguments.folder / "index.html")

    return exit_status(carry_out)


if __name__ == "__main__":
    sys.exit(main())
