"""From a workdir to report/index.html, or comparison/index.html, and its PNGs."""

import contextlib
import pathlib
from collections.abc import Sequence
from typing import Any

from topojax.errors import UserError, needing, tell
from topojax.report.embedding import Embedding
from topojax.report.history import read
from topojax.storage.workdir import located, members, read_result, require_single
from topojax.tracking.canvas import import_matplotlib


def write(
    workdir: str | pathlib.Path,
    *,
    step: int | None = None,
    compare: Sequence[str | pathlib.Path] = (),
    data: Any = None,
    every: int | None = None,
) -> pathlib.Path:
    """Write the report of a run: <workdir>/report/index.html and a PNG of every figure; beside other runs, comparison/.

    The page reads nothing from outside itself. Where a run has no checkpoint yet, or its data are gone, it says so and
    tells the rest.

    Args:
      workdir: of the run, or of a population, whose page shows all its members.
      step: which checkpoint, by epoch; the latest unless told.
      compare: workdirs of other runs.
      data: the run's data where they no longer lie where they did (`scoring.split.load_splits`).
      every: epochs between the checkpoints that a slider on the page goes through; None leaves it out.

    Returns:
      The path of the page.

    Raises:
      UserError: no run there, no such checkpoint (it names those there are), plotly is missing, or the folder cannot
        be written.
    """
    with needing("report", "the report"):
        import plotly  # noqa: F401
    import_matplotlib()
    from topojax.report import images, latent_map, page
    from topojax.report.sections import Story, sections

    path = located(workdir)
    if members(path):
        if step is not None or compare:
            one = members(path)[0]
            raise UserError(f"{path} is a population: --step and --compare are for its runs, as --workdir={one}")
        from topojax.report.members import page_of

        title, lead, told = page_of(path)
        return _save(path / "report", page.render(title, lead, told), page.pictures(told))
    history = read(path)
    meta, embedding, missing, seen = _embedding(path, step, every, data)
    if meta is not None:
        history = read(path, until=meta["epoch"])
    for other in compare:
        require_single(located(other))
    others = [read(located(other)) for other in compare]
    story = Story(history, meta, _audited(path, history.config, meta), embedding, missing, others, seen)
    told = sections(story)
    unsaved = "no checkpoint any more" if history.result else "no epoch saved yet"
    epoch = f"epoch {meta['epoch']} of {history.config.train.epochs}" if meta else unsaved
    used = "labels trained the charts" if history.config.supervised.enabled else "labels did not train the charts"
    lead = f"{history.config.data.name}, seed {history.config.seed}, {epoch}; {used}."
    files = page.pictures(told)
    if embedding is not None:
        files["overview.png"] = images.overview(embedding)
    text = page.render(f"{history.config.name}: an attentive atlas", lead, told, style=latent_map.style(embedding))
    return _save(path / ("comparison" if others else "report"), text, files)


def _embedding(
    path: pathlib.Path, step: int | None, every: int | None, data: Any
) -> tuple[dict[str, Any] | None, Embedding | None, str, list[Any]]:
    """(metadata of the checkpoint, embedding, why there is none, frames of this and former checkpoints)."""
    from topojax.report.embedding import embed
    from topojax.report.over_time import frames
    from topojax.scoring.run import restore
    from topojax.scoring.split import load_splits
    from topojax.storage.checkpoint import Checkpoints

    try:
        checkpoints = Checkpoints(path, read_only=True)
    except UserError:
        if step is not None:
            raise
        return None, None, _unsaved(path), []
    with contextlib.closing(checkpoints):
        if not checkpoints.epochs() and step is None:
            return None, None, _unsaved(path), []
        run = restore(path, step)
        meta = checkpoints.meta(run.epoch)
    try:
        train, test = load_splits(run, data)
    except UserError as error:
        said = f"The data of this run cannot be read, so that nothing of the atlas can be drawn: {error}"
        return meta, None, said, []
    seen = [] if every is None else frames(run, path, test, every=every)
    return meta, embed(run, test, train), "", seen


def _unsaved(path: pathlib.Path) -> str:
    """Why there is no checkpoint: the run has not come to one, or they are gone, which is told on stderr too."""
    if read_result(path) is None:
        return "No epoch has been saved yet: there is no atlas to draw."
    tell(f"topojax: warning: {path} has results but no checkpoint: the report has no atlas")
    return "This run has results but no checkpoint any more: there is no atlas to draw."


def _audited(path: pathlib.Path, config: Any, meta: dict[str, Any] | None) -> list[dict[str, Any]] | None:
    from topojax.scoring.audit import audit, last_fifth

    return audit(config, meta["previous"], last_fifth(path, meta["epoch"])) if meta else None


def _save(folder: pathlib.Path, text: str, files: dict[str, bytes]) -> pathlib.Path:
    from topojax.storage.logs import write_all

    try:
        write_all(folder, {**files, "index.html": text.encode()})
        for stale in folder.glob("*.png"):  # of an earlier report, which may have had other figures
            if stale.name not in files:
                stale.unlink()
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from error
    return folder / "index.html"
