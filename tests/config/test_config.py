"""Configurations: every field checked, saved and read back, compared; the files in configs/."""

import dataclasses
import importlib.util
import json
import math
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topojax.atlas.controllers import clipped, make_control, select_rows
from topojax.atlas.table import TABLE, Contract
from topojax.config import io, validate
from topojax.config.defaults import RESUMABLE, default_config, get_config
from topojax.errors import UserError

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def changed(**fields):
    """The default with fields, written a__b for a.b, set without a type check."""
    config = default_config()
    for name, value in fields.items():
        *blocks, last = name.split("__")
        block = config
        for part in blocks:
            block = block[part]
        with block.ignore_type():
            block[last] = value
    return config


def load(name):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


def test_the_default_is_valid():
    validate.validate(get_config())


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"model__latent_dim": 0}, r"config\.model\.latent_dim = 0: must lie in \[1, inf\)"),
        ({"model__latent_dim": 513}, r"config\.model\.latent_dim = 513: must be at most 512"),
        ({"model__num_charts": 1}, r"config\.model\.num_charts = 1: must lie in \[2, inf\)"),
        ({"model__codes_per_chart": 0}, r"codes_per_chart = 0"),
        ({"model__hidden_dim": 0}, r"hidden_dim = 0"),
        ({"model__rank": 0}, r"model\.rank = 0"),
        ({"model__jump_rank": -1}, r"jump_rank = -1"),
        ({"model__jump_rank": 10**6}, r"jump_rank = 1000000: must be at most 4096"),
        (
            {"model__latent_dim": 4, "model__readout_bundle": 3},
            r"readout_bundle = 3: must divide",
        ),
        ({"model__tensorization": "sun"}, r"did you mean 'sum'\? choose one of sum, full"),
        (
            {"model__straight_through": "nearly"},
            r"'nearly': choose one of detached, parity",
        ),
        ({"optim__rate": "govenor"}, r"did you mean 'governor'"),
        ({"optim__schedule": "cosin"}, r"did you mean 'cosine'"),
        ({"data__name": "minst"}, r"did you mean 'mnist'"),
        ({"optim__learning_rate": 0.0}, r"learning_rate = 0\.0: must lie in \(0, inf\)"),
        (
            {"optim__learning_rate": 1.5, "optim__rate": "constant"},
            r"= 1\.5: must lie between .* learning_rate_max = 1\.0",
        ),
        (
            {"optim__learning_rate_min": 1.5},
            r"config\.optim\.learning_rate_min = 1\.5: must not exceed learning_rate_max = 1\.0",
        ),
        ({"train__epochs": 0}, r"epochs = 0"),
        ({"train__batch_size": 0}, r"batch_size = 0"),
        ({"governor__loss_decay": 1.0}, r"loss_decay = 1\.0: must lie in \[0, 1\)"),
        ({"data__test_fraction": 1.0}, r"test_fraction = 1\.0: must lie in \(0, 1\)"),
        ({"seed": -1}, r"config\.seed = -1"),
        ({"augment__noise_std": math.nan}, r"augment\.noise_std = nan: must be a finite number"),
        ({"governor__grow": math.inf}, r"governor\.grow = inf: must be a finite number"),
        ({"contracts__jump__target": math.nan}, r"contracts\.jump\.target = nan"),
        (
            {"contracts__jump__target": -1.0},
            r"config\.contracts\.jump\.target must be .* > 0, got -1",
        ),
        (
            {"contracts__window__mechanism": "dul"},
            r"contracts\.window\.mechanism must be one of .*'dul'",
        ),
        ({"contracts__entropy__kp": -1.0}, r"config\.contracts\.entropy: kp must be >= 0"),
        (
            {"contracts__entropy__maximum": 0.001, "contracts__entropy__mechanism": "constant"},
            r"config\.contracts\.entropy: initial must lie in",
        ),
        ({"contracts__jump__minimum": 0.0}, r"config\.contracts\.jump: minimum must be > 0, got"),
        ({"contracts__entropy__gate": "windo"}, r"contracts\.entropy\.gate must be one of .*'windo'"),
        ({"contracts__variance__target_rule": "warm"}, r"target_rule must be one of absolute, warmup, got 'warm'"),
        ({"contracts__entropy__mechanism": "track"}, r"there is nothing that its weight follows"),
        ({"contracts__window__error_clip": -1.0}, r"config\.contracts\.window\.error_clip must be finite and > 0"),
        ({"governor__signal": "loss"}, r"'loss': choose one of task, lyapunov"),
        ({"losses__metric_distance": "laten"}, r"did you mean 'latent'"),
        ({"window__ground": "capcity"}, r"did you mean 'capacity'"),
        ({"window__estimate": "batch"}, r"'batch': choose one of epoch, usage, probe"),
        ({"window__capacity_fraction": 1.0}, r"capacity_fraction = 1\.0: must lie in \(0, 1\)"),
        ({"window__capacity_horizon": 0}, r"capacity_horizon = 0"),
        ({"targets__warmup_epochs": 0}, r"targets\.warmup_epochs = 0: must lie in \[1, inf\)"),
        ({"targets__warmup_minimum": 0.0}, r"targets\.warmup_minimum = 0\.0: must lie in \(0, inf\)"),
        ({"probe__size": 1}, r"probe\.size = 1: must lie in \[2, inf\)"),
        ({"probe__every_steps": 0}, r"probe\.every_steps = 0"),
        ({"geometry__metric": "fisher"}, r"did you mean 'router_fisher'"),
        ({"geometry__initial_length": 0.05}, r"initial_length = 0\.05: must lie in \[0\.1, 10\]"),
        ({"hierarchy__action": "stop"}, r"'stop': choose one of warn, rate, freeze"),
        ({"hierarchy__minimum": 0.0}, r"hierarchy\.minimum = 0\.0: must lie in \(0, 1\]"),
        ({"optim__group_rates__codes": -1.0}, r"optim\.group_rates\.codes = -1\.0: must lie in \[0, inf\)"),
        ({"optim__latent_speed": -0.1}, r"latent_speed = -0\.1"),
        ({"optim__plateau_factor": 1.0}, r"plateau_factor = 1\.0: must lie in \(0, 1\)"),
        (
            {"optim__rate": "prodigy", "revival__dead_chart": 0.1},
            r"config\.optim\.rate = 'prodigy': a revival resets Adam's moments",
        ),
        ({"revival__dead_code": 1.0}, r"dead_code = 1\.0: must lie in \[0, 1\)"),
        ({"gates__warmup_epochs": -1}, r"gates\.warmup_epochs = -1"),
        ({"gates__stability": 0.0}, r"gates\.stability = 0\.0: must lie in \(0, inf\)"),
        ({"monitor__on_saturation": "stop"}, r"'stop': choose one of warn, freeze, halt"),
        ({"monitor__saturation_patience": 0}, r"saturation_patience = 0"),
        ({"name": " "}, r"config\.name is empty"),
        ({"gates__hold_epochs": 10**12}, r"hold_epochs = 1000000000000: must lie in \[-2147483647, 2147483647\]"),
        ({"baselines__codes": 2**31}, r"baselines\.codes = 2147483648: must lie in"),
        ({"optim__learning_rate_max": 1e39}, r"config\.optim\.learning_rate_max = 1e\+39: must be a finite number"),
        ({"optim__eps": 1e-50}, r"config\.optim\.eps = 1e-50: must lie in \(0, inf\)"),
        ({"optim__b1": 0.99999999999}, r"b1 = 0\.99999999999: must lie in \[0, 1\)"),
        ({"monitor__max_rollbacks": -1}, r"max_rollbacks = -1"),
        ({"train__until": "setled"}, r"did you mean 'settled'"),
        ({"losses__likelihood": "profil"}, r"did you mean 'profile'"),
        ({"losses__window_power": 0}, r"window_power = 0: must lie in \[1, inf\)"),
        ({"optim__average": -1.0}, r"optim\.average = -1\.0: must lie in \[0, inf\)"),
        ({"optim__grad_clip": -1.0}, r"grad_clip = -1\.0: must lie in \[0, inf\)"),
        ({"ending__share": 0.0}, r"ending\.share = 0\.0: must lie in \(0, inf\)"),
        ({"ending__floor": 0.0}, r"ending\.floor = 0\.0: must lie in \(0, 1\]"),
        ({"ending__least_gain": -0.1}, r"ending\.least_gain = -0\.1: must lie in \[0, inf\)"),
    ],
)
def test_a_bad_value_is_named_with_its_field(fields, said):
    with pytest.raises(UserError, match=said) as caught:
        validate.validate(changed(**fields))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "field",
    ["model.latent_dim", "model.num_charts", "model.codes_per_chart", "model.hidden_dim", "window.capacity_horizon"],
)
def test_a_size_that_no_machine_holds_is_refused_with_its_bytes(field):
    """At once: to trace such a program would take hours, to allocate it the machine."""
    with pytest.raises(UserError, match=rf"config\.{field} = 10{{12}}: .* needs \d{{13,}} bytes of memory"):
        validate.validate(changed(**{field.replace(".", "__"): 10**12}))


