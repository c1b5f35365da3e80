"""Points on known manifolds, offline, in seconds: swiss rolls, circles, moons, a sphere.

  python -m topojax.train --config=configs/manifolds.py:moons_2d

The variant is the manifold: swiss_roll_2d, circles_2d, moons_2d, swiss_roll_3d (the default), sphere_3d or
moons_3d.
"""

from topojax.config.defaults import default_config
from topojax.data.manifolds import MANIFOLDS


def get_config(variant: str = "swiss_roll_3d"):
    """A small atlas over one manifold; no labels reach the charts."""
    if variant not in MANIFOLDS:
        raise ValueError(f"unknown variant {variant!r}; known are {', '.join(MANIFOLDS)}")
    c = default_config()
    c.name = variant
    c.data.name = variant
    c.supervised.enabled = False
    c.model.hidden_dim, c.model.codes_per_chart = 32, 4
    c.augment.rotation = c.augment.shift = c.augment.scale = 0.0  # points stay where they are
    c.view.shift = 0.0
    return c
