"""The atlas: its model, its losses, what is measured of it, and the contracts it is held to."""
