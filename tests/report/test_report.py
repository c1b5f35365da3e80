"""The report as files: what stands in it, that its numbers are those of the run, and that bad input is told."""

import json
import math
import pathlib
import re
import shutil
import sys

import numpy as np
import pytest

import topojax
from topojax.commands import main
from topojax.errors import UserError
from topojax.report import history, latent_map, overlay, page, quality, still, style
from topojax.report.block import Note
from topojax.report.embedding import embed
from topojax.report.sections import TABLE, Story, sections
from topojax.report.write import write
from topojax.scoring.split import evaluate, load_splits
from topojax.scoring.told import as_json
from topojax.types import Batch

pytestmark = pytest.mark.slow

TRAINING = ["curves", "losses", "rate", "events", "contracts", "window", "scales"]
ATLAS = ["atlas", "usage", "prototypes"]
LATENT = ["reconstructions", "errors", "classes", "calibration", "jumps"]
FIGURES = [*ATLAS, *TRAINING, *LATENT, "perturbed", "robustness", "paths", "sheets"]


@pytest.fixture(scope="module")
def written(digits_report):
    """(workdir, text of the page) of a report on a copy of the run."""
    return digits_report, (digits_report / "report" / "index.html").read_text()


@pytest.fixture(scope="module")
def restored(digits_run):
    run = topojax.restore(digits_run)
    return run, *load_splits(run)


def told(embedding, digits_run):
    """Blocks of every section, for another embedding than the run's own."""
    story = Story(history.read(digits_run), None, [], embedding, "", [])
    return [block for section in sections(story) for block in section.blocks]


def said(blocks):
    return " ".join(b.text if isinstance(b, Note) else b.caption for b in blocks)


def test_every_figure_is_in_the_page_and_beside_it(written):
    workdir, text = written
    figures = re.findall(r'<figure id="figure-(\w+)">', text)
    assert figures[0] == "atlas"
    assert len(figures) == len(set(figures))
    assert set(FIGURES) <= set(figures)
    pictures = {path.stem: path.read_bytes() for path in (workdir / "report").glob("*.png")}
    assert set(pictures) == {*figures, "overview"} - {"tree"}  # which is text
    for data in pictures.values():
        assert data.startswith(b"\x89PNG")
        assert len(data) > 5_000
    for part in TABLE:
        assert (f'<section id="{part.anchor}">' in text) == (
            part.anchor not in ("compared", "time")
        )  # which want other runs, or `--every`


def test_the_page_reads_nothing_from_outside(written):
    text = re.sub(r"<script.*?</script>", "", written[1], flags=re.S)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)[^"']*""", text)
    assert not re.findall(r"url\((?!data:)", text)
    assert "@import" not in text
    assert len(written[1]) < 10e6


def test_numbers_agree_with_the_result_and_with_evaluate(written):
    workdir, text = written
    body = re.search(r'<table id="table-scores">.*?</table>', text, re.S)[0]
    shown = dict(re.findall(r'<th scope="row">([^<]+)</th><td>([^<]+)</td>', body))
    result = json.loads((workdir / "result.json").read_text())
    evaluated = as_json(evaluate(workdir))
    names = {name.removeprefix("test/") for name in result if name.startswith("test/")}
    assert set(shown) == names
    assert {"mse", "ami", "ae/mse", "vq/ami", "jump_error"} <= names
    for name, value in shown.items():
        exact = result[f"test/{name}"]
        assert value == "–" if exact is None else float(value) == pytest.approx(exact, rel=6e-3)  # three digits
        assert len(value.lstrip("-0.").replace(".", "").partition("e")[0]) <= 3 or exact >= 1000
        assert evaluated[f"test/{name}"] == result[f"test/{name}"]


def test_labels_are_named_beside_every_score(written):
    body = re.search(r'<table id="table-scores">.*?</table>', written[1], re.S)[0]
    uses = re.findall(r'<th scope="row">([^<]+)</th><td>[^<]+</td><td>(\w+)</td>', body)
    assert {use for _, use in uses} == {"train", "none", "score", "head"}
    assert dict(uses)["ami"] == "train"
    assert dict(uses)["ae/ami"] == "score"


@pytest.fixture
def without_pictures(monkeypatch):
    """PNGs take seconds: where they are not what is tested, none are drawn."""
    monkeypatch.setattr("topojax.report.page.pictures", lambda sections: {})


