"""How good a run is on a split: one function behind result.json, `topojax.evaluate` and everything that reports."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from topojax.atlas.baselines import NAMES
from topojax.data import sets
from topojax.errors import UserError
from topojax.scoring import baseline_scores, map_quality
from topojax.scoring.run import Run, restore
from topojax.scoring.scores import NUMBERS, Number, calibration, labelled, scores
from topojax.scoring.transitions import transition_errors
from topojax.step.predict import Evaluate, compile_evaluate, predict
from topojax.storage.logs import numbers
from topojax.storage.runtime import compile_program
from topojax.types import Batch

ABOUT: dict[str, Number] = (
    NUMBERS
    | map_quality.NUMBERS
    | {
        "jump_error": Number("mean over overlapping pairs of charts of ‖L_{i→j} z_n^i − z_n^j‖², latent units squared"),
        "cycle_error": Number("the same of the way i → j → i, ‖L_{j→i} L_{i→j} z_n^i − z_n^i‖²"),
        "class_table_gap": Number("½ Σ_y |P(y|k) learned − empirical|, mean over charts by their examples", "train"),
    }
)
ABOUT |= {f"{name}/{key}": about for name in NAMES for key, about in baseline_scores.ABOUT.items()}
"""Every number of an evaluation; those of the baselines begin with ae/ and vq/."""

LABELS = {
    "none": "no label was used",
    "score": "the model has seen no label; they are compared with its clusters, or name them",
    "head": "a detached head was trained with labels, the model was not",
    "train": "the model was trained with labels",
}
"""What `Evaluation.labels` says, in words."""


SPLITS = ("test", "train")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A run on a split. n examples, N charts, K codes, C classes, D latent.

    Attributes:
      split: its name.
      epoch: of the checkpoint.
      predictions: name → array of n rows (`predict.make_evaluate`).
      numbers: name → number (`ABOUT`), None where it cannot be had: `notes` say why.
      labels: name → how labels went into the number: a key of `LABELS`.
      tables: name → array; NaN where there is nothing to measure:
        code_usage [N, K] examples; chart_usage [N] mean router weight; overlap, jump_error, cycle_error [N, N];
        class_given_chart [N, C] shares of the classes among the examples of a chart, class_table [N, C] what the model
        has learned of them (runs trained with labels); calibration_readout and calibration_supervised [15, 3] (`scores.
        calibration`).
      notes: what a reader of the numbers has to know: charts nobody uses, one class, no labels.
    """

    split: str
    epoch: int
    predictions: dict[str, np.ndarray]
    numbers: dict[str, float | None]
    labels: dict[str, str]
    tables: dict[str, np.ndarray]
    notes: tuple[str, ...]

    def named(self) -> dict[str, float | None]:
        """The numbers under their names in result.json, as test/mse."""
        return {f"{self.split}/{name}": value for name, value in self.numbers.items()}


def evaluate_run(
    run: Run, split: Batch, train: Batch | None = None, *, name: str = "test", compiled: Evaluate | None = None
) -> Evaluation:
    """Evaluate a run: the same digits wherever it is called, for the same checkpoint and split.

    Args:
      run: restored, or just trained.
      split: n ≥ 1 examples; label None: what needs labels is None.
      train: what the run was trained on: baselines are clustered there, never on the split. None: left out.
      name: of the split.
      compiled: `predict.compile_evaluate` of the run's program, if there is one already.
    """
    labels = known_labels(split)
    image = np.asarray(split.image, np.float32)
    n = len(image)
    split = Batch(image, np.zeros(n, np.int32) if labels is None else labels)  # type: ignore[arg-type]
    compiled = compiled or compile_evaluate(run.program.evaluate, run.state, split)
    predictions = predict(compiled, run.state, split)
    found = scores(predictions, labels, prefix="")
    errors = transition_errors(run.model, run.weights, image)
    tables = {
        **_usage(predictions, run.config.model.num_charts, run.config.model.codes_per_chart),
        "overlap": errors.mass,
        "jump_error": errors.jump,
        "cycle_error": errors.cycle,
        **_classes(run, predictions, labels),
    }
    quality = map_quality.map_quality(image, predictions["z_geo"], labels)
    found |= {key: quality[key] for key in map_quality.NUMBERS}
    found |= {"jump_error": errors.mean("jump"), "cycle_error": errors.mean("cycle")}
    if "class_table" in tables:
        found["class_table_gap"] = _gap(tables)
    if run.program.baselines.members and train is not None:
        sizes = {"clusters": run.config.model.num_charts, "seed": run.config.seed}
        found |= baseline_scores.baseline_scores(
            run.program.baselines, run.state.baselines, predictions, labels, train, **sizes
        )
    supervised = bool(run.config.supervised.enabled)
    return Evaluation(
        split=name,
        epoch=run.epoch,
        predictions=predictions,
        numbers=numbers(found),
        labels={key: "train" if supervised and "/" not in key else ABOUT[key].labels for key in found},
        tables=tables,
        notes=tuple(_notes(run, labels, n, tables, train)),
    )


