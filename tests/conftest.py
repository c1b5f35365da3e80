"""Shared set-up: CPU, strict rank promotion, and paths of what the tests read."""

import contextlib
import os
import pathlib
import shutil

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def quick_compiles():
    """Little optimisation, for a module whose programs run but a few times."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def quickly_compiled(tmp_path_factory):
    """Programs compile with little optimisation into a cache of their own: for runs that are only looked at."""
    from jax.experimental.compilation_cache import compilation_cache

    @contextlib.contextmanager
    def settings():
        before = jax.config.read("jax_disable_most_optimizations")  # one may stand inside another
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "xla"))
            jax.config.update("jax_disable_most_optimizations", True)
            try:
                yield
            finally:
                jax.config.update("jax_disable_most_optimizations", before)
                jax.config.update("jax_compilation_cache_dir", None)
                compilation_cache.reset_cache()

    return settings


@pytest.fixture(scope="session")
def digits_run(quickly_compiled, tmp_path_factory):
    """Workdir of a tiny run on digits with labels and both baselines; nobody may change it."""
    from tiny_config import get_config

    from topojax.training.loop import train_and_evaluate

    c = get_config()
    c.baselines.autoencoder = c.baselines.vq = True
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    with quickly_compiled():
        train_and_evaluate(c, workdir)
    return workdir


@pytest.fixture(scope="session")
def points_run(quickly_compiled, tmp_path_factory):
    """Workdir of a tiny run on points in space, a latent of three dimensions, no labels in training."""
    from tiny_config import get_config

    from topojax.training.loop import train_and_evaluate

    c = get_config()
    c.name, c.data.name, c.data.num_examples = "points", "sphere_3d", 200
    c.model.latent_dim, c.supervised.enabled, c.train.epochs = 3, False, 2
    workdir = tmp_path_factory.mktemp("runs") / "points"
    with quickly_compiled():
        train_and_evaluate(c, workdir)
    return workdir


@pytest.fixture(scope="session")
def digits_report(digits_run, quickly_compiled, tmp_path_factory):
    """Workdir of a copy of the digits run with its report."""
    with quickly_compiled():
        return _reported(digits_run, tmp_path_factory.mktemp("reports") / "digits")


@pytest.fixture(scope="session")
def points_report(points_run, quickly_compiled, tmp_path_factory):
    """Workdir of a copy of the points run with its report."""
    with quickly_compiled():
        return _reported(points_run, tmp_path_factory.mktemp("reports") / "points")


def _reported(run, copy):
    from topojax.report.write import write

    shutil.copytree(run, copy)
    write(copy)
    return copy