@pytest.mark.slow
def test_an_earlier_step_is_told_as_it_was_then(digits_run, tmp_path, without_pictures):
    workdir = pathlib.Path(shutil.copytree(digits_run, tmp_path / "run"))
    text = write(workdir, step=2).read_text()
    assert "epoch 2 of 4" in text
    assert "result.json" not in re.sub(r"<script.*?</script>", "", text, flags=re.S)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert history.read(workdir, until=2).epoch.tolist() == [1, 2]
    assert f"<td>{rows[1]['test/mse']:.3g}</td>" in text
    assert f"<td>{rows[3]['test/mse']:.3g}</td>" not in text


def test_a_step_that_does_not_exist_lists_those_that_do(digits_run, capsys):
    assert main(["report", f"--workdir={digits_run}", "--step=3"]) == 2
    assert "no checkpoint of epoch 3" in (line := capsys.readouterr().err)
    assert "there are 2, 4" in line
    assert line.count("\n") == 1


def test_a_workdir_without_a_finished_epoch_still_gets_its_report(digits_run, tmp_path, capsys):
    shutil.copy(digits_run / "config.json", tmp_path)
    assert main(["report", f"--workdir={tmp_path}"]) == 0
    text = (tmp_path / "report" / "index.html").read_text()
    assert "no epoch saved yet" in text
    assert "there is no atlas to draw" in text
    assert "No epoch has been logged yet" in text
    assert not list((tmp_path / "report").glob("*.png"))
    with pytest.raises(UserError, match="no checkpoint in"):
        write(tmp_path, step=1)


def test_a_run_whose_checkpoints_are_gone_says_so(digits_run, tmp_path, capsys, without_pictures):
    run = tmp_path / "run"
    shutil.copytree(digits_run, run, ignore=shutil.ignore_patterns("checkpoints"))
    assert main(["report", f"--workdir={run}"]) == 0
    assert f"{run} has results but no checkpoint" in capsys.readouterr().err
    text = (run / "report" / "index.html").read_text()
    assert "no checkpoint any more" in text
    assert "no epoch saved yet" not in text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_report_goes_back_where_the_last_checkpoint_is_damaged(digits_run, tmp_path, capsys, without_pictures):
    run = pathlib.Path(shutil.copytree(digits_run, tmp_path / "run"))
    for path in (run / "checkpoints" / "4" / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:10])
    assert main(["report", f"--workdir={run}"]) == 0
    assert "going back to an earlier one" in capsys.readouterr().err
    assert "epoch 2 of 4" in (run / "report" / "index.html").read_text()


