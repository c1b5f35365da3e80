"""Baselines: sizes, hand-computed losses, and that they and the atlas do not touch each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from controller_runs import bits
from tiny_config import get_config

from topojax.atlas import optim
from topojax.atlas.baselines import make_baselines, params_of
from topojax.atlas.model import make_model
from topojax.atlas.model.plain import make_baseline
from topojax.data.sets import batch_indices
from topojax.scoring.baseline_scores import fit_clusters
from topojax.step.program import make_program
from topojax.types import Batch

CLASSES, TRAIN, X = 3, 26, 9
ALL = jnp.float32(1.0)  # of the rate is left
BOTH = {"baselines__autoencoder": True, "baselines__vq": True, "baselines__learning_rate": 1e-3}
# What holds the atlas back and must not hold the baselines: caps, a group that stands still, a clip norm reached.
TIGHT = {"optim__update_ratio": 1e-3, "optim__group_rates__heads": 0.0, "losses__recon_weight": 1e3}
TIGHT |= {"optim__grad_clip": 1.0}


def config(**fields):
    c = get_config()
    c.train.batch_size, c.train.epochs = 8, 20
    for name, contract in c.contracts.items():
        contract.enabled = name in ("commitment", "entropy", "window", "route")
    c.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return c


def data(seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, TRAIN)
    image = rng.uniform(0, 0.4, (TRAIN, X)) + 0.6 * np.eye(X)[label]
    return Batch(jnp.asarray(image, jnp.float32), jnp.asarray(label, jnp.int32))


def made(c):
    model = make_model(c.model.to_dict(), input_dim=X, num_classes=CLASSES)
    return make_program(c, model, num_train=TRAIN, input_dim=X, num_classes=CLASSES, image_shape=(3, 3, 1))


def compared(c):
    model = make_model(c.model.to_dict(), input_dim=X, num_classes=CLASSES)
    schedule = optim.schedule(c.optim, steps_per_epoch=3, epochs=c.train.epochs)
    return make_baselines(c, model, input_dim=X, num_classes=CLASSES, schedule=schedule), model


def after(c):
    """The state after an epoch, its metrics, the state before, and the program."""
    program = made(c)
    start = jax.jit(program.init)()
    state, metrics = jax.jit(program.epoch)(start, data())
    return state, program.named(np.asarray(metrics)), start, program


def one_step(baselines):
    states = baselines.init(jax.random.key(0))
    grads = jax.jit(jax.grad(baselines.loss, has_aux=True))(params_of(states), data())[0]
    return jax.jit(baselines.update)(states, grads, jnp.int32(0), ALL)[0]


@pytest.fixture(scope="module")
def with_both():
    return after(config(**BOTH, **TIGHT))


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("codes", [0, 64])
@pytest.mark.parametrize("wanted", [1, 20_000, 175_000])
def test_the_width_is_the_one_whose_count_is_closest(wanted, codes):
    sizes = {"input_dim": 784, "latent": 2, "classes": 10, "probe_width": 64, "codes": codes}
    baseline = make_baseline(parameters=wanted, **sizes)
    h = baseline.width

    def count(h):  # 784-h-h-2-h-h-784 and the codes
        dense = 784 * h + h + h * h + h + 2 * h + 2 + 2 * h + h + h * h + h + 784 * h + 784
        return dense + 2 * codes

    params = baseline.init(jax.random.key(0))
    assert size(params["body"]) == baseline.parameters == count(h)
    assert size(params["probe"]) == 2 * 64 + 64 + 64 * 10 + 10
    others = [abs(count(other) - wanted) for other in (h - 1, h + 1) if other > 0]
    assert abs(count(h) - wanted) <= min(others)


def test_they_match_the_encoder_and_decoder_of_the_atlas():
    c = config(**BOTH, model__hidden_dim=32)
    baselines, model = compared(c)
    atlas, _ = jax.eval_shape(model.init, jax.random.key(0))
    wanted = size(atlas["encoder"]) + size(atlas["decoder"])
    for member in baselines.members.values():
        assert member.parameters == pytest.approx(wanted, rel=0.03)


def test_shapes_and_starts():
    baseline = make_baseline(input_dim=X, latent=2, classes=CLASSES, parameters=3000, probe_width=5, codes=16)
    params = baseline.init(jax.random.key(1))
    x = jnp.asarray(data().image)
    e = baseline.encode(params, x)
    assert e.z.shape == e.z_q.shape == (TRAIN, 2)
    assert baseline.decode(params, e.z_q).shape == (TRAIN, X)
    assert baseline.probe(params, e.z_q).shape == (TRAIN, CLASSES)
    codebook = np.asarray(params["body"]["codebook"]["kernel"])
    assert codebook.shape == (16, 2)
    assert 0.9 / 16 < np.abs(codebook).max() <= 1 / 16
    kernel = np.asarray(params["body"]["encode_0"]["kernel"])
    assert 0.9 / 3 < np.abs(kernel).max() <= 1 / 3
    # The nearest code, by hand.
    nearest = ((np.asarray(e.z)[:, None] - codebook[None]) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(e.code, nearest)
    np.testing.assert_array_equal(e.z_q, codebook[nearest])


def test_losses_and_gradients_of_the_vq_by_hand():
    baselines, _ = compared(config(**BOTH, baselines__commitment=0.25))
    states = jax.jit(baselines.init)(jax.random.key(0))
    batch, params = data(), params_of(states)
    (total, metrics), grads = jax.jit(jax.value_and_grad(baselines.loss, has_aux=True))(params, batch)
    member, own = baselines.members["vq"], params["vq"]
    e = member.encode(own, batch.image)
    gap = np.mean((np.asarray(e.z) - np.asarray(e.z_q)) ** 2)
    assert float(metrics["baseline/vq/vq"]) == pytest.approx(1.25 * gap, rel=1e-5)
    error = np.mean((np.asarray(member.decode(own, e.z_q)) - np.asarray(batch.image)) ** 2)
    assert float(metrics["baseline/vq/recon"]) == pytest.approx(error, rel=1e-5)
    assert float(total) == pytest.approx(sum(float(value) for value in metrics.values()), rel=1e-5)
    # A code's gradient is 2 (e − mean of its points) share / D: no reconstruction reaches it, and its points pull it.
    code, z = np.asarray(e.code), np.asarray(e.z)
    codebook = np.asarray(own["body"]["codebook"]["kernel"])
    expected = np.zeros_like(codebook)
    for k in np.unique(code):
        expected[k] = 2 * (codebook[k] - z[code == k]).sum(axis=0) / z.size
    np.testing.assert_allclose(grads["vq"]["body"]["codebook"]["kernel"], expected, rtol=1e-4, atol=1e-9)
    # Straight-through: reconstruction reaches the encoder although argmin has no gradient.
    assert np.abs(grads["vq"]["body"]["encode_0"]["kernel"]).max() > 0


def test_no_label_reaches_a_body():
    baselines, _ = compared(config(**BOTH))
    states = jax.jit(baselines.init)(jax.random.key(0))
    grad, update = jax.jit(jax.grad(baselines.loss, has_aux=True)), jax.jit(baselines.update)
    batch = data()
    one = grad(params_of(states), batch)[0]
    other = grad(params_of(states), batch._replace(label=(batch.label + 1) % CLASSES))[0]
    for name in ("ae", "vq"):
        assert bits(one[name]["body"]) == bits(other[name]["body"])
        assert bits(one[name]["probe"]) != bits(other[name]["probe"])
        # Nor through a shared norm: the step of the body does not see the probe's gradient.
        scaled = {**one, name: {**one[name], "probe": jax.tree.map(lambda g: 1e6 * g, one[name]["probe"])}}
        step = jnp.int32(0)
        a, b = (update(states, grads, step, ALL)[0][name] for grads in (one, scaled))
        assert bits(a.params["body"]) == bits(b.params["body"])


@pytest.mark.slow
def test_the_atlas_does_not_notice_them(with_both):
    """To rounding: a compiler may order one program's sums unlike another's."""
    alone, metrics, *_ = after(config(**TIGHT))
    assert alone.baselines == {}
    theirs = {name: value for name, value in with_both[1].items() if not name.startswith("baseline/")}
    assert theirs.keys() == metrics.keys()
    for ours, beside in ((alone.params, with_both[0].params), (alone.control, with_both[0].control), (metrics, theirs)):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), beside, ours)


@pytest.mark.slow
def test_their_step_is_clipped_adam_whatever_control_does(with_both):
    """Three steps of the whole program against optax, on the same batches."""
    trained, metrics, start, program = with_both
    assert metrics["lr"] < 1e-3  # the atlas is held back
    c, train = config(**BOTH, **TIGHT), data()
    member = program.baselines.members["ae"]
    tx = optax.chain(optax.clip_by_global_norm(c.optim.grad_clip), optax.scale_by_adam(b2=c.optim.b2, eps=c.optim.eps))
    params = start.baselines["ae"].params["body"]
    moments = tx.init(params)

    @jax.jit
    def gradient(body, batch):
        def loss(body):
            x_hat = member.decode({"body": body}, member.encode({"body": body}, batch.image).z)
            return jnp.mean((x_hat - batch.image) ** 2)

        return jax.grad(loss)(body)

    for index in np.asarray(batch_indices(c.seed, 0, TRAIN, 8)):
        direction, moments = tx.update(gradient(params, Batch(train.image[index], train.label[index])), moments)
        params = jax.tree.map(lambda p, u: p - c.baselines.learning_rate * u, params, direction)
    found = jax.tree.leaves(trained.baselines["ae"].params["body"])
    for ours, theirs in zip(found, jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_their_rate_falls_with_the_schedule():
    rates = []
    for schedule in ("none", "cosine"):
        c = config(**BOTH, optim__schedule=schedule, optim__warmup_epochs=0)
        baselines, _ = compared(c)
        states = jax.jit(baselines.init)(jax.random.key(0))
        grads = jax.jit(jax.grad(baselines.loss, has_aux=True))(params_of(states), data())[0]
        moved = jax.jit(baselines.update)(states, grads, jnp.int32(30), ALL)[0]["ae"].params  # half of 20 epochs of 3
        difference = jax.tree.map(lambda a, b: a - b, moved["body"], states["ae"].params["body"])
        rates.append(max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(difference)))
    # Adam's first step has size 1 where the gradient is not tiny; half-way a cosine from 1 to 0.01 is 0.505.
    assert rates[0] == pytest.approx(1e-3, rel=1e-3)
    assert rates[1] == pytest.approx(0.505e-3, rel=1e-3)


def test_what_is_measured_of_them_is_their_average():
    baselines, _ = compared(config(**BOTH))
    states = jax.jit(baselines.init)(jax.random.key(0))
    grads = jax.jit(jax.grad(baselines.loss, has_aux=True))(params_of(states), data())[0]
    new = jax.jit(baselines.update)(states, grads, jnp.int32(3), ALL)[0]["ae"]
    # Of the 16th power, 17/20 at the fourth step: three twentieths of where it began, the rest of where it went.
    for averaged, before, after in zip(
        *map(jax.tree.leaves, (new.measured, states["ae"].params, new.params)), strict=True
    ):
        np.testing.assert_allclose(averaged, 0.15 * before + 0.85 * after, rtol=1e-5, atol=1e-7)
    x = data().image
    member = baselines.members["ae"]
    found = baselines.reconstruct({"ae": new, "vq": states["vq"]}, x)["ae"]
    np.testing.assert_array_equal(found, member.decode(new.average, member.encode(new.average, x).z_q))
    alone, _ = compared(config(**BOTH, optim__average=0.0))
    state = jax.jit(alone.init)(jax.random.key(0))["ae"]
    assert state.average == {}
    assert state.measured is state.params


def test_a_gradient_that_is_not_finite_moves_nothing_of_its_baseline():
    baselines, _ = compared(config(**BOTH))
    states = jax.jit(baselines.init)(jax.random.key(0))
    grads = jax.jit(jax.grad(baselines.loss, has_aux=True))(params_of(states), data())[0]
    grads["ae"]["body"]["output"]["bias"] = grads["ae"]["body"]["output"]["bias"].at[0].set(jnp.nan)
    new, sound = jax.jit(baselines.update)(states, grads, jnp.int32(0), ALL)
    assert not sound
    assert bits(new["ae"]) == bits(states["ae"])
    assert bits(new["vq"]) != bits(states["vq"])


def test_their_rate_falls_with_the_end_of_the_run():
    baselines, _ = compared(config(**BOTH))
    states = jax.jit(baselines.init)(jax.random.key(0))
    grads = jax.jit(jax.grad(baselines.loss, has_aux=True))(params_of(states), data())[0]
    update = jax.jit(baselines.update)
    moved = []
    for left in (1.0, 0.25):
        new = update(states, grads, jnp.int32(0), jnp.float32(left))[0]["ae"].params["body"]
        moved.append(jax.tree.map(lambda a, b: a - b, new, states["ae"].params["body"]))
    for all_of_it, quarter in zip(*map(jax.tree.leaves, moved), strict=True):
        np.testing.assert_allclose(quarter, 0.25 * all_of_it, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("name, field", [("ae", "autoencoder"), ("vq", "vq")])
def test_one_of_them_is_the_same_alone(name, field):
    steps = []
    for fields in (
        BOTH,
        {**BOTH, "baselines__autoencoder": False, "baselines__vq": False, f"baselines__{field}": True},
    ):
        baselines, _ = compared(config(**fields))
        steps.append(jax.jit(lambda b=baselines: one_step(b))()[name])
    assert bits(steps[0]) == bits(steps[1])


def test_clusters_of_fewer_points_than_clusters_are_the_points():
    points = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [5.0, 5.0]])
    found = fit_clusters(points, 10, seed=0)(points)
    assert found[0] == found[2]
    assert len(set(found.tolist())) == 3
