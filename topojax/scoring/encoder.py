"""The encoder of a run alone: a fifth of its checkpoint, for those who only look up charts and codes."""

import contextlib
import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from topojax.atlas.model import Model, make_model
from topojax.data import sets
from topojax.data.padding import served
from topojax.data.units import Units
from topojax.data.units import from_json as units_from
from topojax.errors import UserError
from topojax.storage import workdir as workdirs
from topojax.storage.checkpoint import Checkpoints
from topojax.types import Encoding


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A restored encoder.

    Attributes:
      model: the atlas as pure functions, of which `encode` can be called.
      weights: of the encoder, after spectral normalisation.
      units: of the data.
      epoch: which checkpoint this is.
    """

    model: Model
    weights: Any
    units: Units
    epoch: int
    _kept: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def encode(self, x: Any) -> Encoding:
        """As `Run.encode`."""
        if isinstance(x, jax.core.Tracer):
            traced, single = self.units.traced(x)
            found = self.model.encode(self.weights, traced)
        else:
            rows, single = self.units.rows(x)
            function = self._kept.setdefault("encode", jax.jit(self.model.encode))
            found = served(lambda batch: function(self.weights, batch), rows)
        return jax.tree.map(lambda leaf: leaf[0], found) if single else found


def restore_encoder(workdir: str | pathlib.Path, step: int | None = None) -> Encoder:
    """Restore a run's encoder, and nothing else of its checkpoint.

    Args:
      workdir: what the run was trained with as --workdir.
      step: which checkpoint, by epoch; the latest unless told.

    Raises:
      UserError: nothing there, no such checkpoint, a damaged one; or parameters that its optimizer keeps elsewhere.
    """
    path = workdirs.located(workdir)
    workdirs.require_single(path)
    config = workdirs.read_config(path)
    if config.optim.rate == "schedule_free":
        raise UserError("schedule_free keeps its parameters with the optimizer: restore the whole run")
    with contextlib.closing(Checkpoints(path, read_only=True)) as checkpoints:

        def read(epoch: int) -> tuple[dict[str, Any], Any, Any]:
            params = _tree(checkpoints, "average.atlas.", epoch) or _tree(checkpoints, "params.atlas.", epoch)
            return checkpoints.meta(epoch), params, _tree(checkpoints, "spectral.", epoch)

        meta, params, spectral = checkpoints.newest(read) if step is None else read(step)
    model = make_model(config.model, input_dim=meta["input_dim"], num_classes=meta["num_classes"])
    normalise = jax.jit(lambda params, *others: model.normalise(params, *others)[0])
    weights = normalise(params, spectral, np.float32(config.model.ball_scale))
    units = units_from(meta["units"]) if "units" in meta else sets.built_in_units(config.data.name, meta)
    return Encoder(model, weights, units, meta["epoch"])


def _tree(checkpoints: Checkpoints, prefix: str, epoch: int) -> Any:
    """The encoder's part below a prefix, as the tree that it was."""
    found = checkpoints.restore_part(f"{prefix}encoder.", epoch)
    return unflatten_dict({tuple(name.removeprefix(prefix).split(".")): leaf for name, leaf in found.items()})
