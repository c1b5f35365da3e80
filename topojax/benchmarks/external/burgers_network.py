"""Burgers' equation by a network: the points, the network with its derivatives, and what should be 0.

    u_t + u u_x = ν u_xx    ν = 0.01/π    x ∈ [−1, 1], t ∈ [0, 1]    u(x, 0) = −sin πx    u(±1, t) = 0

The setting is that of the Burgers notebook of tum-pbs/ConFIG: a tanh network of five hidden layers of 50, Xavier normal
weights and biases of 0.001; 2,000 points inside, 50 on the boundary and 50 at the beginning, drawn anew each step.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from topojax.types import Array

VISCOSITY = 0.01 / math.pi
WIDTH, HIDDEN = 50, 5
INSIDE, BOUNDARY, INITIAL = 2000, 50, 50

Layers = list[tuple[Array, Array]]


class Points(NamedTuple):
    """The points of one step: (x, t) inside, t on the boundary (half of them at each end), x at the beginning."""

    inside: Array  # (INSIDE, 2)
    boundary: Array  # (BOUNDARY, 2)
    initial: Array  # (INITIAL, 2)


def initial_layers(key: Array) -> Layers:
    """Weights (inputs, outputs), Xavier normal, and biases 0.001 of each layer."""
    sizes = [2, *[WIDTH] * HIDDEN, 1]
    normal = jax.nn.initializers.glorot_normal()
    keys = jax.random.split(key, len(sizes) - 1)
    return [(normal(k, (n, m)), jnp.full(m, 1e-3)) for k, n, m in zip(keys, sizes, sizes[1:], strict=False)]


def _stratified(key: Array, number: int) -> Array:
    """A Latin hypercube's column: one point in each of `number` equal cells of [0, 1], in random order."""
    order, inside = jax.random.split(key)
    return (jax.random.permutation(order, number) + jax.random.uniform(inside, (number,))) / number


def draw(key: Array) -> Points:
    """The points of one step, each coordinate a Latin hypercube's."""
    a, b, c, d = jax.random.split(key, 4)
    x, t = 2 * _stratified(a, INSIDE) - 1, _stratified(b, INSIDE)
    end = jnp.where(jnp.arange(BOUNDARY) < BOUNDARY // 2, -1.0, 1.0)
    begin = 2 * _stratified(c, INITIAL) - 1
    return Points(
        inside=jnp.stack([x, t], -1),
        boundary=jnp.stack([end, _stratified(d, BOUNDARY)], -1),
        initial=jnp.stack([begin, jnp.zeros_like(begin)], -1),
    )


def value(layers: Layers, points: Array) -> Array:
    """The network at points (n, 2): shape (n,)."""
    hidden = points
    for weight, bias in layers[:-1]:
        hidden = jnp.tanh(hidden @ weight + bias[None])
    weight, bias = layers[-1]
    return (hidden @ weight + bias[None])[:, 0]


def jet(layers: Layers, points: Array) -> tuple[Array, Array, Array, Array]:
    """The network u with u_x, u_xx and u_t at points (n, 2), each of shape (n,): Taylor mode, one product a layer.

    a = tanh z:    a_x = a' z_x    a_t = a' z_t    a_xx = a' z_xx + a'' z_x²    a' = 1 − a²    a'' = −2 a a'

    The four channels go through a layer as rows of one matrix, which takes a third of the time of nested `jax.grad`.
    """
    n = len(points)
    weight, bias = layers[0]
    z = points @ weight + bias[None]
    z_x, z_t, z_xx = weight[:1], weight[1:], jnp.zeros_like(weight[:1])
    for weight, bias in layers[1:]:
        a = jnp.tanh(z)
        slope = 1 - a * a
        a_x = slope * z_x
        rows = jnp.concatenate([a, a_x, slope * z_xx - 2 * a * a_x * z_x, slope * z_t]) @ weight
        z, z_x, z_xx, z_t = rows[:n] + bias[None], rows[n : 2 * n], rows[2 * n : 3 * n], rows[3 * n :]
    return z[:, 0], z_x[:, 0], z_xx[:, 0], z_t[:, 0]


def residual(layers: Layers, points: Points) -> Array:
    """What the equation leaves over inside, u_t + u u_x − ν u_xx: shape (INSIDE,)."""
    u, u_x, u_xx, u_t = jet(layers, points.inside)
    return u_t + u * u_x - VISCOSITY * u_xx


def ends(layers: Layers, points: Points) -> dict[str, Array]:
    """What should be 0 elsewhere: u on the boundary (BOUNDARY,), and u + sin πx at the beginning (INITIAL,)."""
    u = value(layers, jnp.concatenate([points.boundary, points.initial]))
    return {"boundary": u[:BOUNDARY], "initial": u[BOUNDARY:] + jnp.sin(jnp.pi * points.initial[:, 0])}
