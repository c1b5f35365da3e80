"""Every field of a run, its meaning, unit and default; whether it makes sense; how it is read and written."""

from topojax.config.defaults import CONTRACT_FIELDS, RESUMABLE, default_config

__all__ = ["CONTRACT_FIELDS", "RESUMABLE", "default_config"]
