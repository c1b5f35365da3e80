"""The probe of a run: what a fixed batch says of one update, measured once in a while and held until the next time.

V_L, the drift scales, the latent's speed, its geometry, and ratios of gradients that weights may follow.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas import probe
from topojax.atlas.geometry import Geometry, GeometryState, geometry, latent_metric, potential
from topojax.atlas.model import Model
from topojax.atlas.objective import Aux, Objective
from topojax.atlas.signals import Usage
from topojax.atlas.system import Control, ControlState
from topojax.atlas.terms import Settings
from topojax.control import caps
from topojax.control.base import is_off, typed
from topojax.data.augment import augment
from topojax.types import Array, Batch, Params, Spectral

GRADIENT_POINTS = 128
"""Points of the probe batch that gradient ratios are taken over: two backward passes are dearer than the rest."""
RATIOS = ("vq_ratio", "route_ratio")
"""Fields of `Probed` that a weight may follow; measured only if one does."""


class Probed(NamedTuple):
    """What the last probe measured, held until the next; leaves of shape=(), float32, but for the geometry."""

    geometry: GeometryState
    speed_cap: Array  # largest rate that keeps the latent speed
    lyapunov: Array  # V_L = task + Σ ½ max(0, C_k)² on the probe batch
    lyapunov_rise: Array  # its change since the probe before, relative
    information: Array  # I(X;K) of the probe batch, nats
    usage_entropy: Array  # H(K) of the probe batch, nats
    vq_ratio: Array  # gradient norm of the codebook loss over that of the commitment
    route_ratio: Array  # gradient norm of reconstruction and vq over that of the route term
    drift: probe.Drift


@dataclasses.dataclass(frozen=True, eq=False)
class Prober:
    """Pure functions around the probe batch, closed over a run (`make_prober`).

    Attributes:
      config, model, rows: of the run.
      system: its controllers.
      objective: its terms.
      settings_of: (control, Probed) → Settings.
      signals_of: (aux, usage, settings) → signals of a pass.
      calibration: average of the measured metrics.
      image_shape: of the view that invariances compare with.
    """

    config: Any
    model: Model
    rows: tuple
    system: Control
    objective: Objective
    settings_of: Callable[[ControlState, Probed], Settings]
    signals_of: Callable[..., dict[str, Array]]
    calibration: Geometry
    image_shape: tuple[int, int, int] | None

    def init(self) -> Probed:
        """Before the first probe: no cap, nothing measured; ratios are such that a weight starts at its initial one."""
        initial = {row.follows: row.initial / row.factor for row in self.rows if row.follows}
        return Probed(
            geometry=self.calibration.init(),
            speed_cap=typed(caps.NO_CAP),
            lyapunov=typed(np.nan),
            lyapunov_rise=typed(0.0),
            information=typed(np.nan),
            usage_entropy=typed(np.nan),
            vq_ratio=typed(initial.get("vq_ratio", 1.0)),
            route_ratio=typed(initial.get("route_ratio", 1.0)),
            drift=probe.Drift(*(typed(0.0) for _ in probe.Drift._fields)),
        )

    def signals(self, probed: Probed, weights: Mapping[str, Array]) -> dict[str, Array]:
        """What controllers are told of the last probe, by name.

        Args:
          probed: of the last probe.
          weights: contract → λ_k.
        """
        followed = self._followed()
        out: dict[str, Array] = {name: getattr(probed, name) for name in RATIOS if name in followed}
        if "vq_ratio" in followed:  # gradient norms as weighed, 1 where they are equal
            out["vq_balance"] = weights["commitment"] / jnp.maximum(probed.vq_ratio, 1e-12)
        return {
            "lyapunov": probed.lyapunov,
            "I_XK_probe": probed.information,
            "H_K_probe": probed.usage_entropy,
            "reaction": 1.0 / probed.geometry.length**2,
            **out,
            **{name: getattr(probed.drift, name) for name in ("alpha", "beta", "gamma", "delta")},
        }

    def measure(
        self,
        probed: Probed,
        control: ControlState,
        usage: Usage,
        before: tuple[Params, Spectral],
        after: tuple[Params, Spectral],
        batch: Batch,
        rate: Array,
    ) -> Probed:
        """Probe one update.

        Args:
          probed: of the probe before.
          control: state of the controllers.
          usage: decayed counts of charts and codes.
          before: params and power-iteration vectors before the update.
          after: the same after it.
          batch: the probe batch.
          rate: η of the update.
        """
        params, spectral = after
        lambdas, settings = self.system.weights(control), self.settings_of(control, probed)
        view = self._view(batch) if self.objective.compares else None
        both = view if self.objective.together else None
        pair = (before[0]["atlas"], before[1]), (params["atlas"], spectral)
        two = probe.passes(self.model, *pair, batch.image, both)
        second = two.second if view is None or both is not None else self.model.encode(two.weights, view)
        terms = self.objective.terms(params["atlas"], two.weights, settings, two.after, batch, second)
        measured = self.signals_of(Aux(terms, two.after, spectral), usage, settings)
        lyapunov = measured["task"] + self.system.violation(control, measured)
        rise = (lyapunov - probed.lyapunov) / jnp.maximum(jnp.abs(probed.lyapunov), 1e-12)
        calibrated, drift = self._moved(probed, control, two, settings, batch)
        fastest = self.config.optim.latent_speed
        new = Probed(
            geometry=calibrated,
            speed_cap=caps.speed_cap(rate, drift.speed_mean, jnp.inf if is_off(fastest) else fastest),
            lyapunov=lyapunov,
            lyapunov_rise=jnp.where(jnp.isfinite(rise), rise, 0.0),
            information=measured["I_XK"],
            usage_entropy=measured["H_K"],
            vq_ratio=probed.vq_ratio,
            route_ratio=probed.route_ratio,
            drift=drift,
        )
        return jax.lax.stop_gradient(new._replace(**self._ratios(params["atlas"], spectral, lambdas, settings, batch)))

    def _followed(self) -> set[str]:
        return {row.follows for row in self.rows if row.mechanism == "track"}

    def _view(self, batch: Batch) -> Array:
        key = jax.random.key(self.config.seed)  # of the run, not of the step: always the same view
        return augment(key, batch.image, self.image_shape, **self.config.view.to_dict())

    def _moved(
        self, probed: Probed, control: ControlState, two: probe.Passes, settings: Settings, batch: Batch
    ) -> tuple[GeometryState, probe.Drift]:
        """The metric in force, and how far the update went by it."""
        model, weights = self.model, two.weights
        table: Any = model.class_table(weights, settings.temperature) if self.config.supervised.enabled else None
        z = two.after.encoding.z_geo
        metric = latent_metric(self.config.geometry.metric, model, weights, z, batch.image)
        calibrated = self.calibration.update(probed.geometry, metric, active=control.window.opened)
        drift = probe.drift(
            two,
            batch.image,
            metric=calibrated.metric,
            length=calibrated.length,
            potential=potential(model, weights, table, batch.label, batch.image),
        )
        return calibrated, drift

    def _ratios(
        self, params: Params, spectral: Spectral, lambdas: Mapping[str, Array], settings: Settings, batch: Batch
    ) -> dict[str, Any]:
        """Those that a weight follows."""
        image, label = batch.image[:GRADIENT_POINTS], batch.label[:GRADIENT_POINTS]
        followed, out = self._followed(), {}
        if "vq_ratio" in followed:
            out["vq_ratio"] = probe.vq_ratio(self.model, params, spectral, image).ratio
        if "route_ratio" in followed:
            out["route_ratio"] = probe.route_ratio(
                self.model,
                params,
                spectral,
                image,
                label,
                settings.temperature,
                vq_beta=lambdas.get("commitment", jnp.float32(0.0)),
                recon_weight=self.config.losses.recon_weight,
            )
        return out


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
    """Close the probe over a run.

    Args:
      config: of the run.
      model: the atlas.
      rows: its contracts; gradient ratios are measured only if one asks for them.
      system: its controllers.
      objective: its terms.
      settings_of: (control, Probed) → Settings.
      measure: of `make_measure`.
      image_shape: for the view that invariances compare with; the view of the probe batch is always the same.

    Raises:
      ValueError: a value of `config.geometry` out of its range.
    """
    g = config.geometry
    calibration = geometry(
        latent_dim=config.model.latent_dim,
        initial_length=g.initial_length,
        decay=g.decay,
        calibrations=g.calibrations,
    )
    return Prober(config, model, rows, system, objective, settings_of, measure, calibration, image_shape)


def probe_metrics(probed: Probed) -> dict[str, Array]:
    """What the last probe measured, by the names of the log."""
    return {
        **{f"probe/{name}": value for name, value in probed.drift._asdict().items()},
        "probe/V_L": probed.lyapunov,
        "probe/V_L_rise": probed.lyapunov_rise,
        "probe/I_XK": probed.information,
        "probe/H_K": probed.usage_entropy,
        "probe/vq_ratio": probed.vq_ratio,
        "probe/route_ratio": probed.route_ratio,
        "probe/speed_cap": probed.speed_cap,
        "geometry/length": probed.geometry.length,
        "geometry/measured": probed.geometry.measured,
    }
