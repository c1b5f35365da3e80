"""One step: where model, losses and controllers meet."""