def test_every_integer_is_held_to_what_programs_count_in():
    for name, value in io.flat(default_config()):
        if isinstance(value, int) and not isinstance(value, bool):
            with pytest.raises(UserError, match=name.split(".")[-1]):
                validate.validate(changed(**{name.replace(".", "__"): 2**31}))


def test_every_number_of_the_default_is_asked_for():
    asked = {name for names in validate.INTERVALS.values() for name in names} | set(validate.CHOICES)
    free = {"name", "data.data_dir", "model.gate_bias_init", "population.best", "population.sweep"}
    free |= {f"data.{name}" for name in ("name", "label", "columns", "resize", "shape")} | {
        "init_from",
        "mesh.coordinator",
    }
    free |= {f"mlflow.{name}" for name in ("tracking_uri", "experiment", "run_name")}
    for name, value in io.flat(default_config()):
        if not (name.startswith("contracts.") or isinstance(value, bool)):
            assert name in asked | free, name


@pytest.mark.parametrize("field", sorted(validate.CHOICES))
def test_every_word_that_a_field_may_be_is_valid(field):
    for word in validate.CHOICES[field]:
        validate.validate(changed(**{field.replace(".", "__"): word}))


def test_every_contract_has_every_field_that_a_run_may_change():
    config = default_config()
    fixed = {"name", "signal", "relation", "wants_labels", "advice", "follows", "shape"}
    every = {field.name for field in dataclasses.fields(Contract)}
    assert set(config.contracts) == {row.name for row in TABLE}
    for row in TABLE:
        block = config.contracts[row.name].to_dict()
        assert set(block) == every - fixed
        assert block == {name: getattr(row, name) for name in block}


