"""A state under other settings: what was set is set, and what was learned stays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_program

from topojax.atlas.controllers import make_control
from topojax.config.changes import CHANGEABLE, changes, may_change
from topojax.config.defaults import default_config
from topojax.config.io import flat
from topojax.step.changed_state import changed

ROWS = ("commitment", "entropy", "diversity", "window", "consistency", "separation", "per_chart_code_entropy")


def control_of(config):
    return make_control(config, num_classes=tiny_program.CLASSES)[0]


def lived(config, seed=0):
    """A control state with a history: every number of its bank is its own."""
    rng = np.random.default_rng(seed)
    state = control_of(config).init()

    def own(leaf):
        if leaf.dtype == jnp.float32:
            return jnp.asarray(rng.uniform(0.3, 0.9, leaf.shape), jnp.float32)
        return leaf

    system = control_of(config)
    bank = jax.tree.map(own, state.bank)._replace(epoch=jnp.int32(30), warmed=jnp.full_like(state.bank.warmed, 10))
    return state._replace(bank=system.bank.retarget(bank, "window", state.coupling.epsilon))


@dataclasses.dataclass(frozen=True)
class State:
    """Of a training state what `changed` reads."""

    control: object


def moved(old, **fields):
    new = old.copy_and_resolve_references()
    new.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    names = {change.field for change in changes(old, new)}
    before = lived(old)
    return new, before, changed(State(before), old, new, names, num_classes=tiny_program.CLASSES).control


def weights(config, control):
    system = control_of(config)
    return {name: np.asarray(value) for name, value in system.weights(control).items()}


def test_without_a_change_that_concerns_it_a_bank_is_what_it_was():
    old = tiny_program.config(ROWS, contracts__consistency__maximum=1.0)
    _, before, after = moved(old, augment__rotation=0.1)
    same = jax.tree.map(np.array_equal, before.bank, after.bank)
    assert all(jax.tree.leaves(same))


def test_bounds_clip_weights_and_rate():
    old = tiny_program.config(ROWS, contracts__consistency__maximum=1.0)
    new, before, after = moved(
        old, contracts__consistency__maximum=0.05, contracts__entropy__minimum=2.0, optim__learning_rate_max=0.002,
        optim__learning_rate=0.002,
    )  # fmt: skip
    got, was = weights(new, after), weights(old, before)
    assert got["consistency"] == np.float32(0.05)
    assert got["entropy"] == 0 or got["entropy"] == np.float32(2.0)  # behind its gate
    assert got["diversity"] == was["diversity"]
    assert after.governor.rate == np.float32(0.002)


def test_initial_sets_the_weight_and_a_target_the_target():
    old = tiny_program.config(ROWS, contracts__consistency__maximum=1.0)
    new, before, after = moved(old, contracts__diversity__initial=0.7, contracts__separation__target=0.3)
    slices = control_of(new).bank.slices
    assert weights(new, after)["diversity"] == np.float32(0.7)
    assert after.bank.target[slices["separation"]] == np.float32(0.3)
    assert after.bank.target[slices["consistency"]] == before.bank.target[slices["consistency"]]


def test_the_windows_target_is_epsilon():
    old = tiny_program.config(ROWS, contracts__consistency__maximum=1.0)
    new, _, after = moved(old, contracts__window__target=0.1)
    epsilon = 0.1 * np.log(new.model.num_charts)
    assert after.coupling.epsilon == pytest.approx(epsilon)
    assert after.bank.target[control_of(new).bank.slices["window"]] == pytest.approx(epsilon)


def test_a_warm_ups_ratio_is_of_the_average_it_took():
    old = tiny_program.config(ROWS, contracts__separation__target_rule="warmup")
    new, before, after = moved(old, contracts__separation__ratio=0.5)
    place = control_of(new).bank.slices["separation"]
    assert after.bank.target[place] == 0.5 * before.bank.baseline[place]


def test_rows_come_and_go_and_change_their_mover():
    """The rows that stay keep everything, wherever they lie in the vectors of another bank."""
    old = tiny_program.config(ROWS, contracts__consistency__maximum=1.0)
    new, before, after = moved(
        old,
        contracts__entropy__enabled=False,
        contracts__variance__enabled=True,
        contracts__consistency__mechanism="pid",
        contracts__consistency__form="",
    )
    was, now = control_of(old).bank, control_of(new).bank
    for name in set(ROWS) - {"entropy"}:
        for field in ("target", "baseline", "saturated"):
            a, b = getattr(before.bank, field)[was.slices[name]], getattr(after.bank, field)[now.slices[name]]
            np.testing.assert_array_equal(a, b, f"{name} {field}")
    got, held = weights(new, after), weights(old, before)
    for name in set(ROWS) - {"entropy", "consistency"}:
        np.testing.assert_array_equal(got[name], held[name])
    assert got["consistency"] == pytest.approx(min(held["consistency"], new.contracts.consistency.maximum))
    assert "entropy" not in got
    fresh = control_of(new).init().bank
    assert after.bank.target[now.slices["variance"]] == fresh.target[now.slices["variance"]]
    like = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), control_of(new).init())
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == like


def test_what_may_change_is_in_the_configuration_and_sizes_are_not_among_it():
    fields = [name for name, _ in flat(default_config())]
    for pattern in CHANGEABLE:
        assert any(may_change(name) for name in fields if name.startswith(pattern.split("*")[0])), pattern
    for block in (
        "model.",
        "data.",
        "seed",
        "train.batch_size",
        "optim.rate",
        "optim.average",
        "precision.",
        "probe.size",
    ):
        assert not any(may_change(name) for name in fields if name.startswith(block)), block
