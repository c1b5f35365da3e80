"""Faults put into runs on digits: control names each, does something about it, and is silent where there is none."""

import json
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_config import get_config

from topojax.data import sets
from topojax.errors import UserError
from topojax.scoring.run import build
from topojax.storage.logs import number, numbers
from topojax.tracking.events import events
from topojax.training import loop

pytestmark = pytest.mark.slow  # programs of their own, tens of epochs each
ROWS = ("commitment", "route", "entropy", "diversity", "window", "per_chart_code_entropy", "residual_scale")
UPDATE_RATIO = 0.01


def config(rows=ROWS, **fields):
    """A run of 22 steps an epoch that grounds its charts within 5 epochs: I(X;K) > 0.4 log 10 = 0.92 nats."""
    c = get_config()
    c.data.num_examples, c.train.batch_size = None, 64
    c.model.hidden_dim, c.model.num_charts, c.model.codes_per_chart = 32, 10, 4
    c.model.covariant, c.model.transport = True, False
    c.optim.update_ratio, c.optim.grad_clip = UPDATE_RATIO, 1.0
    c.losses.likelihood = "fixed"
    c.governor.recover, c.governor.stable_patience = 2.0, 2
    c.monitor.saturation_patience = 5
    for name, contract in c.contracts.items():
        contract.enabled = name in rows
    c.contracts.per_chart_code_entropy.gate = c.contracts.residual_scale.gate = "none"
    c.contracts.residual_scale.maximum = 0.02
    c.contracts.route.mechanism = "constant"  # one contract alone is out of reach
    c.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return c


class Driven:
    """A program, compiled, driven epoch by epoch as the trainer does."""

    def __init__(self, c: Any):
        self.config, dataset = c, sets.load(c.data, seed=c.seed)
        self.data = jax.tree.map(jnp.asarray, dataset.train)
        _, self.program = build(c, dataset.sizes())
        self.init = jax.jit(self.program.init)
        self.epoch = jax.jit(self.program.epoch, compiler_options={"xla_cpu_use_fusion_emitters": False})
        self.advice = {row.name: row.advice for row in self.program.rows}

    def run(self, epochs, fault=lambda epoch, state, batch: (state, batch)):
        """The last state, a row of metrics for each epoch, and every event with its epoch.

        `fault` changes state or data before an epoch; epochs count from 1.
        """
        state = self.init()
        previous = {"lr_governor": number(jnp.float32(self.config.optim.learning_rate))}
        rows, told = [], []
        for epoch in range(1, epochs + 1):
            state, vector = self.epoch(*fault(epoch, state, self.data))
            row = numbers(self.program.named(np.asarray(vector)))
            told += [{"epoch": epoch, **event} for event in events(previous, row, self.advice)]
            rows.append(row)
            previous = row
        return state, rows, told


@pytest.fixture(scope="module")
def healthy():
    return Driven(config())


@pytest.fixture(scope="module")
def calm(healthy):
    """40 epochs in which nothing is wrong."""
    return healthy.run(40)


def named(told, kind, **fields):
    """Events of a kind, with these fields."""
    return [e for e in told if e["event"] == kind and all(e.get(name) == value for name, value in fields.items())]


def cuts(told):
    return [event for event in named(told, "rate") if event["to"] < event["from"]]


def finite(state):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_without_a_fault_nothing_is_named(calm):
    state, rows, told = calm
    assert finite(state)
    assert rows[-1]["signal/task"] < 0.3 * rows[0]["signal/task"]
    assert rows[-1]["signal/I_XK"] > 1.5
    # More than the latent's speed allows; a loss that jumps once, when it is small, costs no rate.
    assert {cut["cause"] for cut in cuts(told)} <= {"oversized"}
    for kind in ("steps_skipped", "grounding_lost", "grounding_given_up", "barrier_given_up"):
        assert not named(told, kind), kind
    for kind in ("constraint_unsatisfied", "signal_not_finite", "barrier"):
        assert not named(told, kind), kind


UNREACHABLE = {"contracts__residual_scale__target": 1e-6}  # of ‖z_n‖², which the decoder lives on


def lines(workdir, name):
    return [json.loads(line) for line in (pathlib.Path(workdir) / name).read_text().splitlines()]


