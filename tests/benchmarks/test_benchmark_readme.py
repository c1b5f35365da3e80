"""Pages cannot say what was not measured; what is finished is not trained again."""

import json
import pathlib

import pytest

from topojax.benchmarks import figures, readme
from topojax.errors import UserError
from topojax.storage.logs import write_json

TINY = pathlib.Path(__file__).parents[1] / "tiny_config.py"
PAGE = "# Title\n\n<!-- figures:headline -->\n<!-- /figures -->\n\nend\n"


def result(seed, ami=0.5, *, labels=True, version="1.0", **contracts):
    """A result.json: contract → (value, satisfied)."""
    rows = [
        {"contract": name, "relation": "<=", "target": 0.05, "value": value, "satisfied": kept}
        for name, (value, kept) in contracts.items()
    ]
    accuracy = {"test/acc_supervised": ami + 0.1} if labels else {}
    return {
        "name": "some",
        "test/mse": 0.01,
        "test/ami": ami,
        "test/acc_matched": ami + 0.2,
        "test/acc_readout": 0.9,
        "test/I_XK": 2.0,
        **accuracy,
        "labels_used": labels,
        "epochs": 3,
        "seed": seed,
        "data": {"train": {"examples": 160}, "test": {"examples": 40}},
        "contracts": rows,
        "versions": {"topojax": version, "commit": "abc"},
        "time/first_epoch_s": 1.0,
        "time/total_s": 2.0,
    }


def entry(*results, machines=()):
    found = figures.entry({one["seed"]: one for one in results}, machines)
    return {"words": "some", "config": "c.py"} | found


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(PAGE)
    (tmp_path / "docs" / "other.md").write_text("no table\n")
    write_json(tmp_path / figures.FILE, {"some": entry(result(0), result(1, 0.7))})
    return tmp_path


def cells(table, row):
    return [cell.strip() for cell in table.splitlines()[2 + row].split("|")[1:-1]]


def test_a_row_has_mean_and_ends_over_seeds_and_says_whether_labels_were_used():
    found = {"a": entry(result(0, 0.5), result(1, 0.7)), "b": entry(result(4, 0.25, labels=False))}
    assert cells(figures.headline(found), 0)[1:4] == ["**train it**", "0.600 (0.500 – 0.700)", "0.700 (0.600 – 0.800)"]
    name, labels, ami, accuracy, *_ = cells(figures.headline(found), 1)
    assert name.endswith("seed 4")
    assert (labels, ami, accuracy) == ("only score it", "0.250", "0.450")  # of the match: there is no other


def test_contracts_that_some_seed_breaks_are_named_with_what_they_came_to():
    one = entry(result(0, a=(0.04, True), b=(0.06, False)), result(1, a=(0.03, True), b=(0.0505, True), c=(None, None)))
    assert set(one["contracts"]) == {"b"}
    assert cells(figures.contracts({"some": one}), 0)[2:] == ["`b`", "≤ 0.05", "0.0505 – 0.06", "1 of 2 seeds"]
    kept = entry(result(0, a=(0.04, True)), result(1, a=(0.04, True)))
    assert cells(figures.contracts({"some": kept}), 0)[-1] == "2 of 2 seeds"


def test_runs_of_two_versions_make_no_table():
    with pytest.raises(UserError, match=r"1\.0 and 2\.0"):
        entry(result(0), result(1, version="2.0"))


def test_a_machine_is_told_only_where_all_runs_shared_it():
    same = entry(result(0), result(1), machines=[{"cores": 2, "at_once": 1}] * 2)
    assert (same["cores"], same["at_once"]) == (2, 1)
    other = entry(result(0), result(1), machines=[{"cores": 2, "at_once": 1}, {}])
    assert other["cores"] is None


def test_a_page_that_differs_is_found_and_written_again(repository):
    with pytest.raises(UserError, match=r"README.md, line 4"):
        figures.check(repository)
    readme.write_pages(repository)
    figures.check(repository)
    text = (repository / "README.md").read_text()
    assert text.startswith("# Title\n\n<!-- figures:headline -->\n| ")
    assert text.endswith("<!-- /figures -->\n\nend\n")
    (repository / "README.md").write_text(text.replace("0.600", "0.601"))
    with pytest.raises(UserError, match=r"README.md, line 6"):
        figures.check(repository)
    (repository / "README.md").write_text(PAGE.replace("headline", "tail"))
    with pytest.raises(UserError, match="'tail'"):
        figures.check(repository)


@pytest.mark.campaign
def test_a_set_is_trained_written_and_not_trained_again(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # of the child: it is trained for its files alone
    fields = {"train.epochs": 1, "baselines.autoencoder": True, "data.num_examples": 100}
    sets = {"tiny": readme.Runs("tiny", str(TINY), [3], fields)}
    workdir = tmp_path / "runs"
    readme.run(sets, workdir, repository)
    figures.check(repository)
    found = json.loads((repository / figures.FILE).read_text())
    assert set(found) == {"some", "tiny"}
    assert found["tiny"]["seeds"]["3"]["test/ae/mse"] > 0
    assert found["tiny"]["at_once"] == 1
    before = (repository / figures.FILE).read_text()

    def trained(*arguments, **options):
        raise AssertionError("a finished run was trained again")

    monkeypatch.setattr(readme.subprocess, "run", trained)
    readme.run(sets, workdir, repository)
    assert (repository / figures.FILE).read_text() == before
    with pytest.raises(UserError, match=r"another configuration"):
        readme.run({"tiny": sets["tiny"]._replace(fields=fields | {"optim.b2": 0.5})}, workdir, repository)


def test_a_run_that_fails_is_told_in_one_line_and_nothing_is_written(repository, tmp_path):
    before = {path: path.read_text() for path in repository.rglob("*.*") if path.is_file()}
    sets = {"bad": readme.Runs("bad", str(TINY), [0], {"train.epochs": 0})}
    with pytest.raises(UserError, match=r"seed0: training ended with status 2: .*epochs") as error:
        readme.run(sets, tmp_path / "runs", repository)
    assert "\n" not in str(error.value)
    assert before == {path: path.read_text() for path in before}


@pytest.mark.parametrize("arguments", [["--only=digits,none"], ["--jobs=0"]])
def test_bad_arguments_are_one_line(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert readme.main(arguments) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_outside_a_repository_it_says_where_to_run_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments in (["--check"], ["--pages"], []):
        assert readme.main(arguments) == 2
        assert "root" in capsys.readouterr().err
