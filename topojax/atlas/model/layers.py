"""Primitives of the atlas: spectrally normalised linear maps and norm gates (model §1).

Spectral normalisation is one pure function over the whole parameter tree, not a part of every layer: a layer
declares its kernel and its power-iteration vector, `normalise` divides all kernels of one shape in a single
batched call before the forward pass, and the layers use what they are given. The forward pass can then be run
several times in a step (augmented views, probe batches) at the price of one normalisation.
"""

import functools
from collections import defaultdict
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import ArrayLike

from topojax.atlas.model.unrolled import unrolled
from topojax.types import Array, Params, Spectral

POWER_ITERATIONS = 3
_NORM_FLOOR = 1e-12


def random_param(module: nn.Module, name: str, shape: tuple[int, ...], spread: float, mean: ArrayLike = 0.0) -> Array:
    """Declare a parameter that starts uniform in mean ± spread.

    The mean goes to `params` and the spread to a collection of that name; `perturb` adds one draw to all of them.
    (Forty generators in one program take seconds to compile, one takes a tenth.)
    """
    if module.is_initializing():
        module.variable("spread", name, lambda: jnp.float32(spread))
    return module.param(name, lambda key: jnp.broadcast_to(jnp.asarray(mean, jnp.float32), shape))


def perturb(key: Array, params: Params, spread: Params, spectral: Spectral) -> tuple[Params, Spectral]:
    """Initial parameters, mean + spread · U(−1, 1), and random unit vectors for the power iterations."""
    flat, spreads, vectors = (flatten_dict(tree) for tree in (params, spread, spectral))
    sizes = [flat[path].size for path in spreads] + [u.size for u in vectors.values()]
    noise = jax.random.uniform(key, (sum(sizes),), minval=-1.0, maxval=1.0)
    pieces = iter(jnp.split(noise, np.cumsum(sizes)[:-1]))
    for path, width in spreads.items():
        flat[path] = flat[path] + width * next(pieces).reshape(flat[path].shape)
    for path, u in vectors.items():
        vectors[path] = _unit(next(pieces).reshape(u.shape))
    return unflatten_dict(flat), unflatten_dict(vectors)


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), _NORM_FLOOR)


def power_iterate(kernel: Array, u: Array) -> tuple[Array, Array]:
    """Largest singular value of each matrix by power iteration from u.

    Three times v ← Wᵀu, u ← Wv/‖·‖, no gradient; then σ = |uᵀWv|/‖v‖, with gradient through W (model §1).

    Args:
      kernel: [G, out, in].
      u: [G, out], unit vectors.

    Returns:
      σ [G] and the new u [G, out].
    """
    fixed = jax.lax.stop_gradient(kernel)

    def iterate(_: int, uv: tuple[Array, Array]) -> tuple[Array, Array]:
        v = jnp.einsum("goi,go->gi", fixed, uv[0])
        return _unit(jnp.einsum("goi,gi->go", fixed, v)), v

    groups, _, inputs = kernel.shape
    u, v = jax.lax.fori_loop(0, POWER_ITERATIONS, iterate, (u, jnp.zeros((groups, inputs))))
    return jnp.abs(jnp.sum(u * jnp.einsum("goi,gi->go", kernel, _unit(v)), axis=-1)), u


def normalise(params: Params, spectral: Spectral) -> tuple[Params, Spectral]:
    """Divide every kernel that has a power-iteration vector by max(σ, 1).

    Kernels of one shape are stacked, so the graph holds one power iteration for each shape, not for each layer.

    Args:
      params: tree whose spectral kernels are leaves named `kernel`, [..., out, in].
      spectral: tree of the same paths with leaves `u`, [..., out].

    Returns:
      The tree of weights to apply, and the new power-iteration vectors (to be stored in training only).
    """
    flat, vectors = flatten_dict(params), flatten_dict(spectral)
    groups = defaultdict(list)
    for path in vectors:
        kernel = (*path[:-1], "kernel")
        groups[flat[kernel].shape[-2:]].append((kernel, path))
    for shape, members in sorted(groups.items()):
        kernels = jnp.concatenate([flat[kernel].reshape(-1, *shape) for kernel, _ in members])
        us = jnp.concatenate([vectors[path].reshape(-1, shape[0]) for _, path in members])
        sigma, us = power_iterate(kernels, us)
        kernels = kernels / jnp.maximum(sigma, 1.0)[:, None, None]
        start = 0
        for kernel, path in members:
            stop = start + vectors[path].size // shape[0]
            flat[kernel] = kernels[start:stop].reshape(flat[kernel].shape)
            vectors[path] = us[start:stop].reshape(vectors[path].shape)
            start = stop
    return unflatten_dict(flat), unflatten_dict(vectors)


