"""What the README's numbers come from; nothing of the package imports it."""
