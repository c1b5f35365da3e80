"""What controllers may see: measured quantities of a step, dimension by dimension, gradients stopped.

Entropies and information in nats; geometry in latent units; everything a scalar, but for per-chart vectors [N].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from topojax.atlas import losses
from topojax.types import Array

PSEUDO_COUNT = 0.01


def routing(router: Array) -> dict[str, Array]:
    """H(K), H(K|X), I(X;K) (clamped at 0) and the varentropy of the routing, from router weights [B, N]."""
    w = jax.lax.stop_gradient(router)
    h_k, h_kx = losses.usage_entropy(w), losses.routing_entropy(w)
    entropy = losses.entropy(w)[:, None]
    varentropy = jnp.mean(jnp.sum(w * (jnp.log(w + losses.LOG_FLOOR) + entropy) ** 2, axis=-1))
    return {"H_K": h_k, "H_K_given_X": h_kx, "I_XK": jnp.maximum(h_k - h_kx, 0.0), "varentropy": varentropy}


class Usage(NamedTuple):
    """Decayed sums over points: a batch alone is biased far below the truth (theory B20)."""

    counts: Array  # shape=(N, K), float32: router weight of (chart, nearest code) pairs
    entropy: Array  # shape=(), float32: nats of routing entropy


def no_usage(charts: int, codes: int) -> Usage:
    """Before the first step."""
    return Usage(jnp.zeros((charts, codes), jnp.float32), jnp.zeros((), jnp.float32))


def count(usage: Usage, router: Array, codes: Array, decay: float) -> Usage:
    """The sums after a batch of router weights [B, N] and code indices [B, N], the old ones decayed."""
    w = jax.lax.stop_gradient(router)
    pairs = jnp.einsum("bn,bnk->nk", w, jax.nn.one_hot(codes, usage.counts.shape[1]))
    return Usage(decay * usage.counts + pairs, decay * usage.entropy + jnp.sum(losses.entropy(w)))


def usage(usage: Usage) -> dict[str, Array]:
    """H(K) and I(X;K) of decayed usage: smooth where those of a batch are noise (theory 1.3)."""
    mass = jnp.maximum(jnp.sum(usage.counts), 1e-12)
    h_k = losses.entropy(jnp.sum(usage.counts, axis=1) / mass)
    return {"H_K_usage": h_k, "I_XK_usage": jnp.maximum(h_k - usage.entropy / mass, 0.0)}


def code_entropies(counts: Array) -> dict[str, Array]:
    """Code entropy within each chart [N], and pooled over charts; an unused chart reads log K (no evidence)."""
    counts = counts + PSEUDO_COUNT
    usage = counts / jnp.sum(counts, axis=1, keepdims=True)
    pooled = jnp.sum(counts, axis=0) / jnp.sum(counts)
    return {"H_code_in_chart": losses.entropy(usage), "H_code": losses.entropy(pooled)}


def hard_code_entropies(chart: Array, codes: Array, num_codes: int) -> tuple[Array, Array]:
    """The original's counting metrics: log K − H of the code index pooled over all charts, and its mean within charts.

    Pooled counts take in the nearest code of charts that a point is not routed to (theory B21), and small batches read
    far from uniform (B20): metrics for comparison, not signals.

    Args:
      chart: K_chart, [B].
      codes: nearest code of every chart, [B, N].
      num_codes: K.

    Returns:
      Both in nats; the second is the mean over charts that at least two points are routed to.
    """
    one_hot = jax.nn.one_hot(codes, num_codes)
    routed = jax.nn.one_hot(chart, codes.shape[1])
    pooled = jnp.mean(one_hot, axis=(0, 1))
    counts = jnp.einsum("bn,bnk->nk", routed, one_hot)
    size = jnp.sum(counts, axis=1)
    within = jnp.log(num_codes) - losses.entropy(counts / jnp.maximum(size, 1.0)[:, None])
    counted = size >= 2
    mean = jnp.sum(jnp.where(counted, within, 0.0)) / jnp.maximum(jnp.sum(counted), 1)
    return jnp.log(num_codes) - losses.entropy(pooled), mean


def perplexity(chart: Array, code: Array, charts: int, codes: int) -> Array:
    """Exp H of the (chart, code) pairs chosen by a set of points, [B] and [B]; at most N K."""
    counts = jnp.zeros(charts * codes).at[chart * codes + code].add(1.0)
    p = counts / chart.shape[0]
    return jnp.exp(-jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0)))
