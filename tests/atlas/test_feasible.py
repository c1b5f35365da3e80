"""Targets that contradict each other and gains that cannot settle, by their numbers, and as a user hears of them."""

import dataclasses
import importlib.util
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topojax.atlas.controllers import select_rows
from topojax.atlas.feasible import conflicts, unstable_gains
from topojax.atlas.table import TABLE, Contract
from topojax.config import validate
from topojax.config.defaults import default_config
from topojax.data.manifolds import MANIFOLDS
from topojax.errors import UserError

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
UNITS = {"1": 1.0, "nat": 1.0, "log_charts": 2.0, "log_codes": 4.0, "log_classes": 3.0}  # round numbers, not logs
ROWS = {row.name: row for row in TABLE}


def with_targets(**targets):
    """Rows of the table with these targets, in their units."""
    return [dataclasses.replace(ROWS[name], target=target) for name, target in targets.items()]


def only(found):
    """The one sentence that was found."""
    assert len(found) == 1
    assert "\n" not in found[0]
    return found[0]


def test_the_window_fits_between_its_two_entropies():
    # H(K) = 0.9 · 2, H(K|X) = 0.2 · 2: 1.4 nats of information are left, and 0.7 · 2 asks for just that
    assert conflicts(with_targets(diversity=0.9, entropy=0.2, window=0.7), UNITS) == []
    said = only(conflicts(with_targets(diversity=0.9, entropy=0.2, window=0.75), UNITS))
    assert said == (
        "contracts.window asks for I(X;K) >= 1.5 nats, but contracts.diversity (H(K) 1.8) and contracts.entropy "
        "(H(K|X) 0.4) leave 1.4: lower window's or entropy's target, or raise diversity's"
    )
    assert "leave 0:" in only(conflicts(with_targets(diversity=0.3, entropy=0.5, window=0.1), UNITS))


@pytest.mark.parametrize("missing", ["diversity", "entropy", "window"])
def test_two_of_the_three_contradict_nothing(missing):
    targets = {"diversity": 0.5, "entropy": 0.4, "window": 0.9}
    del targets[missing]
    assert conflicts(with_targets(**targets), UNITS) == []


def test_a_window_of_two_sides_bounds_usage_too():
    rows = with_targets(diversity=0.6, window=0.5)
    assert conflicts(rows, UNITS) == []
    said = only(conflicts(rows, UNITS, two_sided=True))  # 0.6 · 2 > 2 − 0.5 · 2
    assert said.startswith("contracts.diversity asks for H(K) >= 1.2 nats")
    assert said.endswith("log N - epsilon = 1: lower one target")
    assert conflicts(with_targets(diversity=0.5, window=0.5), UNITS, two_sided=True) == []


@given(st.floats(0.01, 1.0), st.floats(0.01, 1.0), st.floats(0.01, 1.0), st.booleans())
def test_what_is_refused_cannot_be_met_and_what_is_not_can(diversity, entropy, window, two_sided):
    # I = H(K) − H(K|X) at the set-points; a window of two sides leaves H(K) no more than log N − ε
    margins = [diversity - entropy - window] + ([1 - window - diversity] if two_sided else [])
    found = conflicts(with_targets(diversity=diversity, entropy=entropy, window=window), UNITS, two_sided=two_sided)
    if all(abs(margin) > 1e-5 for margin in margins):
        assert len(found) == sum(margin < 0 for margin in margins)


def test_temperature_and_purity_hold_one_entropy():
    assert conflicts(with_targets(sup_purity=0.2, sup_temperature=0.2), UNITS) == []
    said = only(conflicts(with_targets(sup_purity=0.2, sup_temperature=0.3), UNITS))
    assert "class entropy at 0.9 nats" in said  # 0.3 · 3
    assert "allows 0.6" in said


def test_no_entropy_exceeds_the_log_of_its_alphabet():
    said = only(conflicts(with_targets(per_chart_code_entropy=1.1), UNITS))
    assert said == "contracts.per_chart_code_entropy.target = 1.1 log_codes: H_code_in_chart is at most 1 log_codes"
    assert conflicts(with_targets(per_chart_code_entropy=1.0, entropy=1.5, variance=1.5), UNITS) == []


