"""Attentive atlases in JAX whose learning rate and loss weights are set by measurable contracts.

  import topojax
  run = topojax.restore("runs/digits")
  encoding = topojax.encode(run, images)
  images = topojax.decode(run, encoding.z_geo, encoding.z_tex).x_hat

Everything is imported when first used: `import topojax` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from topojax.analysis import explore
    from topojax.analysis.estimator import Atlas
    from topojax.analysis.live import live
    from topojax.errors import UserError
    from topojax.scoring.encoder import restore_encoder
    from topojax.scoring.run import Run, decode, encode, restore
    from topojax.training.loop import train_and_evaluate
    from topojax.training.population import train_population

    __version__: str

__all__ = [
    "Atlas",
    "Run",
    "UserError",
    "__version__",
    "decode",
    "encode",
    "explore",
    "live",
    "restore",
    "restore_encoder",
    "train_and_evaluate",
    "train_population",
]

# No module may bear one of these names: importing it would put it in the function's place.
_HOME = {
    "Atlas": "topojax.analysis.estimator",
    "Run": "topojax.scoring.run",
    "UserError": "topojax.errors",
    "decode": "topojax.scoring.run",
    "encode": "topojax.scoring.run",
    "explore": "topojax.analysis",
    "live": "topojax.analysis.live",
    "restore": "topojax.scoring.run",
    "restore_encoder": "topojax.scoring.encoder",
    "train_and_evaluate": "topojax.training.loop",
    "train_population": "topojax.training.population",
}


def __getattr__(name: str) -> Any:
    """Import what `__all__` names from where it lives."""
    if name == "__version__":
        from importlib.metadata import version

        return version("topojax")
    if name in _HOME:
        home = importlib.import_module(_HOME[name])
        return getattr(home, name) if hasattr(home, name) else importlib.import_module(f"{home.__name__}.{name}")
    raise AttributeError(f"module 'topojax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
