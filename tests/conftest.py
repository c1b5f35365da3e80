"""Shared set-up: CPU, strict rank promotion, one cache of compiled programs and one of each run for all workers."""

import contextlib
import ctypes
import gc
import os
import pathlib
import shutil
import signal

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Programs here run a few times each, and cost their compiling: here and in the processes that tests start.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1")

import hypothesis
import jax
import pytest

try:
    import fcntl
except ImportError:  # Windows has no such lock: there every worker makes its own
    fcntl = None

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in its background
    signal.signal(signal.SIGINT, signal.default_int_handler)
jax.config.update("jax_numpy_rank_promotion", "raise")
# How long an example takes depends on what else the machine does. The suite tries the same examples everywhere, so that
# what passes here passes there; HYPOTHESIS_PROFILE=searching tries others.
hypothesis.settings.register_profile("patient", deadline=None, derandomize=True)
hypothesis.settings.register_profile("searching", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "patient"))

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory):
    """A folder of this test session, the same for all its workers."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if fcntl and "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def caches(session_folder):
    """What one worker has compiled or decoded, others and the commands that tests start read: nobody's own cache."""
    settings = {
        "jax_compilation_cache_dir": str(session_folder / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        patch.setenv("XDG_CACHE_HOME", str(session_folder / "cache"))
        yield settings["jax_compilation_cache_dir"]


@pytest.fixture(scope="module", autouse=True)
def no_programs_left():
    """Compiled programs live as long as their module: of a whole suite they are gigabytes."""
    yield
    jax.clear_caches()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc gives nothing back unless told
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@pytest.fixture(scope="session")
def made_once(session_folder):
    """(name, make) → a folder of the session that `make(folder)` has filled, in whichever worker came first."""

    def folder(name, make):
        target = session_folder / "made" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        whole = target.with_suffix(".whole")
        with target.with_suffix(".lock").open("w") as lock:
            if fcntl:
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not whole.exists():
                shutil.rmtree(target, ignore_errors=True)
                make(target)
                whole.touch()
        return target

    return folder


@pytest.fixture(scope="session")
def digits_run(made_once):
    """Workdir of a tiny run on digits with labels and both baselines; nobody may change it."""
    from tiny_config import get_config

    from topojax.training.loop import train_and_evaluate

    c = get_config()
    c.log.every_epochs, c.monitor.max_failures = 1, 10
    c.baselines.autoencoder = c.baselines.vq = True
    return made_once("digits", lambda workdir: train_and_evaluate(c, workdir))


@pytest.fixture(scope="session")
def points_run(made_once):
    """Workdir of a tiny run on points in space, a latent of three dimensions, no labels in training."""
    from tiny_config import get_config

    from topojax.training.loop import train_and_evaluate

    c = get_config()
    c.name, c.data.name, c.data.num_examples = "points", "sphere_3d", 200
    c.model.latent_dim, c.supervised.enabled, c.train.epochs = 3, False, 2
    return made_once("points", lambda workdir: train_and_evaluate(c, workdir))


@pytest.fixture(scope="session")
def digits_report(digits_run, made_once):
    """Workdir of a copy of the digits run with its report."""
    return made_once("digits_report", lambda copy: _reported(digits_run, copy))


@pytest.fixture(scope="session")
def points_report(points_run, made_once):
    """Workdir of a copy of the points run with its report."""
    return made_once("points_report", lambda copy: _reported(points_run, copy))


def _reported(run, copy):
    from topojax.report.write import write

    shutil.copytree(run, copy)
    write(copy)
