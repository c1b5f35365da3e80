"""The step on a program of a few points: what it traces, what it moves, what holds the rate, what a NaN leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from controller_runs import bits
from tiny_config import get_config

from topojax.control import contracts
from topojax.data import batch_indices
from topojax.model import make_model
from topojax.objective import make_objective
from topojax.step import make_control, make_program, pack
from topojax.types import Batch

IMAGE = (3, 3, 1)
CLASSES = 3
TRAIN, BATCH = 26, 8  # 3 steps an epoch, 2 points left over
STEPS = TRAIN // BATCH
FEW = ("entropy", "diversity", "window")
MANY = (*FEW, "consistency", "separation", "chart_center_sep", "variance", "per_chart_code_entropy", "code_entropy")
MANY += ("codebook_center", "residual_scale", "disentangle", "prior_n", "prior_tex", "orbit", "vicreg_inv", "jump")
MANY += ("sup_purity", "sup_metric")


@pytest.fixture(scope="module", autouse=True)
def quick_compiles():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def config(enabled, **fields):
    c = get_config()
    c.model.codes_per_chart = 4
    c.train.batch_size, c.train.epochs = BATCH, 20
    c.optim.schedule = "cosine"
    for name, contract in c.contracts.items():
        contract.enabled = name in enabled
    c.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return c


def data(seed=0, n=TRAIN):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, n)
    image = rng.uniform(0, 0.4, (n, 9)) + 0.6 * np.eye(9)[label]
    return Batch(jnp.asarray(image, jnp.float32), jnp.asarray(label, jnp.int32))


def program(c):
    model = make_model(c.model.to_dict(), input_dim=9, num_classes=CLASSES)
    made = make_program(c, model, num_train=TRAIN, input_dim=9, num_classes=CLASSES, image_shape=IMAGE)
    return made, model


def batches(epochs, seed=0):
    """Batches in the order of the epochs' scans."""
    train = data()
    for epoch in range(epochs):
        for index in np.asarray(batch_indices(seed, epoch, TRAIN, BATCH)):
            yield Batch(train.image[index], train.label[index])


class Tiny:
    """A program compiled once for the whole file, and how often its step was traced."""

    def __init__(self):
        self.config = config(MANY, optim__update_ratio=0.01)
        self.program, self.model = program(self.config)
        self.traces = 0

        def counted(state, batch):
            self.traces += 1
            return self.program.train_step(state, batch)

        self.train_step = jax.jit(counted)
        self.first = jax.jit(self.program.init)()

    def named(self, metrics):
        return self.program.named(np.asarray(pack(metrics)))


@pytest.fixture(scope="module")
def tiny():
    return Tiny()


@pytest.fixture(scope="module")
def run(tiny):
    """States (the first included) and metrics of 20 epochs."""
    states, metrics = [tiny.first], []
    for batch in batches(20):
        state, out = tiny.train_step(states[-1], batch)
        states.append(state)
        metrics.append(out)
    return states, metrics


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


def test_no_gradient_reaches_control(tiny, run):
    leaves, structure = jax.tree.flatten(run[0][-1].control)
    floats = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    batch = next(batches(1))

    def loss(values):
        now = list(leaves)
        for i, value in zip(floats, values, strict=True):
            now[i] = value
        state = run[0][-1].replace(control=jax.tree.unflatten(structure, now))
        return tiny.program.train_step(state, batch)[1]["loss/total"]

    grads = jax.jit(jax.grad(loss))([leaves[i] for i in floats])
    assert {g.shape for g in grads} >= {(), (len(MANY) + 3,)}  # rates and sums, and a vector of the whole bank
    for grad in grads:
        np.testing.assert_array_equal(grad, np.zeros(grad.shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_moves_nothing_but_the_rate(tiny, run, bad):
    before = run[0][5]
    batch = list(batches(2))[5]
    poisoned = batch._replace(image=batch.image.at[0, 0].set(bad))
    after, metrics = tiny.train_step(before, poisoned)
    for part in ("params", "opt_state", "usage"):
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


def test_a_scanned_epoch_is_the_loop_over_its_batches(tiny, run):
    states, metrics = run
    epoch = jax.jit(tiny.program.epoch)
    state, vector = epoch(states[STEPS], data())  # the second epoch
    expected = states[2 * STEPS]
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(state), jax.tree_util.tree_leaves(expected), strict=True
    ):
        name = jax.tree_util.keystr(path)
        if jnp.issubdtype(a.dtype, jnp.floating):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5, err_msg=name)
        elif jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(jax.random.key_data(a), jax.random.key_data(b), name)
        else:
            np.testing.assert_array_equal(a, b, name)

    named = tiny.program.named(np.asarray(vector))
    steps = [tiny.named(m) for m in metrics[STEPS : 2 * STEPS]]
    for name, how in {
        "loss/recon": np.mean,  # of the epoch
        "signal/I_XK": np.mean,
        "norm/gradient": np.mean,
        "lr": lambda x: x[-1],  # in force at its end
        "weight/window": lambda x: x[-1],
        "contract/window/error": lambda x: x[-1],
        "contract/window/i": np.sum,  # increments add up
        "guard/skipped": np.sum,
    }.items():
        expected = how([step[name] for step in steps])
        np.testing.assert_allclose(named[name], expected, rtol=1e-3, atol=1e-5, err_msg=name)


