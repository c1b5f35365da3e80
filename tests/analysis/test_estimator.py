"""The estimator: what scikit-learn asks of one, and that labels, missing labels and no labels all train it."""

import gc
import pickle
import signal

import jax
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import topojax
from topojax.analysis import estimator
from topojax.atlas.table import TABLE
from topojax.config import memory
from topojax.storage.program_cache import compile_epoch

KEPT = ("commitment", "route", "diversity", "window")
SMALL = {f"contracts.{row.name}.enabled": row.name in KEPT for row in TABLE}
SMALL |= {"model.covariant": False, "data.neighbours": 0}
RNG = np.random.default_rng(0)
Y = np.repeat(["left", "right"], 24)
X = RNG.normal(size=(48, 3)) + np.where(Y == "left", -4.0, 4.0)[:, None]


def small(**options):
    return topojax.Atlas(**{"epochs": 20, "hidden": 32, "settings": SMALL, **options})


def short_of_memory():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "available", lambda: 330_000)
        patch.setattr(estimator, "compile_epoch", None)
        small(hidden=64).fit(X, Y)


@pytest.fixture(scope="module")
def fitted():
    return small().fit(X, Y)


@pytest.mark.slow
def test_it_learns_classes_and_gives_them_by_name(fitted):
    assert list(fitted.classes_) == ["left", "right"]
    assert fitted.score(X, Y) > 0.9
    assert set(fitted.predict(X)) == {"left", "right"}
    probability = fitted.predict_proba(X)
    assert probability.shape == (48, 2)
    np.testing.assert_allclose(probability.sum(axis=1), 1.0)


@pytest.mark.slow
def test_it_transforms_and_comes_back_in_the_units_of_the_data(fitted):
    z = fitted.transform(X)
    assert z.shape == (48, 2)
    assert z.dtype == X.dtype
    back = fitted.inverse_transform(z)
    assert np.abs(back - X).mean() < np.abs(X - X.mean(axis=0)).mean()
    assert list(fitted.get_feature_names_out()) == ["atlas0", "atlas1"]


@pytest.mark.slow
def test_an_answer_does_not_depend_on_how_many_are_asked_about(fitted):
    np.testing.assert_allclose(
        fitted.transform(X), np.concatenate([fitted.transform(x[None]) for x in X]), rtol=1e-6, atol=1e-6
    )


@pytest.mark.slow
def test_it_pickles_and_clones(fitted):
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict(X), fitted.predict(X))
    assert clone(fitted).get_params() == fitted.get_params()
    assert not hasattr(clone(fitted), "run_")


@pytest.mark.slow
def test_another_fit_of_a_warm_start_goes_on(fitted):
    warm = pickle.loads(pickle.dumps(fitted)).set_params(warm_start=True, epochs=1)
    steps = int(fitted.run_.state.step)
    warm.fit(X, Y)
    assert int(warm.run_.state.step) == steps * 21 // 20


@pytest.mark.slow
def test_a_fit_that_is_forgotten_leaves_no_program_behind():
    def programs():
        small(epochs=1).fit(X, Y)
        gc.collect()
        return len(jax.devices()[0].client.live_executables())

    programs()
    assert programs() == programs()


@pytest.mark.slow
def test_an_interrupt_keeps_what_was_trained(fitted, monkeypatch):
    warm, asked = pickle.loads(pickle.dumps(fitted)).set_params(warm_start=True, epochs=10_000_000), []

    def epochs(*given, **named):
        made = compile_epoch(*given, **named)

        def run(*given):
            asked.append(1)
            if len(asked) == 3:
                signal.raise_signal(signal.SIGINT)
            return made.run(*given)

        return made._replace(run=run)

    monkeypatch.setattr(estimator, "compile_epoch", epochs)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        warm.fit(X, Y)
    assert signal.getsignal(signal.SIGINT) == handler
    assert warm.n_iter_ == 3
    assert int(warm.run_.state.step) == int(fitted.run_.state.step) * 23 // 20
    assert warm.predict(X).shape == (48,)


@pytest.mark.parametrize(
    "fit, message",
    [
        (lambda: small().fit(X[:3]), "minimum of 8 is required"),
        (lambda: small().fit(X, np.linspace(0, 1, 48)), "labels hold .*, which names no class"),
        (lambda: small(settings={"model.no": 1}).fit(X), "model.no = 1"),
        (lambda: small(settings=[1]).fit(X), r"settings = \[1\]: must map dotted fields to values"),
        (lambda: short_of_memory(), r"this run needs \d+ bytes of memory at least, and there are 330000"),
        (lambda: small(charts=1).fit(X), r"config.model.num_charts = 1: must lie in \[2, inf\)"),
    ],
)
def test_what_cannot_be_fitted_is_a_value_error_in_one_line(fit, message):
    with pytest.raises(ValueError, match=message):
        fit()


@pytest.mark.campaign
def test_a_pipeline_and_a_grid_search_without_labels():
    model = make_pipeline(StandardScaler(), small(epochs=2, labels=False))
    search = GridSearchCV(model, {"atlas__charts": [2, 3]}, cv=2, error_score="raise").fit(X)
    assert search.best_params_["atlas__charts"] in (2, 3)
    assert search.best_score_ < 0  # minus a squared error
    assert search.predict(X).max() < 3


@pytest.mark.slow
def test_a_frame_with_texts_is_fitted():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": X[:, 0], "colour": np.where(Y == "left", "red", "blue")})
    model = small(epochs=2).fit(frame, Y)
    assert model.transform(frame).shape == (48, 2)
    assert list(model.feature_names_in_) == ["a", "colour"]


@pytest.mark.campaign
def test_scikit_learn_s_own_checks():
    """None is left out. An hour on a busy machine: most of them fit a program of another shape."""
    results = check_estimator(small(epochs=1, hidden=8), on_fail=None, on_skip=None)
    assert [(found["check_name"], found["exception"]) for found in results if found["status"] == "failed"] == []
