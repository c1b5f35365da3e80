"""Encoder and decoder as portable programs: StableHLO with the batch left open, which `jax.export` alone reads.

  exported = jax.export.deserialize(open("encoder.stablehlo", "rb").read())
  exported.call(x)["chart"]        # x [any number, …] float32, in the units of the data

about.json says what goes in and what comes out.
"""

import json
import pathlib
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from topojax.errors import UserError
from topojax.scoring.run import Run
from topojax.storage.logs import write_all
from topojax.types import Array

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
ENCODED = ("chart", "code", "z_geo", "z_n", "z_tex", "router")
"""What the encoder's program returns of an `Encoding`."""


def write(folder: pathlib.Path, run: Run) -> None:
    """Write encoder.stablehlo, decoder.stablehlo and about.json.

    Args:
      folder: made if missing, in one that is there.
      run: restored.

    Raises:
      UserError: the programs cannot be exported.
    """
    weights, units, latent = run.weights, run.units, run.config.model.latent_dim
    shape = (units.size,) if units.columns else units.shape
    temperature = run.program.temperature(run.state)

    def encode(x: Array) -> dict[str, Array]:
        found = run.model.encode(weights, units.traced(x)[0])
        out = {name: getattr(found, name) for name in ENCODED}
        if run.num_classes > 1 and run.config.supervised.enabled:
            out["class_probability"] = found.router @ run.model.class_table(weights, temperature)
        elif run.num_classes > 1:
            out["class_probability"] = jax.nn.softmax(run.model.readout(weights, found.router, found.z_geo))
        return out

    def decode(z_geo: Array, z_tex: Array) -> dict[str, Array]:
        found = run.model.decode(weights, z_geo, z_tex, None)
        return {"x_hat": units.back(found.x_hat), "router": found.router}

    (batch,) = jax.export.symbolic_shape("b")
    point = jax.ShapeDtypeStruct((batch, latent), jnp.float32)
    programs: dict[str, tuple[Any, tuple]] = {
        "encoder": (encode, (jax.ShapeDtypeStruct((batch, *shape), jnp.float32),)),
        "decoder": (decode, (point, point)),
    }
    about: dict[str, Any] = {"classes": list(units.classes), "image_shape": run.image_shape, "epoch": run.epoch}
    if units.columns:
        about["columns"] = [{"name": column.name, "levels": list(column.levels)} for column in units.columns]
    files = dict[str, bytes]()
    for name, (function, given) in programs.items():
        try:
            exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*given)
        except Exception as error:  # what a platform lacks has no class of its own
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"the {name} of this model cannot be exported: {reason}") from error
        files[f"{name}.stablehlo"] = bytes(exported.serialize())
        about[name] = {"in": [str(a) for a in exported.in_avals], "out": _outputs(function, given)}
    write_all(folder, {**files, "about.json": (json.dumps(about, indent=2) + "\n").encode()})


def _outputs(function: Any, given: tuple) -> dict[str, str]:
    return {name: f"{a.dtype}[{','.join(map(str, a.shape))}]" for name, a in jax.eval_shape(function, *given).items()}