def known_labels(split: Batch) -> np.ndarray | None:
    """The labels of a split, −1 where one is missing; None where all are."""
    labels = None if split.label is None else np.asarray(split.label)
    return None if labels is None or not (labels >= 0).any() else labels


def load_splits(run: Run, data: Any = None) -> tuple[Batch, Batch]:
    """The (train, test) splits that a run was made with.

    Args:
      run: restored.
      data: where they lie now, or the arrays that were handed over; None: where they lay.

    Raises:
      UserError: the data are gone, or are not those it was trained on.
    """
    config = run.config.data
    if isinstance(data, str | pathlib.Path):
        config = config.copy_and_resolve_references()
        config.name, data = str(data), None
    elif data is None:
        try:
            sets.locate(config.name, config.data_dir)
        except UserError as error:
            raise UserError(f"{error}; data that have moved are found by --data=PATH, data= in Python") from error
    found = sets.load(config, seed=run.config.seed, data=data, on_host=True)
    if contents(found.manifest) != contents(run.manifest):
        raise UserError(f"the data of {found.name} are not those the run was trained on: --data=PATH names them")
    return found.train, found.test


def contents(manifest: dict[str, Any]) -> dict[str, Any]:
    """What identifies data wherever they lie."""
    return {split: manifest.get(split) for split in SPLITS}


def evaluate(
    workdir: str | pathlib.Path, *, step: int | None = None, split: str = "test", data: Any = None
) -> Evaluation:
    """Restore a run and evaluate it.

    Args:
      workdir: of a run with at least one checkpoint, and its data at hand.
      step: which checkpoint, by epoch; the latest unless told.
      split: test or train.
      data: as of `load_splits`.

    Raises:
      UserError: nothing to restore, no such step (it names those there are), or the data are gone.
    """
    run = restore(workdir, step)
    train, test = load_splits(run, data)
    return evaluate_run(run, {"train": train, "test": test}[split], train, name=split)


def _usage(predictions: dict[str, np.ndarray], charts: int, codes: int) -> dict[str, np.ndarray]:
    counts = np.zeros((charts, codes), np.int64)
    np.add.at(counts, (predictions["chart"], predictions["code"]), 1)
    return {"code_usage": counts, "chart_usage": predictions["router"].mean(axis=0, dtype=np.float64)}


def _classes(run: Run, predictions: dict[str, np.ndarray], labels: np.ndarray | None) -> dict[str, np.ndarray]:
    """P(Y|K), measured and learned, and calibration."""
    out = {}
    if run.config.supervised.enabled:

        def table(weights: Any, state: Any) -> Any:
            return run.model.class_table(weights, run.program.temperature(state))

        compiled = compile_program(jax.jit(table).lower(run.weights, run.state))
        out["class_table"] = np.asarray(compiled(run.weights, run.state))
    if labels is None:
        return out
    counts = np.zeros((run.config.model.num_charts, run.num_classes))
    chart, known = labelled(labels, predictions["chart"])
    np.add.at(counts, (chart, known), 1)
    total = counts.sum(axis=1, keepdims=True)
    out["class_given_chart"] = np.where(total > 0, counts / np.maximum(total, 1), np.nan)
    for head, of in (("readout", "readout"), ("supervised", "class")):
        if f"{of}_probability" in predictions:
            out[f"calibration_{head}"] = calibration(*labelled(labels, predictions[f"{of}_probability"]))
    return out


def _gap(tables: dict[str, np.ndarray]) -> float:
    """Mean total variation between learned and empirical P(Y|K), by the charts' examples."""
    if "class_given_chart" not in tables:
        return float("nan")
    share = tables["code_usage"].sum(axis=1)
    distance = 0.5 * np.abs(tables["class_table"] - tables["class_given_chart"]).sum(axis=1)
    used = share > 0
    return float(np.average(distance[used], weights=share[used]))


def _notes(
    run: Run, labels: np.ndarray | None, n: int, tables: dict[str, np.ndarray], train: Batch | None
) -> list[str]:
    notes = []
    unused = np.flatnonzero(tables["code_usage"].sum(axis=1) == 0)
    if unused.size:
        notes.append(f"no example is routed to chart {', '.join(map(str, unused))}: empty in P(Y|K) and code usage")
    if n == 1:
        notes.append("one example: entropies, information and effective rank of a split say nothing")
    if labels is None:
        notes.append("no labels: nothing is compared with them")
    elif (labels < 0).any():
        notes.append(f"{int((labels < 0).sum())} of {n} examples have no label: nothing compares them with classes")
    elif len(np.unique(labels)) == 1:
        notes.append("one class: AMI, NMI and ARI are undefined, there is nothing to tell apart")
    if run.program.baselines.members and train is None:
        notes.append("no training split: baselines are clustered there, and left out")
    if np.isnan(tables["jump_error"]).all():
        notes.append("no two charts overlap: jump and cycle errors are undefined")
    return notes
