"""A trained atlas, ready to use: restored from its workdir alone, no data set needed."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from topojax.atlas.model import Model, make_model
from topojax.atlas.optim import eval_params
from topojax.config.batch import examples_a_step
from topojax.config.io import from_json, to_json
from topojax.config.numbers import pack
from topojax.data import sets
from topojax.data.padding import served
from topojax.data.units import Units, unit_interval
from topojax.data.units import from_json as units_from
from topojax.errors import UserError
from topojax.step.numbered import Numbered, make_numbered
from topojax.step.predict import Evaluation
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
      units: of the data as they are given, and the names of their classes.

    It pickles: what is compiled is compiled again.
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
    units: Units
    _kept: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @property
    @own_switches()
    def weights(self) -> Any:
        """The atlas's parameters after spectral normalisation: what `model`'s functions take.

        Computed once, also where they are first asked for within a function that is traced: no tracer is kept.
        """
        kept = self._kept.get("weights")
        if kept is not None and kept[0] is self.state:
            return kept[1]
        normalise = jax.jit(lambda params, *others: self.model.normalise(params, *others)[0])
        params, ball_scale = eval_params(self.config.optim, self.state)["atlas"], self.config.model.ball_scale
        given = params, self.state.spectral, np.float32(ball_scale)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(given)):
            return normalise(*given)
        with jax.ensure_compile_time_eval():
            weights = normalise(*given)
        self._kept["weights"] = self.state, weights
        return weights

    @property
    def prepared(self) -> "Run":
        """The same run, whose units are those of its own rows: [n, X] in [0, 1]."""
        return dataclasses.replace(self, units=unit_interval(self.input_dim, self.image_shape))

    def encode(self, x: Any) -> Encoding:
        """Charts, codes and latent coordinates of inputs.

        Args:
          x: [n, …] or one example, in the units and any shape in which the data were given; a data frame or a mapping
            of columns where they were a table. Of built-in sets [n, X] or [n, H, W, C], floats in [0, 1] or integers as
            their pixels are. On the host, on a device, or traced.

        Returns:
          Encoding of NumPy arrays with n rows, of one example without that axis; of traced inputs, traced.

        Raises:
          UserError: another shape or scale, or values that are not finite.
        """
        if isinstance(x, jax.core.Tracer):
            rows, single = self.units.traced(x)
            return _one(self.model.encode(self.weights, rows), single)
        found, single = self.units.rows(x)
        return _one(served(self._encode, found), single)

    def encode_rows(self, rows: np.ndarray) -> Encoding:
        """`encode` of the run's own rows, [n, X] in [0, 1] or, of a perturbed example, about it; nothing is checked."""
        return served(self._encode, rows)

    def decode(
        self,
        z_geo: ArrayLike,
        z_tex: ArrayLike | None = None,
        chart: ArrayLike | None = None,
        *,
        dtype: Any = None,
    ) -> Decoding:
        """Reconstructions of latent points.

        Args:
          z_geo: [n, D] or [D], latent units.
          z_tex: the same; None is no texture, zeros.
          chart: which chart draws: an int, or [n] ints in [0, N); None is the decoder's own routing.
          dtype: of x_hat: None is float; an integer type rounds, within its range.

        Returns:
          Decoding of NumPy arrays with n rows, `x_hat` in the units and the shape of the data as they were given:
          [n, X] of built-in sets, a dict of columns of a table that has texts.

        Raises:
          UserError: another shape, values that are not finite, or a chart that does not exist.
        """
        if isinstance(z_geo, jax.core.Tracer) or isinstance(z_tex, jax.core.Tracer):
            return self._decode_traced(z_geo, z_tex, chart)
        latent, charts = self.config.model.latent_dim, self.config.model.num_charts
        single = np.ndim(z_geo) == 1
        z_geo = _points("z_geo", np.asarray(z_geo)[None] if single else z_geo, latent)
        if z_tex is None:
            z_tex = np.zeros_like(z_geo)
        else:
            z_tex = _points("z_tex", np.asarray(z_tex)[None] if single else z_tex, latent)
        if z_tex.shape != z_geo.shape:
            raise UserError(f"z_tex has shape {z_tex.shape}, z_geo {z_geo.shape}: they must agree")
        if chart is None:
            return self._given(served(self._decode_freely, (z_geo, z_tex)), single, dtype)
        given = np.asarray(chart)
        if not np.issubdtype(given.dtype, np.integer) or given.shape not in ((), (len(z_geo),)):
            raise UserError(f"chart must be an integer or [{len(z_geo)}] of them, got {given.dtype}{list(given.shape)}")
        if ((given < 0) | (given >= charts)).any():
            raise UserError(f"chart must lie in [0, {charts}), got {given.min()} to {given.max()}")
        given = np.broadcast_to(given, len(z_geo)).astype(np.int32)
        return self._given(served(self._decode_in, (z_geo, z_tex, given)), single, dtype)

    def reconstruct(self, x: Any) -> Any:
        """The main reconstruction, of which `test/mse` is the error.

        Charts in discs: an example is drawn at its place in every chart, mixed by the encoder's routing. In one plane,
        the original: dreamed, `decode(z_geo, z_tex)`.

        Args:
          x: as for `encode`.

        Returns:
          In the inputs' own units and shape.

        Raises:
          UserError: as `encode`.
        """
        rows, single = self.units.rows(x)
        return _one(self.units.back(self.reconstruct_rows(rows)), single)

    def reconstruct_rows(self, x: np.ndarray) -> np.ndarray:
        """`reconstruct` of prepared rows [n, X], in the model's own units."""
        return served(self._whole, x)

    def reconstruct_baselines(self, x: Any) -> dict[str, Any]:
        """Reconstructions by the baselines that were trained beside the atlas.

        Args:
          x: as for `encode`.

        Returns:
          `ae`, `vq`, those there are → as `decode` gives them.

        Raises:
          UserError: as `encode`.
        """
        if not self.program.baselines.members:
            return {}
        rows, single = self.units.rows(x)
        return {name: _one(self.units.back(of), single) for name, of in served(self._reconstruct, rows).items()}

    def classes(self, number: ArrayLike) -> np.ndarray:
        """Names of classes by their numbers, as they were given; the numbers where they have no names."""
        names, index = self.units.classes, np.asarray(number)
        return np.asarray(names)[index] if names else index

    def _given(self, decoding: Decoding, single: bool, dtype: Any) -> Decoding:
        x_hat = self.units.back(decoding.x_hat)
        if dtype is not None and not isinstance(x_hat, dict):
            if np.issubdtype(dtype, np.integer):
                info = np.iinfo(dtype)
                x_hat = np.clip(np.round(x_hat), info.min, info.max)
            x_hat = x_hat.astype(dtype)
        return _one(decoding._replace(x_hat=x_hat), single)

    def _decode_traced(self, z_geo: Any, z_tex: Any, chart: Any) -> Decoding:
        z_geo = jnp.asarray(z_geo)
        single = z_geo.ndim == 1
        z_geo = jnp.atleast_2d(z_geo)
        z_tex = jnp.zeros_like(z_geo) if z_tex is None else jnp.atleast_2d(jnp.asarray(z_tex))
        chart = None if chart is None else jnp.broadcast_to(jnp.asarray(chart, jnp.int32), len(z_geo))
        decoding = self.model.decode(self.weights, z_geo, z_tex, chart)
        return _one(decoding._replace(x_hat=self.units.back(decoding.x_hat)), single)

    def _function(self, name: str, make: Callable[[], Callable]) -> Callable:
        """A compiled function of this run, made when it is first called."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    @own_switches()
    def _encode(self, x: Any) -> Encoding:
        return self._function("encode", lambda: jax.jit(self.model.encode))(self.weights, x)

    def _whole(self, x: Any) -> Any:
        make = lambda: jax.jit(lambda weights, x: self.model(weights, x).decoding.x_hat)  # noqa: E731
        return self._function("whole", make)(self.weights, x)

    @own_switches()
    def _reconstruct(self, x: Any) -> dict[str, Any]:
        make = lambda: jax.jit(self.program.baselines.reconstruct)  # noqa: E731
        return self._function("reconstruct", make)(self.state.baselines, x)

    @own_switches()
    def _decode_freely(self, z: tuple) -> Decoding:
        def make() -> Callable:
            return jax.jit(lambda weights, z_geo, z_tex: self.model.decode(weights, z_geo, z_tex, None))

        return self._function("decode_freely", make)(self.weights, *z)

    @own_switches()
    def _decode_in(self, z: tuple) -> Decoding:
        return self._function("decode_in", lambda: jax.jit(self.model.decode))(self.weights, *z)

    def __reduce__(self) -> tuple[Any, ...]:
        key = jax.random.key_data(self.state.key)
        state = jax.device_get(dataclasses.replace(self.state, key=key))
        about = {
            "num_train": self.program.num_train,
            "input_dim": self.input_dim,
            "image_shape": self.image_shape,
            "num_classes": self.num_classes,
        }
        kind = str(jax.random.key_impl(self.state.key))
        return _unpickled, (to_json(self.config), state, kind, self.epoch, about, self.manifest, self.units)


def _unpickled(
    config: str, state: TrainState, kind: str, epoch: int, about: dict[str, Any], manifest: dict[str, Any], units: Units
) -> Run:
    """The run that was pickled: its program is built again, its state is as it was."""
    fields = from_json(config, "a pickled run")
    state = jax.tree.map(jnp.asarray, state)
    key = jax.random.wrap_key_data(state.key, impl=kind)
    return _run(fields, dataclasses.replace(state, key=key), epoch, about, manifest, units)


def _run(
    config: Any, state: TrainState, epoch: int, about: Mapping[str, Any], manifest: dict[str, Any], units: Units
) -> Run:
    model, program = build(config, dict(about))
    shape = about["image_shape"]
    return Run(
        model=model,
        state=state,
        config=config,
        epoch=epoch,
        image_shape=tuple(shape) if shape else None,
        input_dim=about["input_dim"],
        program=program,
        num_classes=about["num_classes"],
        manifest=manifest,
        units=units,
    )


def restore(workdir: str | pathlib.Path, step: int | None = None, *, member: int | str | None = None) -> Run:
    """Restore a run from its workdir.

    Args:
      workdir: what the run was trained with as --workdir.
      step: which checkpoint, by epoch; the latest unless told.
      member: of a population: its number from 0, or `best`.

    Raises:
      UserError: nothing there, no such checkpoint, or one that is damaged or of another version.
    """
    path = workdirs.located(workdir)
    if member is not None:
        path = workdirs.member(path, member)
    else:
        workdirs.require_single(path)
    workdirs.read_config(path)  # where there is no run, that is said, not what it lacks
    with own_switches(), contextlib.closing(Checkpoints(path, read_only=True)) as checkpoints:

        def read(epoch: int | None) -> tuple[Any, Model, Program, Any, dict[str, Any]]:
            meta = checkpoints.meta(epoch)
            config = workdirs.config_of(path, meta)
            model, program = build(config, meta)
            with own_switches(key_kind(meta["leaves"])):
                abstract = jax.eval_shape(program.init)
            return config, model, program, *checkpoints.restore(abstract, meta["epoch"])

        config, model, program, state, meta = checkpoints.newest(read) if step is None else read(step)
    units = units_from(meta["units"]) if "units" in meta else sets.built_in_units(config.data.name, meta)
    return Run(
        model=model,
        state=state,
        config=config,
        epoch=meta["epoch"],
        image_shape=tuple(meta["image_shape"]) if meta["image_shape"] else None,
        input_dim=meta["input_dim"],
        program=program,
        num_classes=meta["num_classes"],
        manifest=meta["data"],
        units=units,
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
    examples = examples_a_step(config)
    if examples > meta["num_train"]:
        raise UserError(
            f"config.train.batch_size = {_asked(config)} exceeds the {meta['num_train']} training examples: lower "
            "config.train.batch_size or raise config.data.num_examples"
        )
    try:
        model = model_of(config, meta)
        program = program_of(config, model, meta)
    except ValueError as error:
        raise UserError(f"this configuration cannot be built: {error}") from error
    return model, program._replace(evaluate=Evaluation(pack(config), numbered_of(config, meta).evaluate))


def _asked(config: Any) -> str:
    size, parts = config.train.batch_size, config.train.accumulate
    return f"{size}" if parts == 1 else f"{size}, times config.train.accumulate = {parts},"


def numbered_of(config: Any, meta: Mapping[str, Any]) -> Numbered:
    """The program of `build` as a function of its numbers too: the model's are among them."""
    return make_numbered(config, lambda traced: program_of(traced, model_of(traced, meta), meta))