def test_a_contract_may_change_its_mechanism_gate_and_rule():
    fields = {"mechanism": "pid", "gate": "none", "target_rule": "warmup", "ratio": 0.5, "form": "report", "kp": 0.2}
    config = changed(**{f"contracts__consistency__{name}": value for name, value in fields.items()})
    validate.validate(config)
    row = next(row for row in select_rows(config) if row.name == "consistency")
    assert {name: getattr(row, name) for name in fields} == fields


def test_a_weight_that_a_precision_learns_has_no_contract():
    names = {row.name for row in select_rows(changed(precision__enabled=True))}
    assert {row.name for row in select_rows(default_config())} - names == {"route"}


@given(
    st.sampled_from([("model.latent_dim", 1), ("train.epochs", 1), ("model.num_charts", 2)]),
    st.integers(-5, 5),
)
def test_lower_bounds_hold_for_any_integer(field, value):
    name, least = field
    config = changed(**{name.replace(".", "__"): value})
    if value >= least:
        validate.validate(config)
    else:
        with pytest.raises(UserError, match=name):
            validate.validate(config)


def test_json_round_trip_keeps_every_field():
    config = changed(data__num_examples=7, optim__learning_rate=0.001)
    again = io.from_json(io.to_json(config), "here")
    assert dict(io.flat(again)) == dict(io.flat(config))
    assert again.data.num_examples == 7
    assert again.data.data_dir is None


def test_a_field_newer_than_the_file_takes_its_default():
    saved = json.loads(io.to_json(default_config()))
    del saved["augment"]["scale"]
    assert io.from_json(json.dumps(saved), "here").augment.scale == default_config().augment.scale


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "here is not a saved configuration"),
        ("[1]", "here is not a saved configuration"),
        ('{"seed": "x"}', "here: seed = 'x' has the wrong type"),
        ('{"train": {"epoch": 3}}', "here has the field train.epoch, unknown to this version"),
    ],
)
def test_text_that_is_no_configuration_is_refused(text, said):
    with pytest.raises(UserError, match=said):
        io.from_json(text, "here")


