"""Points on known manifolds, offline, in seconds: swiss rolls, circles, moons, and closed surfaces.

  python -m topojax.train --config=configs/manifolds.py:moons_2d
  python -m topojax.train --config=configs/manifolds.py:klein_4d --workdir=runs/klein
  topojax topology --workdir=runs/klein

The variant is the manifold: swiss_roll_2d, circles_2d, moons_2d, swiss_roll_3d (the default), moons_3d; or a surface,
whose charts are learned such that they cover it in patches that overlap: sphere_3d, torus_3d, moebius_3d, klein_4d,
projective_plane_4d.
"""

from topojax.config.defaults import default_config
from topojax.config.recipes import unlabelled
from topojax.data.manifolds import MANIFOLDS

SURFACES = ("sphere_3d", "torus_3d", "moebius_3d", "klein_4d", "projective_plane_4d")


def get_config(variant: str = "swiss_roll_3d"):
    """A small atlas over one manifold; no labels reach the charts."""
    if variant not in MANIFOLDS:
        raise ValueError(f"unknown variant {variant!r}; known are {', '.join(MANIFOLDS)}")
    c = default_config()
    c.name = variant
    c.data.name = variant
    unlabelled(c)
    c.model.hidden_dim, c.model.codes_per_chart = 32, 4
    if variant in SURFACES:
        surface(c)
    return c


def surface(c):
    """Patches from pairs of neighbours; each also draws what lies just beyond its border, where it meets the next."""
    c.data.num_examples = 5000
    c.data.noise = 0.0
    c.model.num_charts = 24 if c.data.name in ("torus_3d", "klein_4d") else 16  # a tube's patches must not go round it
    c.model.hidden_dim, c.model.codes_per_chart = 64, 8
    c.model.transport = False
    c.losses.glue = True
    c.contracts.jump.enabled = False
    c.train.epochs = 350
