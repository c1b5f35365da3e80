"""The step on a program of a few points: what it traces, what it moves, what holds the rate, what a NaN leaves."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from controller_runs import bits
from tiny_program import BATCH, MANY, STEPS, TRAIN, Tiny, batches, data, jit, moments, moved

from topojax.atlas import losses
from topojax.atlas.hierarchy import GROUPS
from topojax.atlas.optim import groups
from topojax.atlas.table import TABLE
from topojax.data.sets import batch_indices
from topojax.types import Batch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny():
    return Tiny()


@pytest.fixture(scope="module")
def run(tiny):
    """States (the first included) and metrics of 20 epochs."""
    return tiny.run(20)


def without_readout(params):
    atlas = {name: leaf for name, leaf in params["atlas"].items() if name != "readout"}
    return np.concatenate([np.asarray(x, np.float64).reshape(-1) for x in jax.tree.leaves({**params, "atlas": atlas})])


def test_a_thousand_steps_are_one_trace(tiny, run):
    state = run[0][-1]
    cycle = list(batches(1))
    for i in range(1000):
        state, _ = tiny.train_step(state, cycle[i % STEPS])
    assert tiny.traces == 1
    assert state.step == 1000 + STEPS * 20
    assert np.isfinite(without_readout(state.params)).all()


def test_a_step_keeps_structure_shapes_and_types(tiny, run):
    def kinds(state):
        leaves = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state.replace(key=None))
        return leaves, state.key.shape, state.key.dtype

    before, after = kinds(tiny.first), kinds(run[0][1])
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert before == after
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(tiny.first.replace(key=None)))


def test_training_lowers_the_loss_it_descends(run):
    recon = [float(m["loss/recon"]) for m in run[1]]
    assert np.mean(recon[-STEPS:]) < 0.7 * np.mean(recon[:STEPS])


@pytest.mark.slow
def test_no_gradient_reaches_control_or_what_the_probe_saw(tiny, run):
    last = run[0][-1]
    leaves, structure = jax.tree.flatten((last.control, last.probed))
    floats = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    batch = next(batches(1))

    def loss(values):
        now = list(leaves)
        for i, value in zip(floats, values, strict=True):
            now[i] = value
        control, probed = jax.tree.unflatten(structure, now)
        state = last.replace(control=control, probed=probed)
        return tiny.program.train_step(state, batch, tiny.probe)[1]["loss/total"]

    grads = jit(jax.grad(loss))([leaves[i] for i in floats])
    assert {g.shape for g in grads} >= {(), (len(MANY) + 3,)}  # rates and sums, and a vector of the whole bank
    for grad in grads:
        np.testing.assert_array_equal(grad, np.zeros(grad.shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_moves_nothing_but_the_rate(tiny, run, bad):
    before = run[0][4]  # not the last step of an epoch, which moves what it has measured
    batch = list(batches(2))[4]
    poisoned = batch._replace(image=batch.image.at[0, 0].set(bad))
    after, metrics = tiny.train_step(before, poisoned)
    for part in ("params", "opt_state", "usage", "spectral", "average", "baselines", "liveness", "isotropy"):
        assert bits(getattr(after, part)) == bits(getattr(before, part)), part
    for old, new in zip(before.control.bank.groups, after.control.bank.groups, strict=True):
        assert bits(old) == bits(new)
    assert after.step == before.step + 1
    assert after.control.governor.rate == 0.5 * before.control.governor.rate
    assert after.control.governor.failures == after.control.governor.failures_total == 1
    named = tiny.named(metrics)
    assert named["guard/skipped"] == named["guard/failures"] == 1
    assert named["norm/update"] != named["norm/update"] or named["norm/update"] == 0  # unknown or none

    state = after
    for batch in batches(2):
        state, metrics = tiny.train_step(state, batch)
        assert all(np.isfinite(value) for value in tiny.named(metrics).values())
    assert state.control.governor.failures == 0
    assert bits(state.params) != bits(before.params)


@pytest.mark.parametrize("at", [0, 1, 2], ids=["probed", "neither", "probed and revived"])
def test_a_scanned_epoch_is_the_loop_over_its_batches(tiny, run, at):
    states, metrics = run
    state, vector = tiny.epoch(states[at * STEPS], data())
    expected = states[(at + 1) * STEPS]
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(state), jax.tree_util.tree_leaves(expected), strict=True
    ):
        name = jax.tree_util.keystr(path)
        if jnp.issubdtype(a.dtype, jnp.floating):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5, err_msg=name)
        elif jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(jax.random.key_data(a), jax.random.key_data(b), name)
        else:
            np.testing.assert_array_equal(a, b, name)

    named = tiny.program.named(np.asarray(vector))
    steps = [tiny.named(m) for m in metrics[at * STEPS : (at + 1) * STEPS]]
    for name, how in {
        "loss/recon": np.mean,  # of the epoch
        "signal/I_XK": np.mean,
        "norm/gradient": np.mean,
        "lr": lambda x: x[-1],  # in force at its end
        "weight/window": lambda x: x[-1],
        "contract/window/error": lambda x: x[-1],
        "contract/window/i": np.sum,  # increments add up
        "probe/V_L": lambda x: x[-1],
        "rate/decoder": lambda x: x[-1],
        "revived/codes": lambda x: x[-1],
        "guard/skipped": np.sum,
    }.items():
        expected = how([step[name] for step in steps])
        np.testing.assert_allclose(named[name], expected, rtol=1e-3, atol=1e-5, err_msg=name)


def test_an_epoch_with_a_nan_still_reports_means(tiny, run):
    train = data()
    spoilt = int(batch_indices(0, 1, TRAIN, BATCH)[1, 0])
    poisoned = train._replace(image=train.image.at[spoilt, 0].set(jnp.nan))
    state, vector = tiny.epoch(run[0][STEPS], poisoned)
    named = tiny.program.named(np.asarray(vector))
    assert named["guard/skipped"] == 1
    assert all(np.isfinite(value) for value in named.values())
    assert state.control.governor.failures_total == 1
    # Of the first step, the same as without the NaN; of the third, another: the mean is of two steps.
    assert named["loss/recon"] == pytest.approx(float(run[1][STEPS]["loss/recon"]), rel=0.2)


def test_metrics_are_finite_scalars_of_known_names(tiny, run):
    names = tiny.program.metric_names()
    assert len(set(names)) == len(names)
    for metrics in run[1]:
        named = tiny.named(metrics)
        assert tuple(named) == names
        assert all(np.shape(value) == () and np.isfinite(value) for value in named.values())
    for row in tiny.program.rows:
        expected = {f"weight/{row.name}"}
        if row.name != "sup_temperature":  # no loss: its weight is a log
            expected.add(f"loss/{row.name}")
        if row.name not in ("commitment", "route"):  # theirs are of the probe
            expected.add(f"signal/{row.signal}")
        expected |= {f"contract/{row.name}/{part}" for part in ("error", "signal", "target", "unsatisfiable", "frozen")}
        expected |= {f"contract/{row.name}/{part}" for part in ("p", "i", "d")}
        assert expected <= set(names)
    assert {"loss/recon", "loss/codebook", "loss/route", "loss/readout", "loss/total"} <= set(names)
    assert {"signal/I_XK", "signal/H_K", "signal/H_K_given_X", "signal/task", "signal/update_ratio"} <= set(names)
    assert {"signal/I_XK_usage", "signal/H_K_usage", "signal/H_code_in_chart", "signal/varentropy"} <= set(names)
    assert {f"probe/{name}" for name in ("V_L", "I_XK", "vq_ratio", "gamma", "chart_churn", "speed_cap")} <= set(names)
    assert {f"rate/{group}" for group in GROUPS} <= set(names)
    assert {"hierarchy/behind_gamma", "geometry/length", "revived/codes", "gate/phase"} <= set(names)
    assert {"norm/gradient", "norm/direction", "norm/params", "norm/update"} <= set(names)
    assert {"lr", "lr_governor", "lr_cap", "gate/window", "guard/skipped", "guard/failures"} <= set(names)
    assert {"governor/cause", "governor/grounded", "governor/exhausted", "window/over_mixing"} <= set(names)
    assert not any("*" in name for name in names)


def test_disabled_contracts_leave_no_trace(tiny):
    off = {row.name for row in TABLE} - set(MANY)
    assert off == {"orthogonality", "sup_balance"}
    parts = {part for name in tiny.program.metric_names() for part in name.split("/")}
    assert not parts & off
    assert {row.name for row in tiny.program.rows} == set(MANY)


def test_weights_in_the_log_are_those_the_loss_was_made_of(tiny, run):
    charts = "per_chart_code_entropy"  # weighed chart by chart; the log has means
    terms = set(MANY) - {charts, "sup_temperature"}
    closed = 0
    for state, metrics in zip(run[0][:-1], run[1], strict=True):
        m = {name: np.float64(value) for name, value in tiny.named(metrics).items()}
        likelihood = np.log(m["loss/recon"] + 1e-7)  # of weight 1
        total = likelihood + m["loss/codebook"] + sum(m[f"weight/{name}"] * m[f"loss/{name}"] for name in terms)
        each = np.float64(tiny.system.weights(state.control)[charts])  # Σ_n λ_n C_n with C_n ≥ 0, of mean C̄
        low, high = (len(each) * bound(each) * m[f"loss/{charts}"] for bound in (np.min, np.max))
        slack = 1e-5 * abs(total) + 1e-6
        assert total + low - slack <= m["loss/total"] <= total + high + slack
        closed += m["gate/window"] == 0
    assert closed >= 5 * STEPS  # where nothing is left between the bounds


def test_gated_weights_wait_for_the_window(run):
    first = run[1][0]
    for name in ("jump", "entropy"):
        assert first[f"weight/{name}"] == 0
    ramps = [float(m["gate/window"]) for m in run[1]]
    assert np.all(np.diff(ramps) >= 0)
    weights = [float(m["weight/residual_scale"]) for m in run[1]]
    opened = [bool(state.control.window.opened) for state in run[0][:-1]]
    held = [w for w, o in zip(weights, opened, strict=True) if not o]
    assert len(held) >= STEPS * 4
    assert set(held) == {1.0}


def test_the_rate_in_force_is_under_every_cap(tiny, run):
    states, metrics = run
    c = tiny.config.optim
    schedule = optax.warmup_cosine_decay_schedule(
        0.01 * c.learning_rate_max, c.learning_rate_max, STEPS, 20 * STEPS, 0.01 * c.learning_rate_max
    )
    causes = set()
    for before, after, m in zip(states[:-1], states[1:], metrics, strict=True):
        old, new = without_readout(before.params), without_readout(after.params)
        rate, size = float(m["lr"]), np.linalg.norm(old)
        caps = [float(before.control.governor.rate), float(schedule(before.step))]
        caps.append(c.update_ratio * size / float(m["norm/direction"]))
        caps.append(float(before.probed.speed_cap))
        assert m["lr_governor"] == after.control.governor.rate  # what the next step will start from
        np.testing.assert_allclose(rate, min(caps), rtol=1e-4)
        causes.add(int(m["lr_cap"]))
        assert rate == pytest.approx(caps[int(m["lr_cap"])], rel=1e-4)
        assert size == pytest.approx(float(m["norm/params"]), rel=1e-5)
        if m["revived/codes"] + m["revived/charts"] == 0:
            assert np.linalg.norm(new - old) <= c.update_ratio * size * (1 + 1e-4)
            assert np.linalg.norm(new - old) == pytest.approx(float(m["norm/update"]), rel=1e-3)
    assert {1, 2, 3} <= causes  # schedule, update ratio and latent speed have all been at work


@pytest.mark.parametrize("frozen", [group for group in GROUPS if group != "router"])
def test_a_group_that_the_hierarchy_freezes_keeps_its_bits(tiny, run, frozen):
    state = run[0][3]
    drift = state.control.hierarchy
    factors = drift.factors.at[GROUPS.index(frozen)].set(0.0)
    held = state.replace(control=state.control._replace(hierarchy=drift._replace(factors=factors)))
    after, _ = tiny.train_step(held, next(batches(1)))
    present = set(jax.tree.leaves(groups(state.params)))
    assert present == set(GROUPS) - {"router"}  # this model routes by its centres
    assert moved(held, after) == present - {frozen}


def test_probes_come_at_the_first_epochs_end_and_are_held_in_between(run):
    states, metrics = run
    changed = [bits(a.probed) != bits(b.probed) for a, b in itertools.pairwise(states)]
    # 7 steps are 2 epochs of 3: at the end of epochs 1, 3, 5, …, 19
    assert [i + 1 for i, new in enumerate(changed) if new] == [STEPS * epoch for epoch in range(1, 20, 2)]
    ends = [m for i, m in enumerate(metrics) if (i + 1) % STEPS == 0]
    for epoch in range(1, 20):
        same = ends[epoch]["probe/V_L"] == ends[epoch - 1]["probe/V_L"]
        assert same == (epoch % 2 == 1), epoch
    assert np.isnan(states[0].probed.lyapunov)
    rise = ends[2]["probe/V_L"] / ends[0]["probe/V_L"] - 1
    np.testing.assert_allclose(ends[2]["probe/V_L_rise"], rise, rtol=1e-4, atol=1e-6)
    assert ends[0]["probe/V_L_rise"] == 0  # nothing to compare with


def test_the_probe_batch_is_a_part_of_the_data_and_always_the_same(tiny):
    train = data()
    probe = tiny.program.probe_of(train)
    assert probe.image.shape == (16, 9)
    where = [int(np.flatnonzero((np.asarray(train.image) == row).all(axis=1))[0]) for row in np.asarray(probe.image)]
    assert len(set(where)) == 16
    np.testing.assert_array_equal(probe.label, np.asarray(train.label)[where])
    assert bits(probe) == bits(tiny.program.probe_of(train))


@pytest.mark.parametrize("name, ratio", [("commitment", "vq_ratio"), ("route", "route_ratio")])
def test_tracking_weights_follow_what_the_probe_measured(tiny, run, name, ratio):
    states, metrics = run
    row = next(row for row in tiny.program.rows if row.name == name)
    weights = [float(m[f"weight/{name}"]) for m in metrics]
    assert weights[: STEPS + 1] == [np.float32(row.initial)] * (STEPS + 1)  # at its start until there is a ratio
    aim = np.clip(float(getattr(states[STEPS].probed, ratio)), row.minimum, row.maximum)
    assert aim != pytest.approx(row.initial, rel=1e-2)
    gain = 1 - np.exp(-1 / STEPS)  # lag: one epoch
    expected = row.initial * (aim / row.initial) ** gain
    assert weights[STEPS + 1] == pytest.approx(expected, rel=1e-4)


def test_the_class_temperature_is_the_contracts_log(tiny, run):
    states, metrics = run
    logs = [float(m["weight/sup_temperature"]) for m in metrics]
    assert logs[0] == 0
    assert max(logs) > 0.1  # too little class entropy: T rises
    at = int(np.argmax(logs))
    batch, state = list(batches(20))[at], states[at]

    @jit
    def route(state, temperature):
        atlas = state.params["atlas"]
        weights, _ = tiny.model.normalise(atlas, state.spectral)
        w = tiny.model.encode(weights, batch.image).router
        return losses.sup_route(w, tiny.model.class_table(weights, temperature), batch.label)

    measured = float(metrics[at]["loss/route"])
    assert float(route(state, jnp.float32(np.exp(logs[at])))) == pytest.approx(measured, rel=1e-4)
    assert float(route(state, jnp.float32(1.0))) != pytest.approx(measured, rel=1e-3)


def test_regularisers_wait_for_the_warm_up(run):
    _, metrics = run
    waiting = ("diversity", "separation", "chart_center_sep", "variance")
    for name in waiting:
        weights = [float(m[f"weight/{name}"]) for m in metrics]
        assert weights[: 2 * STEPS] == [0.0] * (2 * STEPS), name
        assert min(weights[2 * STEPS : 3 * STEPS]) > 0, name
    assert all(m["weight/window"] > 0 for m in metrics)
    phases = [int(m["gate/phase"]) for m in metrics[STEPS - 1 :: STEPS]]
    assert phases[:2] == [0, 0]
    assert min(phases[2:]) >= 1


def test_revival_moves_what_is_dead_and_forgets_its_moments(tiny, run):
    before = run[0][3 * STEPS - 1]  # the last step of epoch 3 revives
    batch = list(batches(3))[-1]
    shape = before.liveness.count.shape
    alive = jnp.full(shape, 1000.0, jnp.float32)
    spread = jnp.broadcast_to(jnp.eye(2), (*shape, 2, 2)).at[1, 0].set(jnp.diag(jnp.array([90.0, 10.0])))

    def end(count):
        liveness = before.liveness._replace(count=count, moment=spread)
        return tiny.train_step(before.replace(liveness=liveness), batch)

    kept, none = end(alive)
    after, one = end(alive.at[1, 2].set(0.0))
    assert (none["revived/codes"], none["revived/charts"]) == (0, 0)
    assert (one["revived/codes"], one["revived/charts"]) == (1, 0)
    old, new = (np.asarray(state.params["atlas"]["encoder"]["codebook"]) for state in (kept, after))
    touched = np.zeros(shape, bool)
    touched[1, [0, 2]] = True  # the dead code, and the most scattered one of its chart
    np.testing.assert_array_equal((old != new).any(axis=-1), touched)
    np.testing.assert_allclose(0.5 * (new[1, 0] + new[1, 2]), old[1, 0], atol=1e-6)
    # √(2/π) σ to either side along the first axis, σ² = 90/1000 but for the batch's few points
    np.testing.assert_allclose(np.abs(new[1, 2] - new[1, 0]), [2 * np.sqrt(2 / np.pi * 0.09), 0], rtol=0.05, atol=0.02)
    for a, b in zip(moments(kept)["codebook"], moments(after)["codebook"], strict=True):
        assert (b[touched] == 0).all()
        np.testing.assert_array_equal(a[~touched], b[~touched])
        assert (a[touched] != 0).any()
    assert bits(after.average) == bits(after.params)  # starts again where something moved, and only there
    assert bits(kept.average) != bits(kept.params)
    for state in (kept, after):
        assert not np.any(state.liveness.count)  # counted anew
        assert not np.any(state.liveness.moment)

    after, one = end(alive.at[3].set(0.0))
    assert one["revived/charts"] == 1
    table = np.asarray(after.params["atlas"]["supervised"]["table"])
    np.testing.assert_array_equal(table[3], table[1])  # a copy of the most scattered chart
    old, new = (np.asarray(state.params["atlas"]["encoder"]["centers"]) for state in (kept, after))
    np.testing.assert_allclose(0.5 * (new[3] + new[1]), old[1], atol=1e-6)
    assert np.abs(new[3] - new[1]).max() > 0.1
    for moment in moments(after)["centers"]:
        assert (moment[[1, 3]] == 0).all()
        assert (moment[[0, 2]] != 0).any()


def test_revival_waits_for_its_epoch(run):
    counted = [float(jnp.sum(state.liveness.count)) for state in run[0]]
    every = 3 * STEPS
    for i, count in enumerate(counted):
        assert count == BATCH * (i % every)
    revived = [int(m["revived/codes"] + m["revived/charts"]) for m in run[1]]
    assert not any(n for i, n in enumerate(revived) if (i + 1) % every)
    assert sum(revived) > 0


def test_evaluation_is_per_example_and_moves_nothing(tiny, run):
    state, train = run[0][-1], data()
    evaluate = jit(tiny.program.evaluate)
    out = evaluate(state, train)
    w = np.asarray(out["router"])
    assert w.shape == (TRAIN, 4)
    np.testing.assert_allclose(w.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(out["chart"], w.argmax(axis=1))
    assert out["squared_error"].shape == out["consistency"].shape == out["readout_prediction"].shape == (TRAIN,)
    half = evaluate(state, Batch(train.image[:13], train.label[:13]))
    for name, value in half.items():
        np.testing.assert_allclose(value, out[name][:13], rtol=1e-4, atol=1e-5, err_msg=name)