def test_the_latent_has_no_more_energy_than_its_ball():
    assert conflicts(with_targets(variance=1.2), UNITS) == []
    said = only(conflicts(with_targets(variance=1.2), UNITS, largest_energy=0.9604))
    assert said.startswith("contracts.variance.target = 1.2 exceeds 0.96")
    assert conflicts(with_targets(variance=0.9), UNITS, largest_energy=0.9604) == []


def test_a_target_that_a_warm_up_will_set_contradicts_nothing():
    rows = with_targets(diversity=0.5, entropy=0.4, window=0.9)
    assert len(conflicts(rows, UNITS)) == 1
    rows[0] = dataclasses.replace(rows[0], target_rule="warmup")
    assert conflicts(rows, UNITS) == []


# Gains.

PID = Contract("c", "pid", "m", "<=", 0.5, form="report", kp=0.1, ki=0.05, lag=2.0)


def test_a_report_form_pid_is_stable_for_kp_above_lag_times_ki():
    # K_p > τ K_i: 0.1 against 2 · 0.05, on the edge; the largest stable K_i is 0.1 / 2
    gains = {"kp": 0.1, "ki": 0.05, "kd": 0.0, "lag": 2.0}
    assert unstable_gains([PID]) == [{"name": "c", **gains, "ki_below": 0.05}]
    assert unstable_gains([dataclasses.replace(PID, ki=0.049)]) == []
    # K_p (1 + K_d) > τ K_i: 0.1 · 1.5 = 0.15 against 2 · 0.08
    derived = dataclasses.replace(PID, ki=0.08, kd=0.5)
    assert unstable_gains([derived])[0]["ki_below"] == 0.075
    assert unstable_gains([dataclasses.replace(derived, ki=0.074)]) == []


@pytest.mark.parametrize("change", [{"form": ""}, {"form": "position"}, {"adaptive": False}, {"lag": 0.0}])
def test_other_forms_and_rows_that_do_not_move_need_no_such_gains(change):
    assert unstable_gains([dataclasses.replace(PID, **change)]) == []
    assert unstable_gains([dataclasses.replace(PID, mechanism="dual", form="additive")]) == []


# As a user hears of it.


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"contracts.window.target": 0.8}, "config.contracts.window asks for I(X;K) >= 1.84 nats"),
        ({"contracts.entropy.target": 0.6}, "config.contracts.window asks for I(X;K) >= 0.921 nats"),
        ({"contracts.window.target": 1.5}, "config.contracts.window.target must lie in (0, log N = 2.30"),
        ({"contracts.diversity.target": 1.1}, "config.contracts.diversity.target = 1.1 log_charts: H_K is at most 1"),
        ({"losses.window_two_sided": True}, "config.contracts.diversity asks for H(K) >= 2.19 nats"),
        ({"contracts.variance.target": 0.97}, "config.contracts.variance.target = 0.97 exceeds 0.96"),
        (
            {"contracts.sup_temperature.enabled": True, "contracts.sup_temperature.target": 0.2},
            "config.contracts.sup_temperature holds class entropy",
        ),
    ],
)
def test_a_conflict_is_one_line(fields, said):
    config = default_config()
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError) as error:
        validate.validate(config)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_a_latent_without_a_ball_may_have_any_energy():
    config = default_config()
    config.model.ball = False
    config.contracts.variance.target = 5.0
    validate.validate(config)


def get_config(name, *variant):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*variant)


VARIANTS = {"digits": ("", "unsupervised"), "mnist": ("subset", "full"), "cifar10": ("", "subset")}
VARIANTS["manifolds"] = tuple(MANIFOLDS)
EVERY = [(name, variant) for name, variants in VARIANTS.items() for variant in variants]


def test_every_configuration_file_is_among_them():
    assert {path.stem for path in CONFIGS.glob("*.py")} == set(VARIANTS)


@pytest.mark.parametrize("name, variant", EVERY)
def test_every_configuration_is_feasible(name, variant):
    config = get_config(name, variant)
    validate.validate(config)
    assert unstable_gains(select_rows(config)) == []


@pytest.mark.parametrize("name", VARIANTS)
def test_a_configuration_without_its_variant_is_feasible(name):
    validate.validate(get_config(name))


def test_the_default_is_feasible_with_every_contract_on():
    config = default_config()
    for contract in config.contracts.values():
        contract.enabled = True
    validate.validate(config)