def model_of(config: Any, meta: Mapping[str, Any]) -> Model:
    """`make_model` for the data that `meta` describes, as in `build`."""
    shape, sizes = meta["image_shape"], {name: meta[name] for name in ("input_dim", "num_classes")}
    return make_model(config.model, **sizes, image_shape=tuple(shape) if shape else None)


def program_of(config: Any, model: Model, meta: Mapping[str, Any]) -> Program:
    """`make_program` of a model on the data that `meta` describes, as in `build`."""
    shape = meta["image_shape"]
    return make_program(
        config,
        model,
        num_train=meta["num_train"],
        input_dim=meta["input_dim"],
        num_classes=meta["num_classes"],
        image_shape=tuple(shape) if shape else None,
    )


def encode(run: Run, x: Any) -> Encoding:
    """`Run.encode`."""
    return run.encode(x)


def decode(
    run: Run, z_geo: ArrayLike, z_tex: ArrayLike | None = None, chart: ArrayLike | None = None, *, dtype: Any = None
) -> Decoding:
    """`Run.decode`."""
    return run.decode(z_geo, z_tex, chart, dtype=dtype)


def _one(rows: Any, single: bool) -> Any:
    """The only row of every array, where one example was given."""
    return jax.tree.map(lambda leaf: leaf[0], rows) if single else rows


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
