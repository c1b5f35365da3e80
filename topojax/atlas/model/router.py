"""Chart router: covariant attention between a query and transported chart keys (model §2)."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from topojax.atlas.model.layers import SpectralDense, SpectralKernel, random_param
from topojax.types import Array

TRANSPORT_EPS = 1e-3
TAU_FLOOR = 1e-2
DENOMINATOR_FLOOR = 1e-3
_SOLVE_TOLERANCE = 1e-6
_SOLVE_STEPS = 64
_GAIN_LIMIT = 1.5
"""Times its initial value: a gain that goes on growing, over τ near its floor, ends in routing that comes apart."""


def temperature(z: Array, hidden: int) -> Array:
    """τ(z) = max(√H · max(1 − ‖z‖², 1e-3) / 2, 1e-2), per sample: [B, D] → [B] (model §2).

    It presumes ‖z‖ < 1: outside the unit ball it sits on its floor and routing is hard.
    """
    inside = jnp.maximum(1.0 - jnp.sum(z**2, axis=-1), DENOMINATOR_FLOOR)
    return jnp.maximum(hidden**0.5 * inside / 2.0, TAU_FLOOR)


def skew_generators(kernel: Array, hidden: int) -> Array:
    """A_d = ½(S_d − S_dᵀ) of the transport map z ↦ S(z) = reshape(W z): [H², D] → [D, H, H]."""
    generators = kernel.T.reshape(-1, hidden, hidden)
    return 0.5 * (generators - jnp.swapaxes(generators, 1, 2))


def solve_shifted_skew(matvec: Callable[[Array], Array], b: Array) -> Array:
    """Solve (I − N) x = b for skew N, a row of the batch each, by the Concus-Golub-Widlund recurrence.

    r_k = b − (I − N) x_k,  ω_k = 1 / (1 + (ρ_k / ρ_{k−1}) / ω_{k−1}),  ρ = ‖r‖²,
    x_{k+1} = x_{k−1} + ω_k (r_k + x_k − x_{k−1}).

    The polynomial of conjugate gradients on I − N², at one product a step, without squaring the condition number; the
    residual is the true one, so float32 accuracy is reached even where the router's τ is at its floor and errors are
    multiplied by 100. Iterates until every row's residual is ≤ 1e-6 ‖b‖.

    Args:
      matvec: y ↦ (I − N) y on [B, H].
      b: [B, H].

    Returns:
      x [B, H].
    """

    def squared_norm(r: Array) -> Array:
        return jnp.sum(r**2, axis=-1, keepdims=True)

    limit = _SOLVE_TOLERANCE**2 * squared_norm(b)

    def unfinished(carry):
        *_, rho, k = carry
        return (k < _SOLVE_STEPS) & jnp.any(rho > limit)

    def step(carry):
        before, x, r, omega, rho, k = carry
        after = before + omega * (r + x - before)
        r = b - matvec(after)
        new = squared_norm(r)
        ratio = jnp.where(rho > 0, new / jnp.where(rho > 0, rho, 1.0), 0.0)
        return x, after, r, 1.0 / (1.0 + ratio / omega), new, k + 1

    zero = jnp.zeros_like(b)
    rho = squared_norm(b)
    start = (zero, zero, b, jnp.ones_like(rho), rho, jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(unfinished, step, start)[1]


def transport_adjoint(generators: Array, z: Array, query: Array) -> Array:
    """U(z)ᵀ q of the Cayley transport U = (E + ½A)⁻¹(E − ½A), E = (1 + ε) I, without forming A.

    ⟨U k, q⟩ = ⟨k, Uᵀq⟩ turns N transported keys into one right-hand side for each sample, and
    Uᵀq = (E + ½A)(E − ½A)⁻¹q = 2(1 + ε)x − q with x = (E − ½A)⁻¹q. A = Σ_d z_d A_d is applied as one
    [B, H] × [H, D·H] product. In the ball ‖½A‖ ≤ 0.36, so about ten products reach float32 accuracy; the solve is
    differentiated implicitly. The dense solve is the oracle of the tests (model §2).

    Args:
      generators: skew A_d, [D, H, H].
      z: latent points, [B, D].
      query: q, [B, H].

    Returns:
      [B, H].
    """
    dim, hidden = generators.shape[0], generators.shape[1]
    stacked = -generators.reshape(dim * hidden, hidden) / (2.0 * (1.0 + TRANSPORT_EPS))  # rows (d, i): A_dᵀ = −A_d

    def turned(y: Array) -> Array:  # N y with N = A(z) / 2(1 + ε), as one [B, D·H] × [D·H, H] product
        return (z[:, :, None] * y[:, None, :]).reshape(-1, dim * hidden) @ stacked

    def forward(_: Callable, b: Array) -> Array:
        return solve_shifted_skew(lambda y: y - turned(y), b)

    def transposed(_: Callable, b: Array) -> Array:  # Nᵀ = −N
        return solve_shifted_skew(lambda y: y + turned(y), b)

    x = jax.lax.custom_linear_solve(lambda y: y - turned(y), query, forward, transposed)
    return 2.0 * x - query


class CovariantRouter(nn.Module):
    """Scores ⟨U(z) base_n, q(z, f)⟩ / τ(z) over charts (model §2).

    q = Lin_z(z) + Lin_f(f) + Γ(z), Γ the Christoffel term: `sum` is ((z Uᵀ) ∘ (z Vᵀ)) O of the given rank, `full`
    is Γ_k = Σ_ij T_kij z_i z_j.

    Attributes:
      hidden: H.
      tensorization: `sum` or `full`.
      rank: R of the `sum` form.
      transport: rotate the keys by the Cayley transport; off, keys are the base queries.
    """

    hidden: int
    tensorization: str = "sum"
    rank: int = 8
    transport: bool = True
    gain: float = 0.0

    @nn.compact
    def __call__(self, z: Array, base: Array, features: Array | None = None) -> Array:
        """Scores [B, N] of latents z [B, D] against base queries [N, H], with features [B, H] in the encoder."""
        query = SpectralDense(self.hidden, name="query_z")(z) + self._christoffel(z)
        if features is not None:
            query = query + SpectralDense(self.hidden, name="query_features")(features)
        if self.transport:
            kernel = SpectralKernel((self.hidden**2, z.shape[-1]), name="transport")()
            query = transport_adjoint(skew_generators(kernel, self.hidden), z, query)
        scores = (query @ base.T) / temperature(z, self.hidden)[:, None]
        if not self.gain:
            return scores
        log_gain = self.param("log_gain", nn.initializers.constant(math.log(self.gain)), ())
        return scores * jnp.exp(jnp.minimum(log_gain, math.log(_GAIN_LIMIT * self.gain)))

    def _christoffel(self, z: Array) -> Array:
        dim = z.shape[-1]
        if self.tensorization == "full":
            tensor = random_param(self, "gamma", (self.hidden, dim, dim), 0.2)
            outer = (z[:, :, None] * z[:, None, :]).reshape(-1, dim * dim)
            return outer @ tensor.reshape(self.hidden, dim * dim).T
        left = random_param(self, "gamma_u", (self.rank, dim), 0.2)
        right = random_param(self, "gamma_v", (self.rank, dim), 0.2)
        out = random_param(self, "gamma_out", (self.rank, self.hidden), 0.2)
        return ((z @ left.T) * (z @ right.T)) @ out


@jax.custom_vjp
def route(scores: Array) -> Array:
    """Router weights w = softmax(scores), [B, N], with a gradient that stays accurate where routing is hard.

    The usual w (g − ⟨w, g⟩) loses all digits when w is nearly one-hot, and 1/τ multiplies what is left; subtracting
    the cotangent of the chosen chart first changes nothing in exact arithmetic and gains three digits in float32.
    """
    return jax.nn.softmax(scores, axis=-1)


def _route_forward(scores):
    w = jax.nn.softmax(scores, axis=-1)
    return w, w


def _route_backward(w, g):
    g = g - jnp.take_along_axis(g, jnp.argmax(w, axis=-1)[:, None], axis=1)
    return (w * (g - jnp.sum(w * g, axis=-1, keepdims=True)),)


route.defvjp(_route_forward, _route_backward)
