"""The host loop around the step, nothing else."""
