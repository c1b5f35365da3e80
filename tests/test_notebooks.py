"""The notebooks of colab/, executed as a reader has them: away from the repository, where topojax is not installed."""

import os
import pathlib
import re
import shutil
import site
import subprocess
import sys

import nbformat
import pytest

ROOT = pathlib.Path(__file__).parent.parent
COLAB = ROOT / "colab"
NOTEBOOKS = sorted(COLAB.glob("*.ipynb"))
EPOCHS = {"control_your_own_model": 30}
"""Epochs of the smoke run; 2 for the others."""

LONG = ("your_own_data",)
"""Whose page in docs/ runs the same examples."""

EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], 4)
place = {"metadata": {"path": sys.argv[2]}}
nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
nbformat.write(notebook, sys.argv[1])
"""


def read(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """(Python, environment) with all that topojax needs but without it, and a copy of the checkout as its source."""
    folder = tmp_path_factory.mktemp("reader")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    scripts = "Scripts" if os.name == "nt" else "bin"
    python = str(folder / "venv" / scripts / "python")
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip()
    # Folders named in a .pth file are not searched for .pth files themselves: an editable topojax stays behind.
    pathlib.Path(packages, "shared.pth").write_text("\n".join(site.getsitepackages()))
    source = folder / "source"
    source.mkdir()
    for name in ("topojax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source / name)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"TOPOJAX_SOURCE": source.as_uri(), "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1"}
    missing = subprocess.run([python, "-c", "import topojax"], env=environment, cwd=folder, capture_output=True)
    if not missing.returncode:
        pytest.skip("topojax is installed, and not as an editable checkout: nothing would be installed")
    return python, environment


def test_there_are_the_notebooks_that_the_readme_of_the_folder_lists():
    listed = re.findall(r"\[(\w+)\.ipynb\]\(\1\.ipynb\)", (COLAB / "README.md").read_text())
    assert sorted(listed) == [path.stem for path in NOTEBOOKS]
    assert len(NOTEBOOKS) == 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_keeps_no_outputs_and_defines_no_library(path):
    for cell in read(path).cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
            assert len(cell.source.splitlines()) <= 30


def test_all_install_the_same_source():
    assert len({next(cell.source for cell in read(path).cells if cell.cell_type == "code") for path in NOTEBOOKS}) == 1


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.campaign if path.stem in LONG else pytest.mark.slow) for path in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_it_runs_from_top_to_bottom(path, reader, tmp_path_factory):
    """In a folder of its own: what one notebook leaves, no other may lean on. Compiled programs they do share."""
    python, environment = reader
    folder = tmp_path_factory.mktemp(path.stem)
    notebook = read(path)
    (at,) = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(f"EPOCHS = {EPOCHS.get(path.stem, 2)}"))
    copy = folder / path.name
    nbformat.write(notebook, copy)
    command = [python, "-c", EXECUTE, str(copy), str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert ended.returncode == 0, ended.stderr[-3000:]
    subprocess.run([python, "-c", "import topojax"], env=environment, cwd=folder, check=True)  # its first cell's work
    shown = [output for cell in read(copy).cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert not [output for output in shown if output.get("name") == "stderr" and "Traceback" in output.get("text", "")]
