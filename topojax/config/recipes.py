"""Settings that belong together: what a configuration asks for in one line, over several blocks of fields."""

from ml_collections import ConfigDict


def charts_from_pairs(c: ConfigDict, *, neighbours: int, strength: float) -> None:
    """Let pairs make the charts instead of labels: a view of one of an example's neighbours belongs in its chart.

    Args:
      c: changed in place.
      neighbours: k of `data.neighbours`.
      strength: weight of the pairs' overlap at the start, beside `losses.recon_weight`.
    """
    c.supervised.enabled = False
    c.data.neighbours = neighbours
    c.losses.orbit_distance = "overlap"
    c.contracts.orbit.update(enabled=True, initial=strength, gate="none")
    # One chart for everything would please the pairs: nothing but the entropy of usage forbids it.
    c.contracts.diversity.update(initial=3 * strength, maximum=5 * strength)


def routed_alike(c: ConfigDict, *, rotation: float, shift: float, scale: float) -> None:
    """Let an example and a view of it be routed alike: the charts learn what augmented inputs would teach them.

    Reconstruction sees no view, so that sampling one blurs no image that the decoder learns from. Views are noisy by a
    fifth of the inputs' range: the charts should not hang on single pixels.

    Args:
      c: changed in place.
      rotation: of the view, up to ± this, radians.
      shift: up to ± this many pixels along each axis.
      scale: relative, up to ± this.
    """
    c.view.update(rotation=rotation, shift=shift, scale=scale, noise_std=0.2)
    # As much as noisy views allow: at 0.05 nats the weights of orbit and route end at their bounds.
    c.contracts.orbit.update(enabled=True, initial=1.0, target=0.1, gate="none")
