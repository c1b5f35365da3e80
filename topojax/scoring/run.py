"""A trained atlas, ready to use: restored from its workdir alone, no data set needed."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from topojax.atlas.model import Model, make_model
from topojax.atlas.optim import eval_params
from topojax.data.padding import in_batches
from topojax.errors import UserError
from topojax.step.program import Program, make_program
from topojax.step.state import TrainState
from topojax.storage import workdir as workdirs
from topojax.storage.checkpoint import Checkpoints
from topojax.storage.switches import key_kind, own_switches
from topojax.types import Decoding, Encoding


@dataclasses.dataclass(frozen=True)
class Run:
    """A restored run.

    Attributes:
      model: the atlas as pure functions.
      state: the whole training state.
      config: the configuration it was trained with.
      epoch: which checkpoint this is.
      image_shape: (H, W, C) of the inputs, None for points.
      input_dim: X.
      program: its training and evaluation, un-jitted.
      num_classes: C.
      manifest: what identifies the data it was trained on (`data.Dataset.manifest`).
    """

    model: Model
    state: TrainState
    config: Any
    epoch: int
    image_shape: tuple[int, int, int] | None
    input_dim: int
    program: Program
    num_classes: int
    manifest: dict[str, Any]

    @functools.cached_property
    def weights(self) -> Any:
        """The atlas's parameters after spectral normalisation: what `model`'s functions take."""
        return jax.jit(lambda params, spectral: self.model.normalise(params, spectral)[0])(
            eval_params(self.config.optim, self.state)["atlas"], self.state.spectral
        )

    def encode(self, x: ArrayLike) -> Encoding:
        """Charts, codes and latent coordinates of inputs.

        Args:
          x: [n, X] or [n, H, W, C] floats, scaled as in training (to [0, 1]), on the host or a device.

        Returns:
          Encoding of NumPy arrays with n rows.

        Raises:
          UserError: another shape, integers, or values that are not finite.
        """
        return in_batches(self._encode, self._inputs(x))

    def decode(self, z_geo: ArrayLike, z_tex: ArrayLike | None = None, chart: ArrayLike | None = None) -> Decoding:
        """Reconstructions of latent points.

        Args:
          z_geo: [n, D], latent units.
          z_tex: [n, D]; None is no texture, zeros.
          chart: which chart draws: an int, or [n] ints in [0, N); None is the decoder's own routing.

        Returns:
          Decoding of NumPy arrays with n rows.

        Raises:
          UserError: another shape, values that are not finite, or a chart that does not exist.
        """
        latent, charts = self.config.model.latent_dim, self.config.model.num_charts
        z_geo = _points("z_geo", z_geo, latent)
        z_tex = np.zeros_like(z_geo) if z_tex is None else _points("z_tex", z_tex, latent)
        if z_tex.shape != z_geo.shape:
            raise UserError(f"z_tex has shape {z_tex.shape}, z_geo {z_geo.shape}: they must agree")
        if chart is None:
            return in_batches(self._decode_freely, (z_geo, z_tex))
        given = np.asarray(chart)
        if not np.issubdtype(given.dtype, np.integer) or given.shape not in ((), (len(z_geo),)):
            raise UserError(f"chart must be an integer or [{len(z_geo)}] of them, got {given.dtype}{list(given.shape)}")
        if ((given < 0) | (given >= charts)).any():
            raise UserError(f"chart must lie in [0, {charts}), got {given.min()} to {given.max()}")
        given = np.broadcast_to(given, len(z_geo)).astype(np.int32)
        return in_batches(self._decode_in, (z_geo, z_tex, given))

    def reconstruct(self, x: ArrayLike) -> np.ndarray:
        """The main reconstruction, of which `test/mse` is the error.

        Charts in discs: an example is drawn at its place in every chart, mixed by the encoder's routing. In one plane,
        the original: dreamed, `decode(z_geo, z_tex)`.

        Args:
          x: as for `encode`.

        Returns:
          [n, X].

        Raises:
          UserError: as `encode`.
        """
        return in_batches(self._whole, self._inputs(x))

    def reconstruct_baselines(self, x: ArrayLike) -> dict[str, np.ndarray]:
        """Reconstructions by the baselines that were trained beside the atlas.

        Args:
          x: as for `encode`.

        Returns:
          `ae`, `vq`, those there are → [n, X].

        Raises:
          UserError: as `encode`.
        """
        return in_batches(self._reconstruct, self._inputs(x)) if self.program.baselines.members else {}

    def _inputs(self, x: ArrayLike) -> np.ndarray:
        x = np.asarray(x)
        shapes = [(self.input_dim,)] if self.image_shape is None else [(self.input_dim,), self.image_shape]
        if x.shape[1:] not in shapes:
            known = " or ".join(f"[{', '.join(['n', *map(str, shape)])}]" for shape in shapes)
            raise UserError(f"inputs have shape {list(x.shape)}, this model takes {known}")
        if not np.issubdtype(x.dtype, np.floating):
            raise UserError(f"inputs are {x.dtype}: scale them to floats in [0, 1], as in training")
        return _points("inputs", x.reshape(len(x), self.input_dim), self.input_dim)

    @functools.cached_property
    def _encode(self) -> Callable[[np.ndarray], Encoding]:
        encode = jax.jit(self.model.encode)
        return lambda x: encode(self.weights, x)

    @functools.cached_property
    def _whole(self) -> Callable[[np.ndarray], Any]:
        whole = jax.jit(lambda weights, x: self.model(weights, x).decoding.x_hat)
        return lambda x: whole(self.weights, x)

    @functools.cached_property
    def _reconstruct(self) -> Callable[[np.ndarray], dict[str, Any]]:
        reconstruct = jax.jit(self.program.baselines.reconstruct)
        return lambda x: reconstruct(self.state.baselines, x)

    @functools.cached_property
    def _decode_freely(self) -> Callable[[tuple], Decoding]:
        decode = jax.jit(lambda weights, z_geo, z_tex: self.model.decode(weights, z_geo, z_tex, None))
        return lambda z: decode(self.weights, *z)

    @functools.cached_property
    def _decode_in(self) -> Callable[[tuple], Decoding]:
        decode = jax.jit(self.model.decode)
        return lambda z: decode(self.weights, *z)


def restore(workdir: str | pathlib.Path, step: int | None = None) -> Run:
    """Restore a run from its workdir.

    Args:
      workdir: what the run was trained with as --workdir.
      step: which checkpoint, by epoch; the latest unless told.

    Raises:
      UserError: nothing there, no such checkpoint, or one that is damaged or of another version.
    """
    path = workdirs.located(workdir)
    config = workdirs.read_config(path)
    with own_switches(), contextlib.closing(Checkpoints(path, read_only=True)) as checkpoints:

        def read(epoch: int | None) -> tuple[Model, Program, Any, dict[str, Any]]:
            meta = checkpoints.meta(epoch)
            model, program = build(config, meta)
            with own_switches(key_kind(meta["leaves"])):
                abstract = jax.eval_shape(program.init)
            return model, program, *checkpoints.restore(abstract, meta["epoch"])

        model, program, state, meta = checkpoints.newest(read) if step is None else read(step)
    shape = meta["image_shape"]
    return Run(
        model=model,
        state=state,
        config=config,
        epoch=meta["epoch"],
        image_shape=tuple(shape) if shape else None,
        input_dim=meta["input_dim"],
        program=program,
        num_classes=meta["num_classes"],
        manifest=meta["data"],
    )


def build(config: Any, meta: dict[str, Any]) -> tuple[Model, Program]:
    """Model and program of a run.

    Args:
      config: the whole configuration, valid.
      meta: of a checkpoint, or its part that describes the data: num_train, input_dim, num_classes and
        image_shape.

    Raises:
      UserError: a batch larger than the data, or what the parts refuse.
    """
    shape, batch_size = meta["image_shape"], config.train.batch_size
    if batch_size > meta["num_train"]:
        raise UserError(
            f"config.train.batch_size = {batch_size} exceeds the {meta['num_train']} training examples: lower "
            "config.train.batch_size or raise config.data.num_examples"
        )
    try:
        model = make_model(
            config.model,
            input_dim=meta["input_dim"],
            num_classes=meta["num_classes"],
            image_shape=tuple(shape) if shape else None,
        )
        program = make_program(
            config,
            model,
            num_train=meta["num_train"],
            input_dim=meta["input_dim"],
            num_classes=meta["num_classes"],
            image_shape=tuple(shape) if shape else None,
        )
    except ValueError as error:
        raise UserError(f"this configuration cannot be built: {error}") from error
    return model, program


def encode(run: Run, x: ArrayLike) -> Encoding:
    """`Run.encode`."""
    return run.encode(x)


def decode(run: Run, z_geo: ArrayLike, z_tex: ArrayLike | None = None, chart: ArrayLike | None = None) -> Decoding:
    """`Run.decode`."""
    return run.decode(z_geo, z_tex, chart)


def _points(name: str, x: ArrayLike, width: int) -> np.ndarray:
    try:
        array = np.asarray(x, np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} must be numbers: {error}") from error
    if array.ndim != 2 or array.shape[1] != width:
        raise UserError(f"{name} has shape {list(array.shape)}, must be [n, {width}]")
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        raise UserError(f"{name} has values that are not finite, the first in row {bad.argmax()}")
    return array
