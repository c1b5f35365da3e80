"""What was run, on what, with which result, and what labels had to do with it."""

from collections.abc import Mapping, Sequence
from typing import Any

from topojax.config.defaults import default_config
from topojax.config.io import flat
from topojax.report.block import Block, Note, Table
from topojax.report.embedding import MODELS
from topojax.report.history import History
from topojax.scoring.split import ABOUT, LABELS, Evaluation
from topojax.storage.runtime import versions
from topojax.tracking.console import number


def exact(value: Any) -> str:
    """A number as JSON has it, to the last digit; a dash for what cannot be had."""
    return "–" if value is None else str(value)


def three(value: Any) -> str:
    """A number to three significant digits; whole numbers as they are, a dash for what cannot be had."""
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:.0f}"


HEADLINE = {
    "mse": "error",
    "mse_by_chart": "error by chart",
    "chart_agreement": "same chart on both sides",
    "ami": "AMI",
    "acc_supervised": "accuracy",
    "acc_matched": "matched accuracy",
    "trustworthiness": "trustworthiness",
    "knn5": "5-NN",
}
"""Number → what the headline calls it; the first of the two accuracies that there is."""


def headline(evaluation: Evaluation) -> list[Block]:
    """The few numbers that say how good an atlas is."""
    there = [name for name in HEADLINE if evaluation.numbers.get(name) is not None]
    there = [name for name in there if name != "acc_matched" or "acc_supervised" not in there]
    said = [(HEADLINE[name], three(evaluation.numbers[name]), evaluation.labels[name]) for name in there]
    caption = (
        f"The {evaluation.split} split ({len(evaluation.predictions['chart'])} examples), epoch {evaluation.epoch}."
    )
    return [Table("headline", ("", "value", "labels"), said, caption)]


def scores(evaluation: Evaluation) -> list[Block]:
    """Every number of the split, with what labels had to do with it."""
    rows = [
        (name, three(value), evaluation.labels[name], ABOUT[name].about) for name, value in evaluation.numbers.items()
    ]
    used = [f"{use}: {LABELS[use]}" for use in LABELS if use in evaluation.labels.values()]
    n = len(evaluation.predictions["chart"])
    caption = (
        f"The {evaluation.split} split ({n} examples) at epoch {evaluation.epoch}. Labels, {'; '.join(used)}. "
        "`topojax evaluate` has all digits."
    )
    table = Table("scores", ("number", "value", "labels", "meaning"), rows, caption)
    return [table, *(Note(note[0].upper() + note[1:] + ".") for note in evaluation.notes)]


def models(evaluation: Evaluation) -> list[Block]:
    """The atlas beside the baselines of its run; nothing, without baselines."""
    names = [name for name in MODELS if f"{name}/mse" in evaluation.numbers]
    if not names:
        return []
    rows = []
    for number_, meaning in COMPARED.items():
        keys = [number_, *(f"{name}/{number_.replace('readout', 'probe')}" for name in names)]
        cells = [
            f"{number(evaluation.numbers[key])} ({evaluation.labels[key]})" if key in evaluation.numbers else "–"
            for key in keys
        ]
        rows.append((meaning, *cells))
    caption = (
        "The atlas beside baselines of as many parameters, trained on the same batches; in brackets what labels had "
        "to do with the number, as in the table below. Clusters of a baseline are k-means "
        "of its training latents, as many as there are charts."
    )
    return [Table("models", ("", "atlas", *(MODELS[name] for name in names)), rows, caption)]


COMPARED = {
    "mse": "mean squared error",
    "ami": "AMI of clusters and labels",
    "nmi": "NMI",
    "ari": "ARI",
    "acc_matched": "accuracy, clusters matched with classes",
    "acc_readout": "accuracy of the detached head",
    "effective_rank": "effective rank of the latent",
    "perplexity": "perplexity of codes",
}


def about(history: History, meta: Mapping[str, Any] | None) -> list[Block]:
    """Versions, data, sizes and times of the run; then its configuration, what differs from the defaults first."""
    config, result = history.config, history.result or {}
    trained = (meta or {}).get("versions") or result.get("versions") or {}
    data = (meta or {}).get("data") or result.get("data") or {"name": config.data.name}
    rows = [
        ("run", config.name),
        ("seed", str(config.seed)),
        ("epochs", f"{(meta or {}).get('epoch', 0)} of {config.train.epochs}"),
        ("data", f"{data['name']}, {data.get('source', 'source unknown')}"),
        *(
            (f"{split} split", f"{data[split]['examples']} examples, sha256 {data[split]['sha256'][:16]}…")
            for split in ("train", "test")
            if split in data
        ),
        ("labels", "trained the charts" if config.supervised.enabled else "trained the detached readout alone"),
        *((name, exact(result[name])) for name in ("parameters", "best_epoch") if name in result),
        *((name.removeprefix("time/"), f"{result[name]} s") for name in result if name.startswith("time/")),
        ("trained with", ", ".join(f"{k} {v}" for k, v in trained.items()) or "unknown"),
        ("reported with", ", ".join(f"{k} {v}" for k, v in versions().items())),
    ]
    changed = differing(config)
    return [
        Table("facts", ("", ""), rows, "The run."),
        Table("changed", ("field", "default", "this run"), changed, "Fields that differ from their defaults.")
        if changed
        else Note("Every field of the configuration has its default."),
        Note("config.json in the run's folder holds all fields; `topojax fields` says what each means."),
    ]


def differing(config: Any) -> Sequence[tuple[str, str, str]]:
    """(field, default, value) of every field of a configuration that is not at its default."""
    defaults = dict(flat(default_config()))
    return [(k, exact(defaults.get(k)), exact(v)) for k, v in flat(config) if v != defaults.get(k)]