MATMUL = ("float32", "bfloat16")
"""What the operands of the large products may be rounded to."""


def product(x: Array, kernel: Array, matmul: str) -> Array:
    """X Wᵀ of [..., in] and [out, in], with operands rounded to `matmul`'s type and sums in float32."""
    if matmul == "float32":
        return x @ kernel.T
    x, kernel = x.astype(matmul), kernel.astype(matmul)
    return jnp.matmul(x, kernel.T, preferred_element_type=jnp.float32)


class SpectralDense(nn.Module):
    """y = x Wᵀ + b with W [out, in] kept at spectral norm ≤ 1 by `normalise`.

    Attributes:
      features: output size.
      use_bias: add b, uniform in ±1/√in at the start.
      matmul: as in `product`.
    """

    features: int
    use_bias: bool = True
    matmul: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = spectral_kernel(self, (self.features, x.shape[-1]))
        y = product(x, kernel, self.matmul)
        if self.use_bias:
            bias = random_param(self, "bias", (self.features,), x.shape[-1] ** -0.5)
            y = y + bias.reshape((1,) * (y.ndim - 1) + bias.shape)
        return y


class SpectralMap(nn.Module):
    """Kernel [out, in] and bias [out] of a `SpectralDense`, for a caller that applies several at once.

    Attributes:
      features, inputs: out, in.
    """

    features: int
    inputs: int

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        kernel = spectral_kernel(self, (self.features, self.inputs))
        return kernel, random_param(self, "bias", (self.features,), self.inputs**-0.5)


class SpectralMaps(nn.Module):
    """Kernels [N, out, in] and biases [N, out] of N maps, each kept at spectral norm ≤ 1 by `normalise`.

    Attributes:
      maps, features, inputs: N, out, in.
    """

    maps: int
    features: int
    inputs: int

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        kernel = spectral_kernel(self, (self.maps, self.features, self.inputs))
        return kernel, random_param(self, "bias", (self.maps, self.features), self.inputs**-0.5)


class SpectralKernel(nn.Module):
    """A spectrally normalised kernel without a rule for applying it: [*stack, out, in].

    Attributes:
      shape: shape of the kernel; leading axes stack independent matrices.
      near_identity: start at the identity plus 0.01 noise instead of uniform in ±1/√in (jump operator).
    """

    shape: tuple[int, ...]
    near_identity: bool = False

    @nn.compact
    def __call__(self) -> Array:
        if self.near_identity:
            return spectral_kernel(self, self.shape, 0.01 * 3**0.5, jnp.eye(self.shape[-2], self.shape[-1]))
        return spectral_kernel(self, self.shape)


def spectral_kernel(
    module: nn.Module, shape: tuple[int, ...], spread: float | None = None, mean: ArrayLike = 0.0
) -> Array:
    """Declare a kernel [..., out, in], uniform in mean ± spread (1/√in), and its power-iteration vector."""
    if module.is_initializing():
        module.variable("spectral", "u", lambda: jnp.zeros(shape[:-1]))
    return random_param(module, "kernel", shape, shape[-1] ** -0.5 if spread is None else spread, mean)