def test_an_epoch_with_a_nan_still_reports_means(tiny, run):
    train = data()
    spoilt = int(batch_indices(0, 1, TRAIN, BATCH)[1, 0])
    poisoned = train._replace(image=train.image.at[spoilt, 0].set(jnp.nan))
    state, vector = jax.jit(tiny.program.epoch)(run[0][STEPS], poisoned)
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
        expected = {f"weight/{row.name}", f"loss/{row.name}", f"signal/{row.signal}"}
        expected |= {f"contract/{row.name}/{part}" for part in ("error", "signal", "target", "unsatisfiable")}
        expected |= {f"contract/{row.name}/{part}" for part in ("p", "i", "d")}
        assert expected <= set(names)
    assert {"loss/recon", "loss/vq", "loss/route", "loss/readout", "loss/total"} <= set(names)
    assert {"signal/I_XK", "signal/H_K", "signal/H_K_given_X", "signal/loss", "signal/update_ratio"} <= set(names)
    assert {"norm/gradient", "norm/direction", "norm/params", "norm/update"} <= set(names)
    assert {"lr", "lr_governor", "lr_cap", "gate/window", "guard/skipped", "guard/failures"} <= set(names)
    assert {"governor/cause", "governor/grounded", "governor/exhausted", "window/over_mixing"} <= set(names)
    assert not any("*" in name for name in names)


def test_disabled_contracts_leave_no_trace(tiny):
    off = {row.name for row in contracts.TABLE} - set(MANY)
    assert off == {"orthogonality", "sup_balance"}
    parts = {part for name in tiny.program.metric_names() for part in name.split("/")}
    assert not parts & off
    assert {row.name for row in tiny.program.rows} == set(MANY)


def test_weights_in_the_log_are_those_the_loss_was_made_of(tiny, run):
    for metrics in (run[1][0], run[1][-1]):
        m = {name: np.float64(value) for name, value in tiny.named(metrics).items()}
        charts = "per_chart_code_entropy"  # weighed chart by chart; the log has means
        total = m["loss/recon"] + m["loss/vq"] + m["loss/route"]
        total += sum(m[f"weight/{name}"] * m[f"loss/{name}"] for name in MANY if name != charts)
        # a weight each chart: Σ_n λ_n C_n, which is N λ C̄ while all are equal; its gate is closed at the start
        if m["gate/window"] == 0:
            assert m[f"weight/{charts}"] == 0
            np.testing.assert_allclose(m["loss/total"], total, rtol=1e-5)


def test_gated_weights_wait_for_the_window(run):
    first = run[1][0]
    for name in ("jump", "entropy", "orbit"):
        assert first[f"weight/{name}"] == 0
    ramps = [float(m["gate/window"]) for m in run[1]]
    assert np.all(np.diff(ramps) >= 0)
    weights = [float(m["weight/residual_scale"]) for m in run[1]]
    opened = [bool(state.control.window.opened) for state in run[0][:-1]]
    held = [w for w, o in zip(weights, opened, strict=True) if not o]
    assert len(held) >= STEPS * 4
    assert set(held) == {np.float32(0.01)}


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
        assert m["lr_governor"] == after.control.governor.rate  # what the next step will start from
        np.testing.assert_allclose(rate, min(caps), rtol=1e-4)
        causes.add(int(m["lr_cap"]))
        assert rate == pytest.approx(caps[int(m["lr_cap"])], rel=1e-4)
        assert np.linalg.norm(new - old) <= c.update_ratio * size * (1 + 1e-4)
        assert np.linalg.norm(new - old) == pytest.approx(float(m["norm/update"]), rel=1e-3)
        assert size == pytest.approx(float(m["norm/params"]), rel=1e-5)
    assert {1, 2} <= causes  # schedule and update ratio have both been at work


