"""What a user installs: wheel and sdist, built and used away from the sources."""

import email
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest

import topojax

ROOT = pathlib.Path(__file__).parent.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def run(*command, cwd, **environment):
    ended = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(wheel, sdist); the wheel is built from the sdist, as `python -m build` does."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT), cwd=out)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The folder that the wheel is installed into, without its dependencies: these are here already."""
    target = tmp_path_factory.mktemp("site")
    command = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(built[0]))
    run(*command, cwd=target)
    return target


def test_the_wheel_holds_every_module_and_configuration_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        metadata = email.message_from_bytes(wheel.read(f"topojax-{VERSION}.dist-info/METADATA"))
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "topojax").rglob("*.py")} | {"topojax/py.typed"}
    assert names == wanted | {
        f"topojax-{VERSION}.data/data/share/topojax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")
    }
    assert metadata["Version"] == VERSION


def test_the_sdist_holds_tests_and_documents(built):
    with tarfile.open(built[1]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"README.md", "CHANGELOG.md", "CITATION.cff", "docs/config.md", "tests/test_package.py"} <= names
    assert not [name for name in names if "__pycache__" in name]


@pytest.mark.slow
def test_the_installed_package_finds_its_configurations(installed, tmp_path):
    program = "import topojax; print(topojax.__file__, topojax.__version__)"
    where, version = run(sys.executable, "-c", program, cwd=tmp_path, PYTHONPATH=str(installed)).split()
    assert pathlib.Path(where).is_relative_to(installed)
    assert version == VERSION
    command = (sys.executable, "-m", "topojax.train", "--config=configs/mnist.py:report_lr7", "--print_config")
    assert '"name": "mnist_report_lr7"' in run(*command, cwd=tmp_path, PYTHONPATH=str(installed))


def test_one_version_everywhere():
    assert topojax.__version__ == VERSION
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)[1] == VERSION
    released = [
        word for word in re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M) if word[0].isdigit()
    ]
    assert released[0] == VERSION


def test_every_python_that_is_tested_is_declared_and_no_other():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = re.findall(r"Programming Language :: Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    tested = re.findall(r"\d\.\d+", re.search(r"python: \[(.*)\]", (ROOT / ".github/workflows/ci.yml").read_text())[1])
    assert declared == tested
    assert project["requires-python"] == f">={declared[0]}"


@pytest.mark.campaign
@pytest.mark.slow
def test_the_site_has_a_page_for_every_document_notebook_and_public_module(tmp_path):
    build = (sys.executable, "-W", "error::UserWarning", str(ROOT / "docs" / "build.py"), "site", "--no-execute")
    run(*build, cwd=tmp_path)
    site, folder = tmp_path / "site", tmp_path / "site" / "api" / "topojax"
    modules = {path.stem for path in (ROOT / "topojax").glob("[!_]*.py")}
    assert modules <= {path.stem for path in folder.glob("*.html")}
    assert "Restore a run from its workdir." in (site / "api" / "topojax.html").read_text()
    assert "carries its cause" in (folder / "control" / "governor.html").read_text()
    sources = [*(ROOT / "docs").glob("*.md"), *(ROOT / "colab").glob("*.ipynb")]
    assert all((site / path.relative_to(ROOT)).with_suffix(".html").is_file() for path in sources)
    assert (site / "docs" / "digits.png").is_file()
    assert "<table>" in (site / "index.html").read_text()
