"""What controllers hear: signals of a pass, settings of the losses, and the probe's V_L, speed, geometry and ratios."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from controller_runs import bits
from tiny_config import get_config

from topojax.atlas import losses, probe, signals
from topojax.atlas.controllers import make_control, select_rows
from topojax.atlas.fixed_batch import make_prober
from topojax.atlas.measure import ALWAYS, make_measure, make_settings
from topojax.atlas.model import make_model
from topojax.atlas.objective import Aux, Objective
from topojax.atlas.terms import Settings
from topojax.control import caps
from topojax.types import Batch, Decoding, Encoding, Outputs

CLASSES, CHARTS, INPUTS, POINTS = 3, 4, 6, 24
HELD = ("commitment", "route", "entropy", "diversity", "window", "variance", "residual_scale", "jump")
RATE = 0.02


def config(enabled=HELD, **fields):
    c = get_config()
    for name, contract in c.contracts.items():
        contract.enabled = name in enabled
    c.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return c


class Made(NamedTuple):
    """A prober and what it was closed over."""

    config: Any
    model: Any
    system: Any
    rows: tuple
    prober: Any
    measure: Any  # compiled
    state: tuple  # control, usage
    params: dict
    spectral: dict
    batch: Batch


@functools.cache
def made(*tracked, supervised=True):
    c = config(
        model__center_scale=3.0,  # a latent wide enough for λ within its bounds
        supervised__enabled=supervised,
        optim__latent_speed=0.2,
        geometry__calibrations=2,
    )
    for name in tracked:
        c.contracts[name].mechanism = "track"
    model = make_model(c.model.to_dict(), input_dim=INPUTS, num_classes=CLASSES)
    system, rows = make_control(c, num_classes=CLASSES)
    settings = make_settings(c, rows)

    def settings_of(control, probed):
        length = probed.geometry.length
        return settings(system.targets(control), control.coupling.epsilon, length, system.weights(control))

    prober = make_prober(
        c,
        model,
        rows,
        system=system,
        objective=Objective(c, model, rows),
        settings_of=settings_of,
        measure=make_measure(c, rows),
        image_shape=None,
    )
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, POINTS)
    image = rng.uniform(0, 0.4, (POINTS, INPUTS)) + 0.6 * np.eye(INPUTS)[label]
    atlas, spectral = jax.jit(model.init)(jax.random.key(0))
    state = system.init(), signals.no_usage(CHARTS, c.model.codes_per_chart)
    batch = Batch(jnp.asarray(image, jnp.float32), jnp.asarray(label, jnp.int32))
    probing = jax.jit(prober.measure, compiler_options={"xla_cpu_use_fusion_emitters": False})
    return Made(c, model, system, rows, prober, probing, state, {"atlas": atlas}, spectral, batch)


def shaken(params, part, size=0.05):
    """The parameters with noise on one part of the atlas."""
    leaves, tree = jax.tree.flatten(params["atlas"][part])
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + size * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return {"atlas": {**params["atlas"], part: jax.tree.unflatten(tree, noisy)}}


def look(m, *, probed=None, control=None, before=None, after=None):
    """One probe; from where it started, before no update, unless told."""
    probed = m.prober.init() if probed is None else probed
    control = m.state[0] if control is None else control
    pairs = [(m.params if params is None else params, m.spectral) for params in (before, after)]
    return m.measure(probed, control, m.state[1], *pairs, m.batch, jnp.float32(RATE))


def opened(control):
    return control._replace(window=control.window._replace(opened=jnp.bool_(True)))


def pass_of(m, params):
    """Weights and encoding of the probe batch."""
    return _passing(m.model)(params["atlas"], m.spectral, m.batch.image)


@functools.cache
def _passing(model):
    def run(atlas, spectral, image):
        weights, _ = model.normalise(atlas, spectral)
        return weights, model.encode(weights, image)

    return jax.jit(run)


@pytest.mark.slow
@pytest.mark.parametrize("supervised", [True, False])
def test_the_lyapunov_value_is_the_task_and_what_is_violated(supervised):
    m = made() if supervised else made(supervised=False)
    seen = look(m)
    weights, e = pass_of(m, m.params)
    x_hat = m.model.decode(weights, e.z_geo, e.z_tex).x_hat
    task = np.mean((np.float64(x_hat) - m.batch.image) ** 2)
    task += float(losses.codebook(e.v_loc, e.z_q_all, e.router))
    if supervised:
        table = m.model.class_table(weights, jnp.float32(1.0))
        labels_nats = float(losses.sup_route(e.router, table, m.batch.label))
        task += labels_nats
    log_n = math.log(CHARTS)
    w = np.float64(e.router)
    h_k = -np.sum(w.mean(axis=0) * np.log(w.mean(axis=0) + 1e-6))
    h_kx = -np.mean(np.sum(w * np.log(w + 1e-6), axis=1))
    z = np.float64(e.z_geo)
    energy = np.sum(np.var(z, axis=0))
    size = np.mean(np.sum(np.float64(e.z_n) ** 2, axis=1))
    jumped = m.model.jump(weights, e.z_n_all)
    returned = m.model.round_trip(weights, e.z_n_all)
    hops = float(losses.jump(jumped, e.z_n_all, e.router, returned=returned))
    constraints = {  # commitment: its ratio is not measured
        "entropy": (h_kx - 0.2 * log_n) / log_n,
        "diversity": (0.95 * log_n - h_k) / log_n,
        "window": (0.4 * log_n - (h_k - h_kx)) / (0.4 * log_n),
        "variance": (0.4 - energy) / 0.4,
        "residual_scale": (size - 0.2) / 0.2,
        "jump": (hops - 0.1) / 0.1,
    }
    if supervised:
        constraints["route"] = (labels_nats - 0.051) / 0.051
    assert sum(c > 0.01 for c in constraints.values()) >= 3
    assert sum(c < -0.01 for c in constraints.values()) >= 1  # what is satisfied adds nothing
    expected = float(task) + sum(0.5 * max(0.0, c) ** 2 for c in constraints.values())
    assert float(seen.lyapunov) == pytest.approx(expected, rel=1e-4)
    assert float(seen.information) == pytest.approx(h_k - h_kx, abs=1e-5)
    assert float(seen.usage_entropy) == pytest.approx(h_k, abs=1e-5)


def test_its_rise_is_relative_to_the_last_probe():
    m = made()
    first = look(m)
    assert first.lyapunov_rise == 0  # there was none
    v = float(first.lyapunov)
    for old in (0.5 * v, 2 * v):
        again = look(m, probed=m.prober.init()._replace(lyapunov=jnp.float32(old)))
        assert float(again.lyapunov) == pytest.approx(v, rel=1e-6)
        assert float(again.lyapunov_rise) == pytest.approx((v - old) / old, rel=1e-4)


def test_parameters_that_did_not_move_have_no_drift_and_no_cap():
    m = made()
    seen = look(m)
    assert seen.speed_cap == np.float32(caps.NO_CAP)
    for name, value in seen.drift._asdict().items():
        assert value == 0 or name == "alpha", name
    assert seen.drift.alpha > 0


def test_the_speed_cap_is_the_rate_in_proportion():
    m = made()
    after = shaken(m.params, "encoder")
    seen = look(m, after=after)
    dz = np.float64(pass_of(m, after)[1].z_geo) - np.float64(pass_of(m, m.params)[1].z_geo)
    # The window is closed: the metric is I / λ², λ = 0.5
    speeds = np.linalg.norm(dz, axis=1) / 0.5
    assert float(seen.drift.speed_mean) == pytest.approx(speeds.mean(), rel=1e-3)
    assert float(seen.speed_cap) == pytest.approx(RATE * 0.2 / speeds.mean(), rel=1e-3)
    assert seen.drift.gamma == 0  # the decoder stood still
    assert look(m, after=shaken(m.params, "decoder")).speed_cap == np.float32(caps.NO_CAP)


def test_geometry_is_measured_once_the_window_has_opened_and_then_frozen():
    m = made()
    start = m.prober.init().geometry
    closed = look(m)
    assert bits(closed.geometry) == bits(start)
    assert float(start.length) == 0.5

    first = look(m, control=opened(m.state[0]))
    assert first.geometry.measured == 1
    # precision: G = (Cov + εI)⁻¹, so λ² = tr Cov / D
    other = shaken(m.params, "encoder")
    spread = [np.cov(np.float64(pass_of(m, params)[1].z_geo).T, bias=True) for params in (m.params, other)]
    np.testing.assert_allclose(first.geometry.metric, np.linalg.inv(spread[0]), rtol=1e-3)
    assert float(first.geometry.length) == pytest.approx(math.sqrt(np.trace(spread[0]) / 2), rel=1e-3)

    second = look(m, probed=first, control=opened(m.state[0]), after=other)
    assert second.geometry.measured == 2
    average = 0.5 * np.linalg.inv(spread[0]) + 0.5 * np.linalg.inv(spread[1])
    np.testing.assert_allclose(second.geometry.metric, average, rtol=1e-2)
    assert np.abs(average - np.linalg.inv(spread[0])).max() > 0.1 * np.abs(average).max()
    # Speeds are in the metric that the same probe has updated.
    dz = np.float64(pass_of(m, other)[1].z_geo) - np.float64(pass_of(m, m.params)[1].z_geo)
    speeds = np.sqrt(np.einsum("pi,ij,pj->p", dz, np.float64(second.geometry.metric), dz))
    assert float(second.drift.speed_mean) == pytest.approx(speeds.mean(), rel=1e-3)
    third = look(m, probed=second, control=opened(m.state[0]), after=m.params)
    assert bits(third.geometry) == bits(second.geometry)  # two calibrate
    assert float(third.lyapunov) != float(second.lyapunov)  # all else is measured on


@pytest.mark.slow
def test_gradient_ratios_are_measured_where_a_row_follows_them():
    plain, both = made(), made("commitment", "route")
    seen = look(plain)
    # What they start from makes the weights' initial values: 0.25 / 1 and 1 / 1.
    assert (float(seen.vq_ratio), float(seen.route_ratio)) == (0.25, 1.0)
    control, _ = plain.state
    heard = plain.prober.signals(seen, plain.system.weights(control))
    assert not {"vq_ratio", "vq_balance", "route_ratio"} & set(heard)

    seen = look(both)
    labels, one = both.batch.label, jnp.float32(1.0)
    point = (both.params["atlas"], both.spectral, both.batch.image)
    vq = jax.jit(functools.partial(probe.vq_ratio, both.model))(*point).ratio
    route = jax.jit(functools.partial(probe.route_ratio, both.model, vq_beta=0.25))(*point, labels, one)
    assert float(seen.vq_ratio) == pytest.approx(float(vq), rel=1e-3)
    assert float(seen.route_ratio) == pytest.approx(float(route), rel=1e-3)
    heard = both.prober.signals(seen, both.system.weights(both.state[0]))
    assert float(heard["vq_ratio"]) == pytest.approx(float(vq), rel=1e-3)
    assert float(heard["vq_balance"]) == pytest.approx(0.25 / float(vq), rel=1e-3)
    assert float(heard["route_ratio"]) == pytest.approx(float(route), rel=1e-3)


def test_what_controllers_hear_of_a_probe():
    m = made()
    seen = look(m, after=shaken(m.params, "encoder"), control=opened(m.state[0]))
    heard = m.prober.signals(seen, m.system.weights(m.state[0]))
    assert float(heard["reaction"]) == pytest.approx(1 / float(seen.geometry.length) ** 2, rel=1e-5)
    assert heard["lyapunov"] == seen.lyapunov
    assert (heard["I_XK_probe"], heard["H_K_probe"]) == (seen.information, seen.usage_entropy)
    for name in ("alpha", "beta", "gamma", "delta"):
        assert heard[name] == getattr(seen.drift, name)
    before = m.prober.signals(m.prober.init(), m.system.weights(m.state[0]))
    assert np.isnan([before["lyapunov"], before["I_XK_probe"], before["H_K_probe"]]).all()  # not measured


def test_parameters_that_are_not_finite_show_and_leave_rate_and_geometry():
    m = made()
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), m.params)
    seen = look(m, after=broken, control=opened(m.state[0]))
    assert np.isnan(seen.lyapunov)
    assert seen.lyapunov_rise == 0
    assert seen.speed_cap == np.float32(RATE)
    assert bits(seen.geometry) == bits(m.prober.init().geometry)
    assert not np.isfinite([seen.drift.alpha, seen.drift.gamma, seen.drift.delta, seen.drift.speed_mean]).any()


def test_a_probe_keeps_every_type():
    m = made()
    kinds = [jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), p) for p in (m.prober.init(), look(m))]
    assert kinds[0] == kinds[1]
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(m.prober.init()))


TARGETS = {"variance": jnp.float32(0.7)}
EPSILON, LENGTH = jnp.float32(0.3), jnp.float32(1.5)


def settings(weights=None, targets=TARGETS, enabled=HELD, **fields):
    c = config(enabled, **fields)
    return make_settings(c, select_rows(c))(targets, EPSILON, LENGTH, weights or {})


def test_settings_are_the_configurations_unless_control_sets_them():
    fixed = {"losses__separation_margin": 0.2, "losses__center_margin": 0.3, "losses__metric_margin": 0.4}
    got = settings(**fixed, geometry__margins=False, supervised__temperature=2.0)
    expected = {"window": 0.3, "variance": 0.7, "separation_margin": 0.2, "center_margin": 0.3}
    expected |= {"metric_margin": 0.4, "temperature": 2.0}
    assert {name: float(getattr(got, name)) for name in got._fields[:-1]} == pytest.approx(expected)
    assert got.singular == ALWAYS
    bare = settings(targets={}, enabled=(), contracts__variance__target=0.25)
    assert float(bare.variance) == 0.25


def test_margins_are_the_measured_length_where_geometry_says_so():
    got = settings(geometry__margins=True)
    assert (got.separation_margin, got.center_margin) == (1.5, 1.5)
    assert float(got.metric_margin) == 1.0  # an overlap is no length
    assert settings(geometry__margins=True, losses__metric_distance="latent").metric_margin == 1.5


def test_the_temperature_is_a_factor_where_its_contract_is_on():
    weights = {"sup_temperature": jnp.float32(math.log(3.0))}
    on = (*HELD, "sup_temperature")
    assert float(settings(weights, enabled=on, supervised__temperature=2.0).temperature) == pytest.approx(6.0)
    assert float(settings(weights, supervised__temperature=2.0).temperature) == 2.0


def aux_of(terms):
    """Terms with an encoding of two points in two dimensions, one chart each."""
    router = jnp.eye(2)
    fields = dict.fromkeys(Encoding._fields, jnp.zeros((2, 2))) | {"router": router, "z_geo": 3.0 * router}
    outputs = Outputs(Encoding(**fields), Decoding(jnp.zeros((2, INPUTS)), router))
    return Aux({name: jnp.float32(value) for name, value in terms.items()}, outputs, {})


def test_signals_are_terms_in_their_contracts_units():
    names = ("separation", "chart_center_sep", "prior_n", "prior_tex", "jump", "sup_purity", "route")
    c = config(names, losses__prior_std_n=0.5, losses__prior_std_tex=1.0)
    margins = Settings(*(jnp.float32(v) for v in (0.3, 0.4, 0.5, 0.25, 1.0, 1.0)), ALWAYS)
    terms = {"separation": 0.1, "chart_center_sep": 0.1, "prior_n": 0.04, "prior_tex": 0.04, "jump": 0.7}
    terms |= {"recon": 0.5, "codebook": 0.25, "commitment": 8.0, "route": 2.0, "sup_purity": 0.9, "consistency": 1.0}
    usage = signals.Usage(jnp.ones((2, 3)), jnp.float32(0.6))
    seen = make_measure(c, select_rows(c))(aux_of(terms), usage, margins)
    expected = {
        "separation": 0.1 / 0.5,  # of its margin
        "chart_center_sep": 0.1 / 0.25,
        "prior_n": 0.2 / (0.25 * 2),  # √0.04 over σ² D
        "prior_tex": 0.2 / 2,
        "jump": 0.7,
        "class_entropy": 0.9,  # sup_purity's
        "task": 0.5 + 0.25 + 2.0,
        "I_XK": math.log(2),
        "energy": 4.5,  # (3, 0) and (0, 3) are √4.5 from their mean, each
        "H_K_usage": math.log(2),
        "I_XK_usage": math.log(2) - 0.1,  # 0.6 nats over 6 points
    }
    for name, value in expected.items():
        assert float(seen[name]) == pytest.approx(value, rel=1e-4), name
    assert not {"consistency", "commitment", "recon", "sup_purity", "balance"} & set(seen)  # no row holds them


def test_signals_carry_no_gradient():
    c = config()
    margins = Settings(*(jnp.ones(()) for _ in Settings._fields[:-1]), ALWAYS)
    run = make_measure(c, select_rows(c))
    usage = signals.Usage(jnp.ones((2, 3)), jnp.float32(0.6))

    def total(scale):
        aux = aux_of({"recon": 1.0, "codebook": 1.0, "route": 1.0})
        terms = {name: scale * value for name, value in aux.terms.items()}
        seen = run(aux._replace(terms=terms), usage, margins)
        return sum(jnp.sum(value) for value in seen.values())

    assert total(2.0) != total(1.0)
    assert jax.grad(total)(2.0) == 0
