"""Baselines trained in the atlas's own step, on its batches, by an Adam of their own; nothing of them reaches it.

L_ae = mean (x̂ − x)²,   L_vq = mean (x̂ − x)² + mean (z_q − sg z)² + β mean (sg z_q − z)²,   z_q straight-through,

and each its probe's cross entropy, which sees sg z. One backward pass takes the gradient of the atlas's loss plus
theirs. Their parameters, moments and rate are apart from the atlas's: no clip norm, governor, cap or contract sees
them, and nothing that control decides moves them. What is measured of them is their running average, as of the atlas.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from topojax.atlas import losses, optim
from topojax.atlas.model import Model
from topojax.atlas.model.plain import Baseline, Bottleneck, make_baseline
from topojax.types import Array, Batch, Metrics, Params

NAMES = ("ae", "vq")


class BaselineState(NamedTuple):
    """Of one baseline; float32 leaves, saved and restored with the rest of the state."""

    params: Params
    opt_state: Any
    average: Params  # of params, as `TrainState.average`; empty where there is none

    @property
    def measured(self) -> Params:
        """The parameters to evaluate."""
        return self.average or self.params


@dataclasses.dataclass(frozen=True, eq=False)
class Baselines:
    """The baselines of a run, by name: `ae`, `vq`, those that are on; pure functions of their states.

    Attributes:
      members: name → pure functions.
      config: of the run.
      optimizer: directions, of one baseline.
      schedule: step → cap of the atlas's rate; theirs falls in proportion.
    """

    members: dict[str, Baseline]
    config: Any
    optimizer: optax.GradientTransformation
    schedule: Callable[[Array], Array]

    def init(self, key: Array) -> dict[str, BaselineState]:
        """Name → initial state."""
        params = {
            name: member.init(jax.random.fold_in(key, NAMES.index(name))) for name, member in self.members.items()
        }
        return {
            name: BaselineState(
                tree, self.optimizer.init(tree), optim.average(self.config.optim, {}, tree, jnp.int32(0))
            )
            for name, tree in params.items()
        }

    def loss(self, params: dict[str, Params], batch: Batch) -> tuple[Array, Metrics]:
        """The sum of their losses, and every term of it.

        Args:
          params: of every baseline (`params_of`).
          batch: B examples.
        """
        total, metrics = jnp.zeros(()), dict[str, Array]()
        for name, member in self.members.items():
            e = member.encode(params[name], batch.image)
            x_hat = member.decode(params[name], e.z + jax.lax.stop_gradient(e.z_q - e.z))
            terms = {"recon": losses.recon(x_hat, batch.image)}
            if member.codes:
                codebook = jnp.mean((e.z_q - jax.lax.stop_gradient(e.z)) ** 2)
                commitment = jnp.mean((jax.lax.stop_gradient(e.z_q) - e.z) ** 2)
                terms["vq"] = codebook + self.config.baselines.commitment * commitment
            terms["probe"] = losses.cross_entropy(member.probe(params[name], e.z_q), batch.label)
            total = total + jnp.sum(jnp.stack(list(terms.values())))
            metrics |= {f"baseline/{name}/{term}": value for term, value in terms.items()}
        return total, metrics

    def update(
        self, states: dict[str, BaselineState], grads: dict[str, Params], step: Array, left: Array
    ) -> tuple[dict[str, BaselineState], Array]:
        """One step of each; a gradient or a direction that is not finite moves nothing of its baseline.

        Args:
          states: before.
          grads: name → gradient of its params.
          step: optimizer steps made before.
          left: shape=(), of the rate, by the end of the run.

        Returns:
          (states after, whether every gradient and direction was finite).
        """
        share = jnp.minimum(self.schedule(step) / self.config.optim.learning_rate_max, 1.0) * left
        rate = self.config.baselines.learning_rate * share
        new, sound = {}, jnp.bool_(True)
        for name, (params, opt_state, average) in states.items():
            direction, moved = self.optimizer.update(grads[name], opt_state, params)
            finite = jnp.isfinite(optax.tree.norm(grads[name]) + optax.tree.norm(direction))
            params = jax.tree.map(lambda p, u: p - rate * jnp.where(finite, u, 0.0), params, direction)  # noqa: B023
            averaged = optim.average(self.config.optim, average, params, step) if average else average
            new[name] = BaselineState(
                params, optim.masked(finite, moved, opt_state), optim.masked(finite, averaged, average)
            )
            sound = sound & finite
        return new, sound

    def encode(self, states: dict[str, BaselineState], x: Array) -> dict[str, Bottleneck]:
        """Name → what its decoder is given of inputs [B, X]."""
        return {name: member.encode(states[name].measured, x) for name, member in self.members.items()}

    def reconstruct(self, states: dict[str, BaselineState], x: Array) -> dict[str, Array]:
        """Name → x_hat [B, X] of inputs [B, X]."""
        found = self.encode(states, x)
        return {name: member.decode(states[name].measured, found[name].z_q) for name, member in self.members.items()}

    def evaluate(self, states: dict[str, BaselineState], batch: Batch) -> dict[str, Array]:
        """Per-example arrays, `ae/squared_error` and so on (`step.predict.make_evaluate`)."""
        out: dict[str, Array] = {}
        for name, member in self.members.items():
            params = states[name].measured
            e = member.encode(params, batch.image)
            x_hat, logits = member.decode(params, e.z_q), member.probe(params, e.z_q)
            out |= {
                f"{name}/z": e.z_q,
                f"{name}/squared_error": jnp.mean((x_hat - batch.image) ** 2, axis=-1),
                f"{name}/probe_probability": jax.nn.softmax(logits),
                f"{name}/probe_prediction": jnp.argmax(logits, axis=-1),
            }
            if member.codes:
                out[f"{name}/code"] = e.code
        return out


def make_baselines(
    config: Any, model: Model, *, input_dim: int, num_classes: int, schedule: Callable[[Array], Array]
) -> Baselines:
    """Close the baselines over a configuration.

    Args:
      config: of the run; `config.baselines`, and the atlas's latent and hidden dimensions.
      model: the atlas, whose encoder and decoder they match in number of parameters.
      input_dim: X.
      num_classes: C.
      schedule: of `optim.schedule`, step → cap of the atlas's rate; theirs falls in proportion.
    """
    c = config.baselines
    wanted, codes = (c.autoencoder, c.vq), (0, c.codes)
    members: dict[str, Baseline] = {}
    if any(wanted):
        atlas, _ = jax.eval_shape(model.init, jax.random.key(0))
        parameters = sum(leaf.size for part in ("encoder", "decoder") for leaf in jax.tree.leaves(atlas[part]))
        members = {
            name: make_baseline(
                parameters=parameters,
                input_dim=input_dim,
                latent=config.model.latent_dim,
                classes=num_classes,
                probe_width=config.model.hidden_dim,
                codes=n,
            )
            for name, on, n in zip(NAMES, wanted, codes, strict=True)
            if on
        }
    return Baselines(members, config, _optimizer(config.optim), schedule)


def params_of(states: dict[str, BaselineState]) -> dict[str, Params]:
    """What the gradient is taken with respect to."""
    return {name: state.params for name, state in states.items()}


def _optimizer(config: Any) -> optax.GradientTransformation:
    """The atlas's clipping and Adam; body and probe apart, so that no label reaches the body through a norm."""

    def direction() -> optax.GradientTransformation:
        adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
        return optax.flatten(optax.chain(optim.clipping(config), adam))

    return optax.partition({"body": direction(), "probe": direction()}, {"body": "body", "probe": "probe"})
