"""Arrays that travel between modules, with their shapes.

B batch, X input size, H hidden, D latent, N charts, K codes per chart, C classes.
"""

from typing import Any, NamedTuple

import jax
import jax.export

Array = jax.Array
Params = dict[str, Any]
"""Nested dict of float32 arrays: what the optimizer moves."""
Spectral = dict[str, Any]
"""Power-iteration vectors, a sub-tree of the params' tree: carried by the step, never differentiated."""
Metrics = dict[str, Array]
"""Flat slash names (`loss/recon`, `weight/window`, `lr`) to scalars on the device; a name with a `*`
(`contract/*/error`) is a vector over the contracts of the run, in the order of its rows."""


class Batch(NamedTuple):
    """Examples, or a whole split: inputs in [0, 1] and integer classes, −1 where one is unknown."""

    image: Array  # shape=(B, X), float32
    label: Array  # shape=(B,), int32
    neighbours: Array | None = None  # shape=(B, k), int32: of a split, the rows nearest to each (data.neighbours)
    partner: Array | None = None  # shape=(B, X): of a batch, a neighbour of each example, drawn at random


class Encoding(NamedTuple):
    """What the encoder says of a batch; in value z_geo + z_tex = v (model §3)."""

    chart: Array  # shape=(B,), int32: argmax of the router, K_chart
    code: Array  # shape=(B,), int32: code of that chart, K_code
    z_n: Array  # shape=(B, D): router mean of the structured residuals
    z_tex: Array  # shape=(B, D): texture, what neither code nor residual explains
    router: Array  # shape=(B, N): w, sums to 1
    z_geo: Array  # shape=(B, D): c̄ + z̄_q + z_n in value, straight-through in gradient
    codes: Array  # shape=(B, N), int32: nearest code of every chart
    z_n_all: Array  # shape=(B, N, D): structured residual of every chart
    c_bar: Array  # shape=(B, D): router mean of the chart centres
    v: Array  # shape=(B, D): value projection, in the ball if the model says so
    distances: Array  # shape=(B, N, K): squared distance of v − c̄ to every code
    z_q_all: Array  # shape=(B, N, D): nearest code vector of every chart
    v_loc: Array  # shape=(B, N, D): what each chart's codes quantise; (B, D), v − c̄, in one plane
    local: Array  # shape=(B, N, D): coordinates in each chart, in the unit ball; in one plane z_n_all
    offset: Array  # shape=(B, N, D): of each chart's place from its centre, which jumps map; in one plane z_n_all
    places: Array  # shape=(B, N, D): where each chart alone reads the example, latent units


class Decoding(NamedTuple):
    """What the decoder makes of a latent point (model §4)."""

    x_hat: Array  # shape=(B, X)
    router: Array  # shape=(B, N): the decoder's own w'


class Outputs(NamedTuple):
    """One pass through the atlas."""

    encoding: Encoding
    decoding: Decoding


# So that a function that returns them can be exported.
for _tuple in (Encoding, Decoding, Outputs):
    jax.export.register_namedtuple_serialization(_tuple, serialized_name=f"topojax.{_tuple.__name__}")
