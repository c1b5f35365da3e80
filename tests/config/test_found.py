"""What data say about a configuration, and which contracts are out of reach."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topojax.config.defaults import default_config
from topojax.config.found import batch_size, fitted, named, out_of_reach
from topojax.data import measured, sets
from topojax.storage import workdir as workdirs


def dataset(n, classes, *, image=False, labelled=True):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(n, 6, 6) if image else (n, 5))
    y = np.arange(n) % classes if labelled else None
    return sets.load(default_config().data, seed=0, data=(x, y))


def changed(config, data, **options):
    after, changes = fitted(config, data, in_memory=True, **options)
    return after, {change.field: change.value for change in changes}


def test_charts_are_classes_batches_fit_and_tables_are_not_turned():
    after, changes = changed(default_config(), dataset(200, 3))
    assert after.model.num_charts == 3
    assert after.train.batch_size == 16  # 160 to train on, eight steps: 20
    assert changes["view.rotation"] == changes["view.shift"] == 0.0
    assert after.supervised.enabled
    assert "view.scale" not in changes  # 0 already
    assert not any(name.startswith("augment.") for name in changes)


def test_views_and_ball_are_measured_in_all_data():
    for data in (dataset(200, 3), dataset(200, 3, image=True), sets.load(default_config().data, seed=0)):
        after, changes = changed(default_config(), data)
        images = np.asarray(data.train.image)
        reach = measured.ranges(images, data.image_shape)
        assert after.view.to_dict() == pytest.approx(reach._asdict(), rel=5e-3)  # three digits
        assert changes["model.ball_scale"] == pytest.approx(2 / measured.spread(images), rel=5e-3)
    config = default_config()
    config.view.shift, config.model.ball_scale = 0.7, 0.9
    after, changes = changed(config, dataset(200, 3, image=True), keep={"view.noise_std"})
    assert not {"view.shift", "view.noise_std", "model.ball_scale"} & changes.keys()
    assert (after.view.shift, after.model.ball_scale) == (0.7, 0.9)


def test_labelled_images_have_views_and_the_steps_of_mnist():
    data = dataset(3000, 10, image=True)
    after, changes = changed(default_config(), data)
    assert after.contracts.orbit.enabled
    assert changes["train.epochs"] == 400  # 18 steps each: 7,200
    labels = data.train.label
    assert changes["contracts.route.target"] == pytest.approx(measured.surprise(data.train.image, labels), rel=5e-3)
    told = {name for name in changes if name.startswith(("losses.", "optim.", "contracts."))}
    assert told == {"contracts.route.target"}
    config = default_config()
    config.train.epochs = 3
    assert "train.epochs" not in changed(config, dataset(3000, 10, image=True))[1]
    assert "train.epochs" not in changed(default_config(), dataset(200, 3, image=True), keep={"train.epochs"})[1]
    config = default_config()
    config.contracts.orbit.enabled = False
    off = changed(config, dataset(200, 3, image=True), keep={"contracts.orbit.enabled"})[1]
    assert not any(name.startswith(("view.", "contracts.orbit.")) for name in off)


def test_without_labels_the_contracts_of_pairs_take_over():
    after, changes = changed(default_config(), dataset(200, 3, labelled=False))
    assert not after.supervised.enabled
    assert after.contracts.orbit.enabled
    assert changes["data.neighbours"] == 5  # log of 160
    assert "contracts.route.target" not in changes
    config = default_config()
    config.data.neighbours = 2
    assert "data.neighbours" not in changed(config, dataset(200, 3, labelled=False))[1]
    # Without pairs nothing asks for neighbours.
    assert "data.neighbours" not in changed(default_config(), dataset(200, 3))[1]
    assert (after.losses.orbit_distance, after.contracts.orbit.mechanism) == ("overlap", "constant")
    assert (after.contracts.orbit.initial, after.contracts.diversity.initial) == (1.0, 3.0)
    assert after.model.num_charts == 10


def test_what_was_set_stays():
    config = default_config()
    config.model.num_charts = 7
    config.supervised.enabled = False
    after, changes = changed(config, dataset(200, 3), keep={"train.batch_size"})
    assert not {"model.num_charts", "train.batch_size", "data.neighbours"} & changes.keys()
    assert after.model.num_charts == 7
    config.data.auto = False
    assert set(changed(config, dataset(200, 3))[1]) == {"data.name", "name"}


def test_built_in_sets_change_nothing_but_what_is_measured():
    config = default_config()
    data = sets.load(config.data, seed=0)
    _, changes = fitted(config, data, in_memory=False)
    told = {*(f"view.{name}" for name in config.view), "model.ball_scale", "contracts.route.target"}
    assert {change.field for change in changes} <= told
    config.data.auto = False
    after, changes = fitted(config, data, in_memory=False)
    assert not changes
    assert after.to_dict() == config.to_dict()


def test_a_run_is_named_after_its_file():
    config = default_config()
    assert named(config) == "digits"
    config.data.name = "/somewhere/photos/"
    assert named(config) == "photos"
    config.name = "mine"
    assert named(config) == "mine"


@settings(max_examples=50, deadline=None)
@given(n=st.integers(6, 100_000))
def test_a_batch_fits_its_data(n):
    size = batch_size(n, 128)
    assert 1 <= size <= min(n, 128)
    assert size == n or math.log2(size).is_integer()
    assert size in (8, 128, n) or n // size >= 8


def reached(**fields):
    config = default_config()
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return set(out_of_reach(config, 1000))


def test_a_contract_out_of_reach_is_named():
    assert reached() == set()
    assert reached(model__codes_per_chart=1) == {"per_chart_code_entropy"}
    # 0.4 log 10 = 0.92 nats; a batch of two holds 0.69.
    assert reached(train__batch_size=2) == {"window"}
    assert {"window", "variance", "sup_metric"} <= reached(train__batch_size=1)
    assert reached(model__num_charts=2, train__batch_size=2) == set()


def test_a_run_that_goes_on_asks_as_it_asked(tmp_path):
    config = default_config()
    after, changes = fitted(config, dataset(200, 3), in_memory=True)
    workdirs.write_config(tmp_path, after)
    workdirs.write_found(tmp_path, after, {c.field: (c.asked, c.value) for c in changes}, ["words"])
    workdirs.same_config(tmp_path, workdirs.adopted(tmp_path, config))
    again, changes = fitted(workdirs.adopted(tmp_path, config), dataset(200, 3), in_memory=True)
    assert not changes  # and a run that has none to save keeps what the first start found
    workdirs.write_found(tmp_path, again, {}, ["words"])
    workdirs.same_config(tmp_path, workdirs.adopted(tmp_path, config))
    config.model.num_charts = 5
    with pytest.raises(Exception, match=r"model\.num_charts: 3 → 5"):
        workdirs.same_config(tmp_path, workdirs.adopted(tmp_path, config))
    assert workdirs.adopted(tmp_path / "none", config) is config
