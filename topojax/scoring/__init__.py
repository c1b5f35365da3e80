"""A trained run and how good it is: restored, scored on a split, held against its contracts."""