def test_differences_name_fields_and_leave_out_what_may_change():
    new = changed(seed=3, train__epochs=7, log__every_epochs=9, optim__b1=0.5, monitor__on_saturation="halt")
    assert io.differences(default_config(), new, ignore=RESUMABLE) == [
        "optim.b1: 0.9 → 0.5",
        "seed: 0 → 3",
    ]
    assert "train.epochs: 200 → 7" in io.differences(default_config(), new)
    assert io.differences({}, {"a": {"b": 1}}) == ["a.b: absent → 1"]


@pytest.mark.parametrize(
    "name, variant, expected",
    [
        ("digits", None, {"data.name": "digits", "supervised.enabled": True}),
        ("digits", "unsupervised", {"name": "digits_unsupervised", "supervised.enabled": False}),
        ("mnist", None, {"data.num_examples": 3000, "train.batch_size": 128, "data.test_fraction": 0.2}),
        ("mnist", "full", {"name": "mnist_full", "data.num_examples": None, "train.epochs": 80}),
        ("cifar10", None, {"data.name": "cifar10", "data.num_examples": None}),
        ("cifar10", "subset", {"name": "cifar10_subset", "data.num_examples": 3000}),
        ("manifolds", "moons_2d", {"data.name": "moons_2d", "supervised.enabled": False}),
    ],
)
def test_configuration_files_override_the_default_and_are_valid(name, variant, expected):
    config = load(name)() if variant is None else load(name)(variant)
    validate.validate(config)
    fields = dict(io.flat(config))
    assert {field: fields[field] for field in expected} == expected
    assert fields.keys() == dict(io.flat(default_config())).keys()


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10", "manifolds"])
def test_an_unknown_variant_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=r"unknown variant 'zzz'; known are [a-z]"):
        load(name)("zzz")


def test_guesses_beyond_the_bounds_of_their_controller_start_at_the_bound_and_are_told():
    config = default_config()
    assert clipped(config) == []
    config.optim.learning_rate = 1.5
    config.contracts.diversity.initial = 1e3
    config.contracts.commitment.initial = 1.0  # constant: nothing controls it
    validate.validate(config)
    told = {guess["field"]: (guess["value"], guess["start"]) for guess in clipped(config)}
    most = config.contracts.diversity.maximum
    assert told == {"optim.learning_rate": (1.5, 1.0), "contracts.diversity.initial": (1e3, most)}
    system, rows = make_control(config, num_classes=10)
    state = system.init()
    assert state.governor.rate == np.float32(1.0)
    assert next(row for row in rows if row.name == "diversity").initial == most
    config.optim.rate = "constant"
    assert [guess["field"] for guess in clipped(config)] == ["contracts.diversity.initial"]


@pytest.mark.parametrize(
    "field, idle, other",
    [
        ("model.kmeans_start", False, True),
        ("geometry.after", "freeze", "slow"),
        ("contracts.window.max_step", 0.0, 0.1),
    ],
)
def test_a_field_that_is_gone_is_taken_where_it_did_nothing_and_refused_elsewhere(field, idle, other):
    def saved(value):
        fields = json.loads(io.to_json(default_config()))
        *blocks, leaf = field.split(".")
        block = fields
        for name in blocks:
            block = block[name]
        block[leaf] = value
        return json.dumps(fields)

    assert dict(io.flat(io.from_json(saved(idle), "here"))) == dict(io.flat(default_config()))
    with pytest.raises(UserError, match=field):
        io.from_json(saved(other), "here")


def test_a_configuration_older_than_discs_is_of_the_model_that_it_was_saved_for():
    saved = json.loads(io.to_json(default_config()))
    for block, name in (("model", "discs"), ("model", "bounded"), ("losses", "told_share")):
        del saved[block][name]
    found = io.from_json(json.dumps(saved), "config.json")
    assert (found.model.discs, found.model.bounded) == (False, False)
    assert io.from_json("{}", "config.json").model.discs  # nothing saved is nothing older


def test_glue_wants_a_second_view():
    with pytest.raises(UserError, match=r"losses\.glue = True: needs"):
        validate.validate(changed(losses__glue=True, contracts__orbit__enabled=False))
    validate.validate(changed(losses__glue=True))
