"""The table of sections: what stands in a report, in which order, and what each part of it needs."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from topojax.report import (
    baseline_latents,
    compared_maps,
    confidence,
    constraints,
    curves,
    dynamics,
    facts,
    images,
    latent_map,
    over_time,
    overlay,
    perturbed,
    quality,
    tree,
    usage_history,
)
from topojax.report.block import Block, Note
from topojax.report.embedding import Embedding
from topojax.report.history import History
from topojax.report.over_time import Frame
from topojax.report.page import Section


class Story(NamedTuple):
    """Everything that a report tells of."""

    history: History
    meta: dict[str, Any] | None  # of the checkpoint, None without one
    audited: list[dict[str, Any]] | None  # contracts at the checkpoint, None without one
    embedding: Embedding | None  # None without a checkpoint or its data
    missing: str  # why there is no embedding
    others: Sequence[History]  # runs to compare with
    frames: Sequence[Frame] = ()  # of several checkpoints, the last one the embedding's


class Part(NamedTuple):
    """One line of the table.

    Attributes:
      anchor, title, lead: of the section.
      needs: the field of `Story` that `draw` functions are given; where it is missing, the section says why.
      draw: functions of it that return blocks.
    """

    anchor: str
    title: str
    lead: str
    needs: str
    draw: tuple[Callable[[Any], list[Block]], ...]


def _evaluated(*functions: Callable[[Any], list[Block]]) -> Callable[[Embedding], list[Block]]:
    return lambda embedding: [block for function in functions for block in function(embedding.evaluation)]


def _over_time(story: Story) -> list[Block]:
    assert story.embedding is not None
    return over_time.slider(story.frames, story.embedding.label, story.embedding.charts)


def _compared(story: Story) -> list[Block]:
    histories = [story.history, *story.others]
    return [*overlay.results(histories), *overlay.curves(histories)]


TABLE: tuple[Part, ...] = (
    Part("compared", "Runs compared", "This run and those named with --compare.", "others", (_compared,)),
    Part(
        "atlas",
        "Atlas",
        "The latent with its charts; drag to move, scroll to zoom, click a legend entry to hide or show it.",
        "embedding",
        (
            _evaluated(facts.headline),
            latent_map.atlas,
            baseline_latents.side_by_side,
            compared_maps.table,
            quality.usage,
            images.prototypes,
        ),
    ),
    Part(
        "result",
        "Result",
        "Numbers of the test split, each with what labels had to do with it.",
        "embedding",
        (_evaluated(facts.models, facts.scores),),
    ),
    Part(
        "training",
        "Training",
        "Losses, the rate with the bound that set it, and what was decided on the way.",
        "history",
        (curves.curves, curves.losses, curves.rate, usage_history.usage, curves.events),
    ),
    Part(
        "contracts",
        "Contracts",
        "Every weight follows a measurable promise; a positive error raises it.",
        "history",
        (constraints.weights,),
    ),
    Part("verdicts", "Verdicts", "What was promised, and what was kept.", "audited", (constraints.contracts,)),
    Part(
        "dynamics",
        "Dynamics",
        "The coupling window, and how fast the parts of the model move.",
        "history",
        (dynamics.window, dynamics.scales),
    ),
    Part("time", "Over time", "The atlas at several checkpoints.", "frames", (_over_time,)),
    Part(
        "tree",
        "Tree",
        "Charts, their codes, and the examples of each.",
        "embedding",
        (tree.tree,),
    ),
    Part(
        "reconstruction",
        "Reconstruction",
        "What comes back, and how far it is off.",
        "embedding",
        (images.reconstructions, quality.errors),
    ),
    Part(
        "meaning",
        "Charts and classes",
        "What a chart says of the class, and how sure the heads are.",
        "embedding",
        (quality.classes, quality.calibration, confidence.conformal_sets, confidence.abstaining),
    ),
    Part(
        "transitions",
        "Jumps",
        "How well jump operators carry one chart's reading to the next.",
        "embedding",
        (quality.jump_errors,),
    ),
    Part(
        "explored",
        "Perturbation and exploration",
        "Inputs changed a little, ways through charts, and charts as sheets (topojax.explore).",
        "embedding",
        (perturbed.before_and_after, perturbed.robustness, perturbed.paths, perturbed.sheets),
    ),
)


def sections(story: Story) -> list[Section]:
    """Every section of the table that has something to tell or to miss; the facts of the run at the end."""
    found = []
    for part in TABLE:
        given = getattr(story, part.needs)
        if part.needs in ("others", "frames"):
            blocks = [block for draw in part.draw for block in draw(story)] if given else []
        elif given is None:
            blocks = [Note(story.missing)]
        else:
            blocks = [block for draw in part.draw for block in draw(given)]
        if blocks:
            found.append(Section(part.anchor, part.title, part.lead, blocks))
    lead = "Where these numbers come from."
    return [*found, Section("facts", "Run", lead, facts.about(story.history, story.meta))]
