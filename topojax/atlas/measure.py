"""What a step and a probe measure: the signals that controllers hear, all with gradients stopped."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas import losses, probe, signals
from topojax.atlas.geometry import Geometry, GeometryState, geometry, latent_metric, potential
from topojax.atlas.model import Model
from topojax.atlas.objective import INVARIANCES, Aux, Lazy, Objective, Settings, task
from topojax.atlas.signals import Usage
from topojax.atlas.system import Control, ControlState
from topojax.control import caps
from topojax.control.base import typed
from topojax.data.augment import augment
from topojax.types import Array, Batch, Params, Spectral


class Probed(NamedTuple):
    """What the last probe saw, held until the next; leaves of shape=(), float32, but for the geometry."""

    geometry: GeometryState
    speed_cap: Array  # largest rate that keeps the latent speed
    lyapunov: Array  # V_L = task + Σ ½ max(0, C_k)² on the probe batch
    lyapunov_rise: Array  # its change since the probe before, relative
    information: Array  # I(X;K) of the probe batch, nats
    usage_entropy: Array  # H(K) of the probe batch, nats
    vq_ratio: Array  # gradient norm of the codebook loss over that of the commitment
    route_ratio: Array  # gradient norm of reconstruction and vq over that of the route term
    drift: probe.Drift


ALWAYS = Lazy(now=np.bool_(True), last=np.float32(0.0))
"""Singular values are taken whenever asked for; a step that waits says so itself."""


def make_settings(config: Any, rows: tuple) -> Callable[..., Settings]:
    """Build `settings(targets, epsilon, length, weights) -> Settings`: margins, temperature and targets of the losses.

    Margins are λ_wfr where `geometry.margins` says so, else the configuration's.
    """
    unit = 1.0 * config.contracts.variance.target  # the row's unit is 1
    fixed = (config.losses.separation_margin, config.losses.center_margin, config.losses.metric_margin)
    names = {row.name for row in rows}

    def settings(targets: Mapping[str, Array], epsilon: Array, length: Array, weights: Mapping[str, Array]) -> Settings:
        separation, center, metric = (jnp.float32(margin) for margin in fixed)
        if config.geometry.margins:
            separation = center = length
            metric = length if config.losses.metric_distance == "latent" else metric
        temperature = jnp.float32(config.supervised.temperature)
        if "sup_temperature" in names:
            temperature = temperature * jnp.exp(weights["sup_temperature"])
        variance = targets.get("variance", jnp.float32(unit))
        return Settings(epsilon, variance, separation, center, metric, temperature, ALWAYS)

    return settings


def make_measure(config: Any, rows: tuple) -> Callable[..., dict[str, Array]]:
    """Build `measure(aux, usage, settings) -> signals`: everything a contract may hold that one pass has computed."""
    latent = config.model.latent_dim
    renamed = {"sup_purity": "class_entropy", "sup_balance": "balance"}
    names = {row.signal for row in rows}

    def measure(aux: Aux, usage: Usage, settings: Settings) -> dict[str, Array]:
        e, terms = aux.outputs.encoding, aux.terms
        out = {
            **signals.routing(e.router),
            **signals.code_entropies(usage.counts),
            **signals.usage(usage),
            "energy": losses.energy(e.z_geo),
            "energy_n": losses.energy(e.z_n),
            "energy_tex": losses.energy(e.z_tex),
            "task": task(terms),
        }
        shaped = {
            "separation": lambda x: x / settings.separation_margin,
            "chart_center_sep": lambda x: x / settings.center_margin,
            # |E − target| / target: the priors' losses are squared deviations.
            "prior_n": lambda x: jnp.sqrt(x) / (config.losses.prior_std_n**2 * latent),
            "prior_tex": lambda x: jnp.sqrt(x) / (config.losses.prior_std_tex**2 * latent),
        }
        for name, term in terms.items():
            signal = renamed.get(name, name)
            if signal in names and signal not in out:
                out[signal] = shaped.get(name, lambda x: x)(term)
        return jax.lax.stop_gradient(out)

    return measure


class Prober(NamedTuple):
    """Pure functions around the probe batch.

    Attributes:
      init: () → Probed.
      signals: (Probed, weights) → what controllers hear of it.
      measure: (Probed, control, usage, before, after, probe batch, rate) → Probed; `before` and `after` are pairs of
        params and spectral vectors, one update apart, `rate` the rate of that update.
    """

    init: Callable[[], Probed]
    signals: Callable[[Probed, Mapping[str, Array]], dict[str, Array]]
    measure: Callable[..., Probed]


def make_prober(
    config: Any,
    model: Model,
    rows: tuple,
    *,
    system: Control,
    objective: Objective,
    settings_of: Callable[[ControlState, Probed], Settings],
    measure: Callable[..., dict[str, Array]],
    image_shape: tuple[int, int, int] | None,
) -> Prober:
    """Close the probe over a run: V_L, the drift scales, latent speed, geometry and gradient ratios.

    Args:
      config: of the run.
      model: the atlas.
      rows: its contracts; gradient ratios are measured only if one asks for them.
      system: its controllers.
      objective: of `make_objective`.
      settings_of: (control, Probed) → Settings.
      measure: of `make_measure`.
      image_shape: for the view that invariances compare with; the view of the probe batch is always the same.
    """
    g = config.geometry
    calibration: Geometry = geometry(
        latent_dim=config.model.latent_dim,
        initial_length=g.initial_length,
        decay=g.decay,
        calibrations=g.calibrations,
        after=g.after,
        slow_decay=g.slow_decay,
    )
    followed = {row.follows for row in rows if row.mechanism == "track"}
    initial = {row.follows: row.initial / row.factor for row in rows if row.follows}
    needs_view = any(row.name in INVARIANCES for row in rows)

    def init() -> Probed:
        number = lambda value: typed(np.float32(value))  # noqa: E731
        drift = probe.Drift(*(number(0.0) for _ in probe.Drift._fields))
        return Probed(
            geometry=calibration.init(),
            speed_cap=number(caps.NO_CAP),
            lyapunov=number(np.nan),
            lyapunov_rise=number(0.0),
            information=number(np.nan),
            usage_entropy=number(np.nan),
            vq_ratio=number(initial.get("vq_ratio", 1.0)),
            route_ratio=number(initial.get("route_ratio", 1.0)),
            drift=drift,
        )

    def signals_of(probed: Probed, weights: Mapping[str, Array]) -> dict[str, Array]:
        d = probed.drift
        out: dict[str, Array] = {}
        for ratio in followed & {"vq_ratio", "route_ratio"}:
            out[ratio] = getattr(probed, ratio)
        if "vq_ratio" in followed:  # gradient norms as weighed, 1 where they are equal
            out["vq_balance"] = weights["commitment"] / jnp.maximum(probed.vq_ratio, 1e-12)
        return {
            "lyapunov": probed.lyapunov,
            "I_XK_probe": probed.information,
            "H_K_probe": probed.usage_entropy,
            "reaction": 1.0 / probed.geometry.length**2,
            **out,
            **{name: getattr(d, name) for name in ("alpha", "beta", "gamma", "delta")},
        }

    def measure_probe(
        probed: Probed,
        control: ControlState,
        usage: Usage,
        before: tuple[Params, Spectral],
        after: tuple[Params, Spectral],
        batch: Batch,
        rate: Array,
    ) -> Probed:
        params, spectral = after
        lambdas, settings = system.weights(control), settings_of(control, probed)
        view = batch.image
        if needs_view:
            view = augment(jax.random.key(config.seed), batch.image, image_shape, **config.view.to_dict())
        two = probe.passes(model, (before[0]["atlas"], before[1]), (params["atlas"], spectral), batch.image)
        weights = two.weights
        terms = objective.terms(params["atlas"], weights, settings, two.after, batch, view)
        seen = measure(Aux(terms, two.after, spectral), usage, settings)
        lyapunov = seen["task"] + system.violation(control, seen)
        rise = (lyapunov - probed.lyapunov) / jnp.maximum(jnp.abs(probed.lyapunov), 1e-12)

        table: Any = model.class_table(weights, settings.temperature) if config.supervised.enabled else None
        z = two.after.encoding.z_geo
        metric = latent_metric(g.metric, model, weights, z, batch.image, table, batch.label)
        calibrated = calibration.update(probed.geometry, metric, active=control.window.opened)
        drift = probe.drift(
            two,
            batch.image,
            metric=calibrated.metric,
            length=calibrated.length,
            potential=potential(model, weights, table, batch.label, batch.image),
        )
        new = Probed(
            geometry=calibrated,
            speed_cap=caps.speed_cap(rate, drift.speed_mean, config.optim.latent_speed or jnp.inf),
            lyapunov=lyapunov,
            lyapunov_rise=jnp.where(jnp.isfinite(rise), rise, 0.0),
            information=seen["I_XK"],
            usage_entropy=seen["H_K"],
            vq_ratio=probed.vq_ratio,
            route_ratio=probed.route_ratio,
            drift=drift,
        )
        few = Batch(batch.image[:GRADIENT_POINTS], batch.label[:GRADIENT_POINTS])
        if "vq_ratio" in followed:
            new = new._replace(vq_ratio=probe.vq_ratio(model, params["atlas"], spectral, few.image).ratio)
        if "route_ratio" in followed:
            ratio = probe.route_ratio(
                model,
                params["atlas"],
                spectral,
                few.image,
                few.label,
                settings.temperature,
                vq_beta=lambdas.get("commitment", jnp.float32(0.0)),
                recon_weight=config.losses.recon_weight,
            )
            new = new._replace(route_ratio=ratio)
        return jax.lax.stop_gradient(new)

    return Prober(init, signals_of, measure_probe)


GRADIENT_POINTS = 128
"""Points of the probe batch that gradient ratios are taken over: two backward passes are dearer than the rest."""