@pytest.mark.campaign
def test_an_unreachable_target_halts_the_run_saved_and_with_advice(calm, tmp_path):
    halting = config(**UNREACHABLE, monitor__on_saturation="halt", train__epochs=10)
    with pytest.raises(UserError, match=r"contract residual_scale cannot be satisfied .*use more codes per chart"):
        loop.train_and_evaluate(halting, tmp_path)
    assert not (tmp_path / "result.json").exists()
    # At its maximum within the first epoch, found out after 5, heard at the next log.
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())[-1] == 6
    (found,) = named(lines(tmp_path, "events.jsonl"), "constraint_unsatisfied")
    assert (found["name"], found["epoch"]) == ("residual_scale", 5)
    assert found["weight"] == pytest.approx(0.02)
    assert found["value"] > 100 * found["target"]
    assert "codes" in found["advice"]
    (halted,) = named(lines(tmp_path, "events.jsonl"), "halted")
    assert (halted["name"], halted["epoch"]) == ("residual_scale", 6)

    going_on = config(**UNREACHABLE, monitor__on_saturation="warn", train__epochs=10)
    state = loop.train_and_evaluate(going_on, tmp_path)
    assert int(state.step) == 10 * 22
    table = json.loads((tmp_path / "result.json").read_text())["contracts"]
    assert [line["contract"] for line in table if line["saturated"]] == ["residual_scale"]
    (line,) = (line for line in table if line["contract"] == "residual_scale")
    assert line["satisfied"] is False
    assert "codes" in line["advice"]
    assert len(named(lines(tmp_path, "events.jsonl"), "constraint_unsatisfied")) == 1
    # The same weight, with a target that can be met, is not at its maximum and violated.
    assert not any(row["contract/residual_scale/unsatisfiable"] for row in calm[1])


def test_a_target_out_of_reach_can_hold_the_rate():
    slow = {"optim__learning_rate": 0.004}  # of at most 0.01: a healthy rate grows
    _, rows, told = Driven(
        config(**UNREACHABLE, **slow, monitor__on_saturation="freeze", governor__recovery_threshold=0.1)
    ).run(10)
    assert [(e["epoch"], e["name"]) for e in named(told, "constraint_unsatisfied")] == [(5, "residual_scale")]
    rates = [row["lr_governor"] for row in rows]
    assert rates[:3] == pytest.approx([0.004, 0.004, 0.0042])  # by 1.05 from the second healthy epoch on, up to the cap
    assert set(rates[4:]) == {rates[4]}


HOT = {"optim__learning_rate": 1.0, "optim__learning_rate_max": 1.0}  # 100 times


def test_a_rate_far_too_high_is_capped_at_once_and_cut(calm):
    state, rows, told = Driven(config(**HOT)).run(20)
    assert finite(state)
    # What is in force is under the caps from the first step on, whatever the governor holds.
    assert max(row["lr"] for row in rows) < 0.1
    assert {e["to"] for e in named(told, "cap")} & {"update_ratio", "latent_speed"}
    assert all(row["lr_cap"] in (2, 3) for row in rows[:3])
    assert "oversized" in {e["cause"] for e in cuts(told)} <= {"oversized", "spike", "barrier"}
    assert min(row["lr_governor"] for row in rows) <= 0.1
    assert rows[-1]["signal/I_XK"] > 0.92  # the charts are grounded all the same
    soon, calmly = ([cut for cut in cuts(told) if cut["epoch"] <= 12] for told in (told, calm[2]))
    factors = [cut["from"] / cut["to"] for cut in calmly]
    assert soon[0]["from"] / soon[0]["to"] > max(factors, default=2.0)  # down to what is allowed, at once


def test_without_caps_the_barrier_slows_the_group_that_is_too_fast():
    state, rows, told = Driven(config(**HOT, optim__update_ratio=0.0, optim__latent_speed=0.0)).run(24)
    assert finite(state)
    assert rows[0]["lr"] == 1.0  # nothing else in its way
    assert named(told, "barrier")[0]["scale"] == "gamma"
    assert min(row["rate/decoder"] for row in rows) <= 0.125
    assert rows[-1]["governor/grounded"] == 0  # and never was: nothing is lost


