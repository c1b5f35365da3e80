"""The atlas as an estimator of scikit-learn: in pipelines, grid searches, clones and pickles.

  atlas = topojax.Atlas().fit(X, y)       # y trains the charts where it is given
  atlas.transform(X), atlas.predict(X), atlas.inverse_transform(Z)

It trains under control with no argument set; every other setting of a run goes into `settings`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from topojax.config.defaults import default_config
from topojax.config.found import fitted
from topojax.config.memory import require_memory
from topojax.config.numbers import described, pack
from topojax.config.validate import validate
from topojax.data import own, sets
from topojax.data.padding import in_batches
from topojax.errors import UserError, interrupted, interrupts_deferred, interrupts_noted, raise_if_interrupted
from topojax.scoring.run import Run, build, numbered_of
from topojax.storage.program_cache import compile_epoch
from topojax.storage.runtime import use_compilation_cache
from topojax.training.beginning import beginning, looked_at

ROWS = 128
"""Rows in a batch of every question: an example's answer then does not depend on how many are asked about at once."""


class Atlas(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """An attentive atlas: charts, a codebook in each, and latent coordinates, trained under control.

    Args:
      charts: N ≥ 2; None: one a class where labels train them, else 10, or fewer of few examples.
      codes: codes in a chart K; None: 8, or fewer of few examples.
      latent: latent dimension D.
      hidden: width of the network H.
      epochs: passes over the data.
      batch_size: examples a step; None: 128, or fewer of few examples.
      labels: whether labels that are given train the charts.
      random_state: seed of everything that is drawn.
      warm_start: whether another `fit` goes on from the parameters and controllers of the last, where they fit.
      settings: dotted field of the configuration → value (`topojax fields`), as {"model.covariant": False}.

    Attributes:
      run_: the trained run (`scoring.run.Run`).
      classes_: [C] names of the classes, where labels trained the charts.
      n_features_in_: numbers of an example.
      n_iter_: epochs trained.
    """

    def __init__(
        self,
        *,
        charts: int | None = None,
        codes: int | None = None,
        latent: int = 2,
        hidden: int = 64,
        epochs: int = 100,
        batch_size: int | None = None,
        labels: bool = True,
        random_state: Any = 0,
        warm_start: bool = False,
        settings: Mapping[str, Any] | None = None,
    ):
        self.charts = charts
        self.codes = codes
        self.latent = latent
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.labels = labels
        self.random_state = random_state
        self.warm_start = warm_start
        self.settings = settings

    def fit(self, X: Any, y: Any = None) -> "Atlas":
        """Train an atlas of all examples.

        Args:
          X: [n, features], images [n, H, W] or [n, H, W, C], or a data frame, which may hold texts.
          y: [n] labels, −1, NaN or None where one is missing; None: charts come from pairs of near examples.

        Raises:
          ValueError: inputs or settings that cannot train, with what to do about it.
          KeyboardInterrupt: Ctrl-C; the epochs that were trained are kept, and `n_iter_` counts them.
        """
        X = self._checked(X, fitting=True)
        y = np.asarray(y) if self.labels and y is not None else None
        try:
            with interrupts_noted():
                self._fit(X, y)
                raise_if_interrupted()
            return self
        except UserError as error:
            raise ValueError(str(error)) from error

    def _fit(self, X: Any, y: np.ndarray | None) -> None:
        config, keep = self._config()
        some = slice(0, own.LEAST)  # nothing is held out; the loader wants a test split
        few = {name: X[name][some] for name in X} if isinstance(X, dict) else X[some]
        dataset = sets.load(config.data, seed=config.seed, data=(X, y, few, None if y is None else y[some]))
        config, _ = fitted(config, dataset, in_memory=True, keep=keep)
        validate(config)
        if config.data.neighbours:
            dataset = dataset._replace(train=sets.with_neighbours(dataset.train, config.data.neighbours))
        use_compilation_cache()
        about = dataset.sizes()
        model, program = build(config, about)
        numbers, numbered = pack(config), numbered_of(config, about)
        require_memory(jax.eval_shape(numbered.init, numbers), dataset.train)
        state, _ = beginning(config, model, jax.jit(numbered.init)(numbers), looked_at(config, dataset.train))
        old = getattr(self, "run_", None)
        if self.warm_start and old is not None and _shapes(old.state) == _shapes(state):
            state = jax.tree.map(jnp.copy, old.state)
        batch = jax.tree.map(jnp.asarray, dataset.train)
        shaped = [described(config), about]
        run_epoch, names, _ = compile_epoch(numbered, numbers, state, batch, described=shaped, cached=True)
        epochs, metrics = 0, None
        with interrupts_deferred():
            while epochs < config.train.epochs and not interrupted():
                before = metrics
                state, metrics = run_epoch(numbers, state, batch)
                epochs += 1
                jax.block_until_ready(before)  # an interrupt waits for two epochs, not for all that could be begun
        if not epochs:
            raise_if_interrupted()
        last = dict(zip(names, np.asarray(metrics), strict=True))
        if last["guard/failures"] >= program.steps_per_epoch:
            raise UserError("diverged: the steps of the last epoch were not finite; look at the data")
        self.run_ = Run(
            model=model,
            state=state,
            config=config,
            epoch=epochs,
            image_shape=dataset.image_shape,
            input_dim=about["input_dim"],
            program=program,
            num_classes=dataset.num_classes,
            manifest=dataset.manifest,
            units=dataset.units,
        )
        self.n_iter_ = epochs
        self._n_features_out = config.model.latent_dim
        self.__dict__.pop("classes_", None)
        if config.supervised.enabled:
            self.classes_: np.ndarray = _as_given(self.run_.units.classes, y)

    def transform(self, X: Any) -> np.ndarray:
        """Latent coordinates z_geo, [n, latent]."""
        check_is_fitted(self)
        X = self._checked(X)
        return np.asarray(self._said(X).z_geo, getattr(X, "dtype", np.float32))

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Examples at latent coordinates [n, latent], without texture, in the units and the shape of the data."""
        check_is_fitted(self)
        try:
            return np.asarray(self.run_.decode(np.asarray(X, np.float32)).x_hat)
        except UserError as error:
            raise ValueError(str(error)) from error

    def predict(self, X: Any) -> np.ndarray:
        """The class of each example where labels trained the charts, else its chart."""
        probability = self.predict_proba(X)
        return self.classes_[probability.argmax(axis=1)] if hasattr(self, "classes_") else probability.argmax(axis=1)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Of classes, Σ_k w_k P(y|k), [n, C]; where no label trained the charts, of these, w, [n, N]."""
        check_is_fitted(self)
        router = np.asarray(self._said(self._checked(X)).router, np.float64)
        if hasattr(self, "classes_"):
            run = self.run_
            router = router @ np.asarray(run.model.class_table(run.weights, run.program.temperature(run.state)))
        return router / router.sum(axis=1, keepdims=True)

    def score(self, X: Any, y: Any = None) -> float:
        """Accuracy where labels trained the charts and are given, else minus the squared error of rows in [0, 1]."""
        if y is not None and hasattr(self, "classes_"):
            return float(np.mean(self.predict(X) == np.asarray(y)))
        check_is_fitted(self)
        X = self._checked(X)
        rows, said = self._rows(X), self._said(X)
        x_hat = self.run_.prepared.decode(said.z_geo, said.z_tex).x_hat
        return -float(np.mean((np.asarray(x_hat) - rows) ** 2))

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """`fit`, then `predict`, of the same examples."""
        return self.fit(X, y).predict(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.target_tags.single_output = True
        tags.no_validation = False
        return tags

    def _config(self) -> tuple[Any, set[str]]:
        """The configuration that the arguments make, and the fields that they set."""
        if self.settings is not None and not isinstance(self.settings, Mapping):
            raise UserError(f"settings = {self.settings!r}: must map dotted fields to values")
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        asked = {
            "model.num_charts": self.charts,
            "model.codes_per_chart": self.codes,
            "model.latent_dim": self.latent,
            "model.hidden_dim": self.hidden,
            "train.epochs": self.epochs,
            "train.batch_size": self.batch_size,
            "seed": int(seed),
            **(self.settings or {}),
        }
        asked = {name: value for name, value in asked.items() if value is not None}
        config = default_config()
        config.lock()
        for name, value in asked.items():
            try:
                config.update_from_flattened_dict({name: value})
            except (KeyError, AttributeError, TypeError, ValueError) as error:
                raise UserError(f"{name} = {value!r}: {error}") from error
        validate(config)
        return config, set(asked)

    def _checked(self, X: Any, *, fitting: bool = False) -> Any:
        """X as an array of numbers, as scikit-learn checks it; a frame that holds texts as its columns."""
        if hasattr(X, "columns") and hasattr(X, "dtypes") and any(kind.kind not in "biuf" for kind in X.dtypes):
            from topojax.data.given import frame

            if fitting:
                self.feature_names_in_ = np.asarray([str(name) for name in X.columns], object)
                self.n_features_in_ = len(X.columns)
            return frame(X)
        least = own.LEAST if fitting else 1
        options = {"dtype": [np.float64, np.float32], "allow_nd": True, "ensure_min_samples": least}
        return validate_data(self, X, reset=fitting, **options)

    def _rows(self, X: Any) -> np.ndarray:
        try:
            if self.run_.units.columns:
                return self.run_.units.rows(X)[0]
            return self.run_.units.rows(X if X.ndim > 1 else X[None])[0]
        except UserError as error:
            raise ValueError(str(error)) from error

    def _said(self, X: Any) -> Any:
        return in_batches(self.run_._encode, self._rows(X), ROWS)


def _shapes(state: Any) -> Any:
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)


def _as_given(names: tuple[str, ...], y: np.ndarray | None) -> np.ndarray:
    """Names of classes in the type of the labels that named them."""
    if y is None or y.ndim > 1:
        return np.arange(len(names))
    if y.dtype.kind == "b":
        return np.array([False, True])
    if y.dtype.kind in "iuf":
        return np.array([int(name) for name in names]).astype(y.dtype)
    kinds = {str(value).strip(): value for value in y.tolist() if value is not None}
    return np.array([kinds.get(name, name) for name in names], y.dtype if y.dtype.kind in "US" else object)
