"""The training state: one pytree of typed arrays that a step maps to the next."""

from typing import Any

import flax.struct
import jax

from topojax.atlas import optim
from topojax.atlas.baselines import BaselineState
from topojax.atlas.fixed_batch import Probed
from topojax.atlas.revival import Liveness
from topojax.atlas.signals import Usage
from topojax.atlas.system import ControlState
from topojax.types import Array, Params, Spectral


@flax.struct.dataclass
class TrainState:
    """Everything a run remembers; saved whole, restored whole.

    Attributes:
      step: shape=(), int32, optimizer steps made; with the key it fixes data order and randomness.
      params: what the optimizer moves: `atlas`, and `precision` where it is on.
      average: running average of params that evaluation reads (`optim.average`); empty where there is none.
      spectral: power-iteration vectors of the spectrally normalised weights.
      opt_state: of optax.
      control: weights, integrators, targets, rate, gates.
      usage: decayed counts of charts and codes.
      liveness: counts since the last revival.
      probed: what the last probe saw.
      key: typed PRNG key; step t uses fold_in(key, t).
      isotropy: shape=(), what the contract orthogonality measured when last taken; 0 where it is off.
      baselines: name → what is trained beside the atlas, to compare it with; empty where nothing is.
    """

    step: Array
    params: Params
    average: Params
    spectral: Spectral
    opt_state: tuple
    control: ControlState
    usage: Usage
    liveness: Liveness
    probed: Probed
    key: jax.Array
    isotropy: Array
    baselines: dict[str, BaselineState]

    def lasting(self) -> dict[str, Any]:
        """Every part in which a number that is not finite would stay; what the probe has not measured is NaN."""
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("control", "probed")}
        control = self.control._asdict()
        control |= {"governor": self.control.governor.rate}  # its averages start again by themselves
        return parts | {"control": control, "geometry": self.probed.geometry}

    def sound(self) -> Array:
        """Whether everything lasting is finite: shape=(), bool."""
        return optim.all_finite(self.lasting())
