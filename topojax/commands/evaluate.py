"""Evaluate a run on a split of its data: a table, and everything behind it as JSON.

  topojax evaluate --workdir=runs/digits [--step=50] [--split=train] [--out=FILE]

Writes <workdir>/evaluation.json; of another split or step, evaluation_train.json, evaluation_step50.json.
"""

import pathlib
from collections.abc import Sequence

from topojax.commands import Parser
from topojax.errors import UserError


def main(argv: Sequence[str]) -> None:
    """Command line."""
    parser = Parser("evaluate", description="Evaluate a run on a split of its data.")
    parser.add_argument("--workdir", required=True, help="where the run lives")
    parser.add_argument("--step", type=int, help="which checkpoint, by epoch (default: the latest)")
    parser.add_argument("--split", choices=("train", "test"), default="test", help="default: test")
    parser.add_argument("--data", help="the run's data, where they no longer lie where they did")
    parser.add_argument("--out", type=pathlib.Path, help="the JSON file (default: in the workdir)")
    arguments = parser.parse_args(argv)
    from topojax.scoring.split import evaluate
    from topojax.scoring.told import as_json, text
    from topojax.storage.logs import write_json
    from topojax.storage.runtime import use_compilation_cache
    from topojax.storage.workdir import located, output

    use_compilation_cache()
    workdir = located(arguments.workdir)
    out = None if arguments.out is None else output(arguments.out)  # before the work
    evaluation = evaluate(workdir, step=arguments.step, split=arguments.split, data=arguments.data)
    path = out or _default_path(workdir, arguments.step, arguments.split)
    try:
        write_json(path, as_json(evaluation))
    except OSError as error:
        raise UserError(f"--out={path} cannot be written: {error.strerror}") from error
    print(f"{text(evaluation)}\n\nwritten to {path}")


def _default_path(workdir: pathlib.Path, step: int | None, split: str) -> pathlib.Path:
    parts = ["evaluation", *([split] if split != "test" else []), *([f"step{step}"] if step is not None else [])]
    return workdir / ("_".join(parts) + ".json")
