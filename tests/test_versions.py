"""On every declared Python that is there, and with the lowest versions allowed, the package installs and trains."""

import functools
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TINY = ROOT / "tests" / "tiny_config.py"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = [int(m) for m in re.findall(r"Python :: 3\.(\d+)", "\n".join(PROJECT["classifiers"]))]
LOWEST = min(DECLARED)
UV = shutil.which("uv", path=f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
# Of a package as it is installed: no checkout beside it, and the user's own cache of what has been downloaded.
ENVIRONMENT = {name: v for name, v in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "XLA_FLAGS")}


def run(*command, cwd, **environment):
    environment = {**ENVIRONMENT, "JAX_PLATFORMS": "cpu", **environment}
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900, env=environment)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    return ended.stdout


@functools.cache
def python(minor):
    """The first Python 3.`minor` of PATH, of pyenv or of uv that runs and can make environments; None without one."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    pyenv = pathlib.Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    found = itertools.chain(
        (pathlib.Path(folder) / f"python3.{minor}" for folder in folders),
        pyenv.glob(f"versions/3.{minor}.*/bin/python3.{minor}"),
        pathlib.Path("~/.local/share/uv/python").expanduser().glob(f"cpython-3.{minor}.*/bin/python3.{minor}"),
    )
    for path in found:
        if path.exists():
            asked = [path, "-c", "import ensurepip, sys, venv; print(*sys.version_info[:2])"]
            ended = subprocess.run(asked, capture_output=True, text=True, timeout=60, env=ENVIRONMENT)
            if ended.stdout.split() == ["3", str(minor)]:
                return str(path)
    return None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(out), str(ROOT), cwd=out)
    return str(next(out.glob("*.whl")))


def trains(python, folder):
    """Two epochs of the tiny run on digits, in an environment."""
    flags = (f"--config={TINY}", "--config.train.epochs=2", f"--workdir={folder / 'run'}")
    run(str(python), "-m", "topojax.train", *flags, cwd=folder)
    result = json.loads((folder / "run" / "result.json").read_text())
    assert result["epochs"] == 2
    assert 0 < result["test/mse"] < 1


@pytest.mark.campaign
@pytest.mark.parametrize("minor", DECLARED)
def test_it_installs_and_trains_on(minor, wheel, tmp_path):
    if python(minor) is None:
        pytest.skip(f"there is no Python 3.{minor}")
    there = tmp_path / "bin" / "python"
    if UV:
        run(UV, "venv", "--quiet", "--python", python(minor), str(tmp_path), "--allow-existing", cwd=tmp_path)
        install = (UV, "pip", "install", "--quiet", "--python", str(there))
    else:
        run(python(minor), "-m", "venv", str(tmp_path), cwd=tmp_path)
        install = (str(there), "-m", "pip", "install", "--quiet")
    run(*install, wheel, cwd=tmp_path)
    trains(there, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(UV is None, reason="uv, which resolves to lowest versions, is not installed")
def test_it_trains_with_the_lowest_versions_it_allows(wheel, tmp_path):
    if python(LOWEST) is None:
        pytest.skip(f"there is no Python 3.{LOWEST}")
    there = str(tmp_path / "bin" / "python")
    run(UV, "venv", "--quiet", "--python", python(LOWEST), str(tmp_path), "--allow-existing", cwd=tmp_path)
    run(UV, "pip", "install", "--quiet", "--python", there, "--resolution", "lowest-direct", wheel, cwd=tmp_path)
    trains(there, tmp_path)