def gelu(x: Array) -> Array:
    """Exact x Φ(x) = ½ x (1 + erf(x/√2))."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * np.float32(0.5**0.5)))


Parts = Sequence[Array] | Array
"""The channels of bundles: an array each where a bundle is written out (`unrolled.unrolled`), else the first axis."""


def energy(parts: Parts) -> Array:
    """√(Σ_i x_i² + 1e-12) over the channels of a bundle."""
    if isinstance(parts, jax.Array):
        return jnp.sqrt(jnp.sum(parts**2, axis=0) + 1e-12)
    return jnp.sqrt(functools.reduce(jnp.add, [part**2 for part in parts]) + 1e-12)


class NormGate(nn.Module):
    """x_j · gelu(‖x_j‖ + β_j) on bundles of `bundle` channels (model §1).

    The norm is √(‖·‖² + 1e-12) and gelu is exact (erf). With β = 0 the gate is ≈ ‖x‖/2 for small x: it squares a
    small signal, and three gates in a row start the atlas with almost none; β = 1 starts near-linear.
    """

    bundle: int
    bias_init: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        beta = self.param("beta", nn.initializers.constant(self.bias_init), (x.shape[-1] // self.bundle,))
        if not unrolled(self.bundle):
            u = x.reshape(*x.shape[:-1], -1, self.bundle)
            norm = jnp.sqrt(jnp.sum(u**2, axis=-1) + 1e-12)
            return (u * gelu(norm + beta.reshape((1,) * (x.ndim - 1) + beta.shape))[..., None]).reshape(x.shape)
        # Strided slices: a sum over a short last axis is several times dearer on a CPU.
        parts = [x[..., i :: self.bundle] for i in range(self.bundle)]
        gate = gelu(energy(parts) + beta.reshape((1,) * (x.ndim - 1) + beta.shape))
        return jnp.stack([part * gate for part in parts], axis=-1).reshape(x.shape)


@jax.custom_vjp
def gated_mixture(parts: Parts, beta: Array, weights: Array) -> Parts:
    """Σ_n w_n gate(x_n): norm gates of N inputs and their weighted sum, without the gated inputs in between.

    Its own gradient, since the usual one keeps and reads five arrays of [N, J, B] where recomputing takes three; batch
    last, so that every line is a run over memory. Together a quarter of the time of `NormGate` and an einsum.

    Args:
      parts: the channels of every bundle, each [N, J, B] for J bundles, or all of them, [P, N, J, B].
      beta: β, [J].
      weights: w, [N, B].

    Returns:
      As many arrays [J, B], or [P, J, B].
    """
    gate = gelu(energy(parts) + beta[None, :, None]) * weights[:, None]
    if isinstance(parts, jax.Array):
        return jnp.sum(parts * gate[None], axis=1)
    return [jnp.sum(part * gate, axis=0) for part in parts]


def _gated_mixture_forward(parts, beta, weights):
    return gated_mixture(parts, beta, weights), (parts, beta, weights)


def _gated_mixture_backward(residuals, cotangents):
    parts, beta, weights = residuals
    norm = energy(parts)
    x = norm + beta[None, :, None]
    phi = 0.5 * (1.0 + jax.lax.erf(x * np.float32(0.5**0.5)))
    slope = phi + x * np.float32((2 * np.pi) ** -0.5) * jnp.exp(-0.5 * x**2)
    together = isinstance(parts, jax.Array)
    if together:
        along = jnp.sum(parts * cotangents[:, None], axis=0)
    else:
        along = functools.reduce(jnp.add, [part * g[None] for part, g in zip(parts, cotangents, strict=True)])
    dx = along * slope * weights[:, None]
    gate, radial = x * phi * weights[:, None], dx / norm
    if together:
        dparts = cotangents[:, None] * gate[None] + parts * radial[None]
    else:
        dparts = [g[None] * gate + part * radial for part, g in zip(parts, cotangents, strict=True)]
    return dparts, jnp.sum(dx, axis=(0, 2)), jnp.sum(along * x * phi, axis=1)


gated_mixture.defvjp(_gated_mixture_forward, _gated_mixture_backward)


class MixtureGate(nn.Module):
    """Linear maps of one point into N charts, a norm gate each, and the mean of it all by weights (model §4).

    h = Σ_n w_n gate(W_n x)

    Attributes:
      bundle, bias_init: as in `NormGate`.
    """

    bundle: int
    bias_init: float = 1.0

    @nn.compact
    def __call__(self, x: Array, kernels: Array, weights: Array) -> Array:
        """[B, H] of points x, [D, B] or one for each chart [N, D, B], kernels W [N, H, D] and weights w [B, N]."""
        charts, hidden, dim = kernels.shape
        parts: Parts
        beta = self.param("beta", nn.initializers.constant(self.bias_init), (hidden // self.bundle,))
        by_part = kernels.reshape(charts, -1, self.bundle, dim).transpose(2, 0, 1, 3)
        if not (unrolled(dim) and unrolled(self.bundle)):
            each = kernels @ (x[None] if x.ndim == 2 else x)
            parts = each.reshape(charts, -1, self.bundle, x.shape[-1]).transpose(2, 0, 1, 3)
        elif x.ndim == 2:
            each = (by_part.reshape(-1, dim) @ x).reshape(self.bundle, charts, -1, x.shape[-1])
            parts = [each[i] for i in range(self.bundle)]
        else:  # D products and sums, batch last: a batched product of so few columns is slower on a CPU
            # What is small is written down before: fused, a routing would be worked out again for every channel.
            x, weights = jax.lax.optimization_barrier((x, weights))
            parts = [functools.reduce(jnp.add, [k[..., i, None] * x[:, None, i] for i in range(dim)]) for k in by_part]
        out = gated_mixture(parts, beta, weights.T)
        return jnp.stack(out, axis=1).reshape(hidden, -1).T


class IsotropicBlock(nn.Module):
    """D → D: x W with W spectrally normalised, then one norm gate over all D channels (model §1).

    W is applied from the right (x W, not x Wᵀ), as in the original.
    """

    bias_init: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dim = x.shape[-1]
        kernel = spectral_kernel(self, (dim, dim))
        return NormGate(bundle=dim, bias_init=self.bias_init, name="gate")(x @ kernel)
