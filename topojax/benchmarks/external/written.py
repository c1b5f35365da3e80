"""docs/external.md: tables between markers, from the records that lie in docs/external/ as JSON lines.

`<!-- external:PART -->` … `<!-- /external -->`; what stands between is replaced by the part's table.
"""

import importlib
import json
import pathlib
import re

from topojax.benchmarks.external.jobs import Records
from topojax.errors import UserError

PAGE, FOLDER = pathlib.Path("docs/external.md"), pathlib.Path("docs/external")
_MARKED = re.compile(r"(<!-- external:(\w+) -->\n)(.*?)(<!-- /external -->)", re.S)


def records(path: pathlib.Path) -> Records:
    """The records of a file, by key; of equal keys the last."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {line["key"]: line for line in lines}


def written(root: pathlib.Path) -> str:
    """The page as the records have it.

    Raises:
      UserError: the page asks for a part that has no records.
    """
    from topojax.benchmarks.external.__main__ import PARTS

    def block(match: re.Match[str]) -> str:
        name = match[2]
        file = root / FOLDER / f"{name}.jsonl"
        if name not in PARTS or not file.exists():
            raise UserError(f"{PAGE} asks for {name!r}: there is no {FOLDER / f'{name}.jsonl'}")
        part = importlib.import_module(f"topojax.benchmarks.external.{name}")
        return f"{match[1]}{part.markdown(records(file))}\n{match[4]}"

    return _MARKED.sub(block, (root / PAGE).read_text(encoding="utf-8"))


def write(root: pathlib.Path) -> None:
    """Write the page anew."""
    (root / PAGE).write_text(written(root), encoding="utf-8")
