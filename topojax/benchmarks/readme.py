"""The figures of README.md and docs/: trained by the ordinary command, written between the pages' markers.

  python -m topojax.benchmarks.readme --workdir=runs/readme [--jobs=2] [--only=digits,mnist] [--slow]
  python -m topojax.benchmarks.readme --check      do the pages say what docs/figures.json holds? trains nothing
  python -m topojax.benchmarks.readme --pages      write the pages from it once more; trains nothing

`SETS` is what is run: every seed in a process of its own, in WORKDIR/SET/seedS. A run that is finished there is read,
one that was stopped goes on; after a change of the code without a new version, name another --workdir. A set whose
seeds are all done takes the place of the one in docs/figures.json, whole, and the pages are written again: an
interruption loses nothing. Run it in the root of the repository.
"""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from topojax.benchmarks import figures
from topojax.commands import Parser
from topojax.errors import UserError, exit_status


class Runs(NamedTuple):
    """Runs that differ by their seed alone.

    Attributes:
      words: what the tables call them.
      config: value of --config.
      seeds: of the runs.
      fields: fields of the configuration that are set beside the seed.
      slow: only with --slow: hours.
    """

    words: str
    config: str
    seeds: Sequence[int]
    fields: Mapping[str, Any] = {}
    slow: bool = False


BESIDE = {"baselines.autoencoder": True, "baselines.vq": True}
"""They move no number of the atlas."""
SETS: dict[str, Runs] = {
    "digits": Runs("digits", "configs/digits.py", range(5)),
    "digits_unsupervised": Runs("digits `:unsupervised`", "configs/digits.py:unsupervised", range(5)),
    "mnist": Runs("MNIST, 3,000 images", "configs/mnist.py", range(5), BESIDE),
    "mnist_full": Runs("MNIST `:full`", "configs/mnist.py:full", range(5), slow=True),
    "mnist_unsupervised": Runs("MNIST `:unsupervised`", "configs/mnist.py:unsupervised", range(5), slow=True),
}


def run(sets: Mapping[str, Runs], workdir: pathlib.Path, root: pathlib.Path, *, jobs: int = 1) -> None:
    """Train what is not finished, set by set, and write docs/figures.json and the pages after each.

    Args:
      sets: name → runs; what docs/figures.json has of others stays.
      workdir: where runs live.
      root: of the repository whose pages are written.
      jobs: how many runs at once.

    Raises:
      UserError: a run that failed, with its own last line; or a folder that holds another run.
    """
    from topojax.storage.logs import write_json

    found = figures.read(root)  # before hours are spent
    figures.pages(root, found)
    for name, runs in sets.items():
        folders = {seed: workdir / name / f"seed{seed}" for seed in runs.seeds}
        _train_all(runs, folders, jobs)
        results = {seed: _json(folder / "result.json") for seed, folder in folders.items()}
        machines = [_json(_beside(folder)) if _beside(folder).exists() else {} for folder in folders.values()]
        found[name] = {"words": runs.words, "config": runs.config} | figures.entry(results, machines)
        ordered = {key: found[key] for key in (*SETS, *found) if key in found}
        write_json(root / figures.FILE, ordered)
        write_pages(root)


def write_pages(root: pathlib.Path) -> None:
    """Put the tables of docs/figures.json into the pages."""
    from topojax.storage.logs import write_text

    for path, (there, wanted) in figures.pages(root, figures.read(root)).items():
        if there != wanted:
            write_text(path, wanted)
            print(path)


def _train(runs: Runs, seed: int, folder: pathlib.Path, jobs: int) -> None:
    """One run, unless it is finished."""
    from topojax.config.command_line import load
    from topojax.storage import workdir as workdirs
    from topojax.storage.logs import write_json

    fields = {"seed": seed, **runs.fields}
    config = load(runs.config)
    config.update_from_flattened_dict(fields)
    if (folder / "result.json").exists() and workdirs.finished(folder, config.train.epochs):
        workdirs.same_config(folder, config)
        print(f"{folder} is finished")
        return
    command = [sys.executable, "-m", "topojax.train", f"--config={runs.config}", f"--workdir={folder}"]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    print(" ".join(command[1:]))
    ended = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace")
    if ended.returncode:
        last = (ended.stderr.strip() or ended.stdout.strip() or "it said nothing").splitlines()[-1]
        raise UserError(f"{folder}: training ended with status {ended.returncode}: {last}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    write_json(_beside(folder), {"cores": cores, "at_once": jobs})


def _train_all(runs: Runs, folders: Mapping[int, pathlib.Path], jobs: int) -> None:
    """`_train` for every seed, `jobs` at once; once one has failed, no other is begun."""
    with futures.ThreadPoolExecutor(jobs) as pool:
        begun = [pool.submit(_train, runs, seed, folder, jobs) for seed, folder in folders.items()]
        try:
            for one in futures.as_completed(begun):
                one.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _beside(folder: pathlib.Path) -> pathlib.Path:
    return folder.with_name(f"{folder.name}.machine.json")


def _json(path: pathlib.Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 on a UserError."""
    return exit_status(lambda: _carry_out(argv))


def _carry_out(argv: Sequence[str] | None) -> None:
    parser = Parser(
        prog="python -m topojax.benchmarks.readme", description="Measure and write the figures of README.md and docs/."
    )
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/readme"), help="where runs live")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once (default: 1)")
    parser.add_argument("--only", help=f"sets, separated by commas: {', '.join(SETS)}")
    parser.add_argument("--slow", action="store_true", help="also the sets that take hours")
    doing = parser.add_mutually_exclusive_group()
    doing.add_argument("--check", action="store_true", help="only compare the pages with docs/figures.json")
    doing.add_argument("--pages", action="store_true", help="only write the pages from docs/figures.json")
    arguments = parser.parse_args(argv)
    root = pathlib.Path()
    if arguments.check:
        figures.check(root)
    elif arguments.pages:
        write_pages(root)
    else:
        run(_chosen(arguments.only, arguments.slow), arguments.workdir, root, jobs=_positive(arguments.jobs))


def _chosen(only: str | None, slow: bool) -> dict[str, Runs]:
    """What --only names, slow or not; otherwise all, the slow ones where asked."""
    if only is None:
        return {name: runs for name, runs in SETS.items() if slow or not runs.slow}
    names = only.split(",")
    if unknown := [name for name in names if name not in SETS]:
        raise UserError(f"--only={only}: no set is called {unknown[0]!r}; there are {', '.join(SETS)}")
    return {name: SETS[name] for name in names}


def _positive(jobs: int) -> int:
    if jobs < 1:
        raise UserError(f"--jobs={jobs}: must be at least 1")
    return jobs


if __name__ == "__main__":
    sys.exit(main())
