"""A trained atlas looked at: perturbed, interpolated, exported."""