def test_labels_that_change_under_a_run_are_a_spike(healthy, calm):
    changed = 15
    other = jax.random.permutation(jax.random.key(5), len(healthy.data.label))
    shuffled = healthy.data._replace(label=healthy.data.label[other])

    def fault(epoch, state, batch):
        return state, shuffled if epoch > changed else batch

    state, rows, told = healthy.run(24, fault)
    assert rows[:changed] == calm[1][:changed]
    (spike,) = named(told, "spike")
    assert changed < spike["epoch"] <= changed + 2
    assert spike["loss"] > 2 * rows[changed - 1]["signal/task"]
    assert all(event["epoch"] > changed for event in cuts(told) if event["cause"] != "oversized")
    assert "spike" in {event["cause"] for event in cuts(told)}
    assert rows[-1]["lr_governor"] <= 0.25 * rows[changed - 1]["lr_governor"]
    # Charts no longer say the class: that is named too.
    assert changed < named(told, "grounding_lost")[0]["epoch"] <= changed + 4
    assert finite(state)


@pytest.mark.parametrize("share", [1.0, 100.0])
def test_a_decoder_that_outruns_the_signal_is_a_barrier_and_loses_its_share(share):
    _, rows, told = Driven(config(optim__group_rates__decoder=share, optim__update_ratio=0.05)).run(14)
    barriers = named(told, "barrier", scale="gamma")
    shares = [e for e in named(told, "group_rate", group="decoder") if e["to"] < e["from"]]
    if share == 1.0:
        assert not barriers
        assert not shares
        assert rows[-1]["rate/decoder"] == 1.0
        return
    assert barriers[0]["gamma"] > 0.5 * barriers[0]["alpha"]
    assert barriers[0]["groups"] == "decoder"
    assert {e["cause"] for e in shares} == {"gamma"}
    assert shares[0]["epoch"] == barriers[0]["epoch"]
    assert min(row["rate/decoder"] for row in rows) <= 0.5
    assert rows[-1]["signal/I_XK"] > 0.92
    # The charts are fine, whatever the barriers' cuts are used up on.
    assert not named(told, "grounding_given_up")


def test_charts_that_nothing_pulls_apart_are_not_grounded(calm):
    bare = ("commitment", "per_chart_code_entropy", "residual_scale")
    _, rows, told = Driven(config(bare, supervised__enabled=False)).run(27)
    assert all(row["signal/I_XK"] < 0.92 for row in rows)
    assert all(row["governor/grounded"] == 0 for row in rows)
    # They have lost nothing: no rate would find what no contract asks for.
    assert not [cut for cut in cuts(told) if cut["cause"] == "grounding"]
    assert not named(told, "grounding_given_up")
    # With labels, window and diversity: grounded before the warm-up is over, and for good.
    assert all(row["governor/grounded"] == 1 for row in calm[1][10:])


def test_a_signal_that_is_not_finite_is_named_and_holds_its_weight_alone(healthy, calm):
    at = 4

    def fault(epoch, state, batch):
        if epoch == at:
            counts = state.usage.counts.at[0].set(jnp.nan)  # of chart 0, and of the decayed usage for good
            state = state.replace(usage=state.usage._replace(counts=counts))
        return state, batch

    state, rows, told = healthy.run(6, fault)
    found = named(told, "signal_not_finite")
    assert {event["name"] for event in found} == {"per_chart_code_entropy"}
    assert found[0]["epoch"] == at
    assert found[0]["count"] >= 1
    assert rows[-1]["contract/per_chart_code_entropy/signal"] is None
    # Weights were counted without it: nothing else has noticed.
    quiet = ("signal/task", "weight/window", "weight/diversity", "lr_governor", "signal/I_XK")
    for name in quiet:
        assert rows[at - 1][name] == pytest.approx(calm[1][at - 1][name], rel=1e-3), name
    assert finite(state)
    assert math.isfinite(rows[-1]["weight/per_chart_code_entropy"])


def test_a_spoilt_example_costs_its_steps_and_half_of_the_rate(healthy, calm):
    at = 6
    spoilt = healthy.data._replace(image=healthy.data.image.at[7, 0].set(jnp.nan))

    def fault(epoch, state, batch):
        return state, spoilt if epoch == at else batch

    state, rows, told = healthy.run(12, fault)
    assert [(e["epoch"], e["count"]) for e in named(told, "steps_skipped")] == [(at, 1)]
    (cut,) = (cut for cut in cuts(told) if cut["cause"] != "oversized")
    assert (cut["epoch"], cut["cause"]) == (at, "non_finite")
    assert cut["to"] == pytest.approx(0.5 * cut["from"])
    assert finite(state)
    assert rows[-1]["signal/task"] < rows[at - 1]["signal/task"]
    assert rows[-1]["lr_governor"] >= rows[at - 1]["lr_governor"]  # healthy again, it may grow, up to the caps