def test_a_constant_rate_without_caps_is_plain_adam():
    c = config(FEW, optim__rate="constant", optim__schedule="none", optim__update_ratio=0.0)
    c.optim.learning_rate, c.optim.grad_clip = 3e-3, 0.1
    made, model = program(c)
    system, rows, targets = make_control(c, num_classes=CLASSES)
    gradient = jax.grad(make_objective(c, model, rows, targets), has_aux=True)
    train_step = jax.jit(made.train_step)
    state = jax.jit(made.init)()

    optimizers = {name: optax.chain(optax.clip_by_global_norm(0.1), optax.adam(3e-3)) for name in ("atlas", "readout")}

    def split(params):
        atlas = dict(params["atlas"])
        return {"readout": atlas.pop("readout"), "atlas": atlas}

    @jax.jit
    def plain_adam(expected, moments, state, batch):
        weights = system.weights(state.control)
        grads = split(gradient(state.params, state.spectral, weights, batch, batch.image)[0])
        out = {}
        for name, optimizer in optimizers.items():
            updates, moments[name] = optimizer.update(grads[name], moments[name], expected[name])
            out[name] = optax.apply_updates(expected[name], updates)
        return out, moments, optax.tree.norm(grads["atlas"]) > 0.1

    expected = split(state.params)
    moments = {name: optimizers[name].init(expected[name]) for name in expected}
    any_clipped = False
    for batch in batches(2):
        expected, moments, clipped = plain_adam(expected, moments, state, batch)
        any_clipped |= bool(clipped)
        state, metrics = train_step(state, batch)
        assert metrics["lr"] == np.float32(3e-3)
        assert metrics["lr_cap"] == 0
        for a, b in zip(jax.tree.leaves(split(state.params)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)
    assert any_clipped


def test_without_supervision_labels_reach_the_readout_alone():
    c = config((*FEW, "sup_purity"), supervised__enabled=False, precision__enabled=True)
    c.optim.grad_clip = 0.01  # always at work: a shared norm would let labels scale the rest
    made, _ = program(c)
    assert [row.name for row in made.rows] == list(FEW)
    train_step = jax.jit(made.train_step)
    ends = []
    for shift in (0, 1):
        state = jax.jit(made.init)()
        assert set(state.params["precision"]) == {"recon", "vq"}
        for batch in batches(1):
            state, metrics = train_step(state, batch._replace(label=(batch.label + shift) % CLASSES))
        assert "loss/route" not in metrics
        assert state.params["precision"]["recon"] != 0
        ends.append(state)
    atlas = [dict(state.params["atlas"]) for state in ends]
    readout = [a.pop("readout") for a in atlas]
    assert bits(atlas[0]) == bits(atlas[1])
    assert bits(ends[0].params["precision"]) == bits(ends[1].params["precision"])
    assert bits(ends[0].control.bank) == bits(ends[1].control.bank)
    assert bits(readout[0]) != bits(readout[1])


def test_evaluation_is_per_example_and_moves_nothing(tiny, run):
    state, train = run[0][-1], data()
    out = jax.jit(tiny.program.evaluate)(state, train)
    w = np.asarray(out["router"])
    assert w.shape == (TRAIN, 4)
    np.testing.assert_allclose(w.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(out["chart"], w.argmax(axis=1))
    assert out["squared_error"].shape == out["consistency"].shape == out["readout_prediction"].shape == (TRAIN,)
    half = jax.jit(tiny.program.evaluate)(state, Batch(train.image[:13], train.label[:13]))
    for name, value in half.items():
        np.testing.assert_allclose(value, out[name][:13], rtol=1e-4, atol=1e-5, err_msg=name)
