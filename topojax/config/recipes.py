"""What a run without labels trains with, in one line, over several blocks of fields."""

from ml_collections import ConfigDict


def unlabelled(c: ConfigDict) -> None:
    """Let pairs make the charts instead of labels: a view of one of an example's neighbours belongs in its chart.

    The surprise −log⟨w, w'⟩ of finding both in one chart is a likelihood, in nats, and weighs 1 as the others do. How
    many neighbours an example has is found in the data (`data.neighbours`).

    Args:
      c: changed in place.
    """
    c.supervised.enabled = False
    c.losses.orbit_distance = "overlap"
    c.contracts.orbit.update(mechanism="constant", initial=1.0, target=0.25)
    # One chart for everything would please the pairs: nothing but the entropy of usage forbids it.
    c.contracts.diversity.initial = 3.0