def test_a_report_that_cannot_be_written_leaves_the_one_before(digits_run, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(digits_run, run, ignore=shutil.ignore_patterns("checkpoints"))
    monkeypatch.setattr("topojax.report.page.pictures", lambda sections: {"loss.png": b"new"})
    (run / "report").mkdir()
    before = {"loss.png": b"old", "former.png": b"old", "index.html": b"old"}
    for name, data in before.items():
        (run / "report" / name).write_bytes(data)

    def full(file):
        if "index" in file.name:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as failing:
        failing.setattr("topojax.storage.logs._kept", full)
        assert main(["report", f"--workdir={run}"]) == 2
    assert capsys.readouterr().err.endswith("report cannot be written: No space left on device\n")
    assert {path.name: path.read_bytes() for path in (run / "report").iterdir()} == before
    assert main(["report", f"--workdir={run}"]) == 0
    assert {path.name for path in (run / "report").iterdir()} == {"loss.png", "index.html"}


def test_no_run_no_plotly_no_workdir(tmp_path, capsys, monkeypatch):
    assert main(["report", f"--workdir={tmp_path}"]) == 2
    assert "no run in" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert main(["report", f"--workdir={tmp_path}"]) == 2
    assert "pip install 'topojax[report]'" in (line := capsys.readouterr().err)
    assert line.count("\n") == 1
    assert main(["report"]) == 2
    assert "--workdir is required" in capsys.readouterr().err


def test_data_that_are_gone_leave_the_curves(digits_run, tmp_path, monkeypatch, without_pictures):
    workdir = pathlib.Path(shutil.copytree(digits_run, tmp_path / "run"))

    def gone(run, data=None):
        raise UserError("the data of digits are not those the run was trained on")

    monkeypatch.setattr("topojax.scoring.split.load_splits", gone)
    text = write(workdir).read_text()
    assert "nothing of the atlas can be drawn: the data of digits are not" in text
    assert 'id="figure-contracts"' in text
    assert 'id="figure-atlas"' not in text


@pytest.mark.parametrize(
    "cut, expected",
    [
        (lambda b: Batch(b.image[:1], b.label[:1]), ["One example: entropies", "Nobody uses chart", "No example uses"]),
        (lambda b: Batch(b.image[b.label == 3], b.label[b.label == 3]), ["One class: AMI"]),
        (lambda b: Batch(b.image, None), ["No labels: nothing is compared", "P(Y|K) cannot be measured"]),
    ],
    ids=["one sample", "one class", "no labels"],
)
@pytest.mark.slow
def test_poor_splits_are_told_and_their_gaps_named(restored, digits_run, cut, expected):
    run, train, test = restored
    embedding = embed(run, cut(test), train)
    blocks = told(embedding, digits_run)
    for phrase in expected:
        assert phrase in said(blocks)
    text = page.render("poor", "", [page.Section("all", "all", "", blocks)], style=latent_map.style(embedding))
    assert not re.search(r"\bnan\b", re.sub(r"<script.*?</script>|data:[^\"')]*", "", text, flags=re.S), re.I)
    latent = [block for block in blocks if getattr(block, "name", "") in ("atlas", "usage", "errors", "jumps")]
    drawn = page.pictures([page.Section("latent", "latent", "", latent)])
    assert len(drawn) >= 3
    assert all(data.startswith(b"\x89PNG") for data in drawn.values())


@pytest.mark.slow
def test_points_in_space_without_labels_in_training(points_report):
    text = (points_report / "report" / "index.html").read_text()
    assert "labels did not train the charts" in text
    assert "it has learned no table" in text
    assert '"type":"scatter3d"' in text
    assert "The data are points, not images" in text
    assert 'id="figure-robustness"' in text
    assert (points_report / "report" / "atlas.png").stat().st_size > 10_000


@pytest.mark.slow
def test_runs_are_compared_by_their_shortest_different_names(digits_run, points_run, tmp_path):
    copy = pathlib.Path(shutil.copytree(digits_run, tmp_path / "again" / "digits"))
    runs = [history.read(path) for path in (digits_run, copy, points_run)]
    names = overlay.names(runs)
    assert names[1:] == ["again/digits", f"{points_run.parent.name}/points"]
    results, differences = overlay.results(runs)
    rows = {row[0]: row[1:] for row in results.rows}
    assert rows["test/mse"][0] == rows["test/mse"][1] != rows["test/mse"][2]
    assert rows["labels"] == ("trained the charts", "trained the charts", "not used by the charts")
    differing = {row[0]: row[1:] for row in differences.rows}
    assert differing["data.name"] == ("digits", "digits", "sphere_3d")
    assert differing["supervised.enabled"] == ("True", "True", "False")
    assert "seed" not in differing
    (figure,) = overlay.curves(runs)
    assert {trace.name for trace in figure.plot.data} == set(names)


@pytest.mark.slow
def test_compared_runs_come_first_in_the_page(digits_run, points_run, tmp_path, capsys):
    for name in ("config.json", "metrics.jsonl", "result.json"):  # no checkpoint: the atlas is not what is tested
        shutil.copy(digits_run / name, tmp_path)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("the plain report")
    assert main(["report", "--compare", str(tmp_path), str(points_run)]) == 0
    text = (tmp_path / "comparison" / "index.html").read_text()
    assert text.index('<section id="compared">') < text.index('<section id="result">')
    assert (tmp_path / "comparison" / "compared.png").exists()
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["index.html"]
    assert (tmp_path / "report" / "index.html").read_text() == "the plain report"


def test_jump_arrows_are_the_operators_applied(restored):
    run, train, test = restored
    embedding = embed(run, test, train)
    e = embedding.encoding
    start, end = latent_map.jumps(embedding)
    second = np.sort(e.router, axis=1)[:, -2] * e.router.max(axis=1)
    shared = np.flatnonzero(second >= latent_map.OVERLAP)
    assert 0 < len(start) == min(len(shared), latent_map.ARROWS)
    arrows = latent_map._arrows(embedding, start, end, True)
    assert {trace.visible for trace in arrows} == {"legendonly"}  # off at first
    if len(shared) > latent_map.ARROWS:
        shared = shared[np.linspace(0, len(shared) - 1, latent_map.ARROWS).astype(int)]
    jump = run.weights["jump"]
    row = shared[0]
    i, j = np.argsort(e.router[row])[[-1, -2]]
    up, down = (np.asarray(next(iter(jump[name].values()))) for name in ("up", "down"))
    there = down[j] @ (up[i] @ e.z_n_all[row, i] + np.asarray(jump["c"])[i]) + np.asarray(jump["d"])[j]
    np.testing.assert_allclose(end[0], e.c_bar[row] + e.z_q_all[row, j] + there, atol=1e-5)
    np.testing.assert_allclose(start[0], e.c_bar[row] + e.z_q_all[row, i] + e.z_n_all[row, i], atol=1e-5)


def test_more_than_three_dimensions_are_projected_on_principal_axes(restored):
    run, train, test = restored
    embedding = embed(run, test, train)
    rng = np.random.default_rng(0)
    z = (rng.standard_normal((50, 5)) * [1, 9, 0.1, 3, 0.2]).astype(np.float32)
    wide = type(embedding)(**{**vars_of(embedding), "encoding": embedding.encoding._replace(z_geo=z)})
    flat = wide.project(z)
    assert flat.shape == (50, 2)
    assert abs(np.corrcoef(flat[:, 0], z[:, 1])[0, 1]) > 0.95
    assert abs(np.corrcoef(flat[:, 1], z[:, 3])[0, 1]) > 0.95
    assert wide.projection[2][0].startswith("principal axis 1 (")


def vars_of(embedding):
    names = ("run", "evaluation", "image", "label", "encoding", "x_hat", "drawn")
    return {name: getattr(embedding, name) for name in names}


def test_heat_maps_show_the_evaluation_s_tables(restored):
    run, train, test = restored
    embedding = embed(run, test, train)
    (usage,) = quality.usage(embedding)
    np.testing.assert_array_equal(usage.plot.data[0].z, embedding.evaluation.tables["code_usage"])
    (classes,) = quality.classes(embedding)
    np.testing.assert_array_equal(classes.plot.data[0].z, embedding.evaluation.tables["class_given_chart"])
    np.testing.assert_array_equal(classes.plot.data[1].z, embedding.evaluation.tables["class_table"])
    (jumps,) = quality.jump_errors(embedding)
    np.testing.assert_array_equal(jumps.plot.data[0].z, 1e3 * embedding.evaluation.tables["jump_error"])


def test_spans_answer_for_the_epochs_since_the_row_before():
    epoch = np.array([5, 10, 15, 20, 25])
    assert history.spans(epoch, np.array([1, 0, 1, 1, 0], bool)) == [(0.0, 5.0), (10.0, 20.0)]
    assert history.spans(epoch, np.zeros(5, bool)) == []
    assert history.spans(epoch, np.ones(5, bool)) == [(0.0, 25.0)]


def test_a_history_ends_where_it_was_cut_and_has_gaps_where_numbers_are_missing(digits_run, tmp_path):
    shutil.copy(digits_run / "config.json", tmp_path)
    (tmp_path / "metrics.jsonl").write_text(
        '{"epoch": 1, "a": 2.0}\n{"epoch": 2, "a": null, "b": null}\n{"epoch": 3, "a"'
    )
    read = history.read(tmp_path)
    assert read.epoch.tolist() == [1, 2]
    assert read.column("a")[0] == 2.0
    assert math.isnan(read.column("a")[1])
    assert read.column("b") is None
    assert list(read.columns(["a", "b", "c"])) == ["a"]
    assert history.read(tmp_path, until=1).epoch.tolist() == [1]


def test_a_still_shows_the_curves_of_its_figure():
    figure = style.panels(["left", "right"])
    style.line(figure, (1, 1), [0, 1, 2], [1.0, 10.0, 100.0], "one", style.colour(0))
    style.line(figure, (1, 2), [0, 1, 2], [3.0, np.nan, 5.0], "two", style.colour(1), dash="dash")
    figure.update_yaxes(type="log", row=1, col=1)
    figure.update_layout(shapes=[style.mark(2, 0.5, 1.5, paint=style.ALARM, opacity=0.1)])
    left, right = still.draw(style.own_legends(figure)).axes
    assert left.get_yscale() == "log"
    np.testing.assert_array_equal(left.lines[0].get_ydata(), [1, 10, 100])
    assert right.lines[0].get_linestyle() == "--"
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["two"]
    assert len(right.patches) == 1
    assert left.get_position().x1 < right.get_position().x0
