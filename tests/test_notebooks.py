"""The notebooks of colab/, executed as a user would, with few epochs."""

import pathlib
import re
import subprocess
import sys

import nbformat
import pytest

COLAB = pathlib.Path(__file__).parent.parent / "colab"
NOTEBOOKS = sorted(COLAB.glob("*.ipynb"))
EPOCHS = {"control_your_own_model": 30}
"""Epochs of the smoke run; 2 for the others."""

EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], 4)
place = {"metadata": {"path": sys.argv[2]}}
nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
nbformat.write(notebook, sys.argv[1])
"""


def read(path):
    return nbformat.read(path, as_version=4)


def test_there_are_the_notebooks_that_the_readme_of_the_folder_lists():
    listed = re.findall(r"\[(\w+)\.ipynb\]\(\1\.ipynb\)", (COLAB / "README.md").read_text())
    assert sorted(listed) == [path.stem for path in NOTEBOOKS]
    assert len(NOTEBOOKS) == 4


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_keeps_no_outputs_and_defines_no_library(path):
    for cell in read(path).cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
            assert len(cell.source.splitlines()) <= 30


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.slow
def test_it_runs_from_top_to_bottom(path, tmp_path_factory):
    """In a folder of its own: what one notebook leaves, no other may lean on. Compiled programs they do share."""
    folder = tmp_path_factory.mktemp(path.stem)
    notebook = read(path)
    (at,) = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(f"EPOCHS = {EPOCHS.get(path.stem, 2)}"))
    copy = folder / path.name
    nbformat.write(notebook, copy)
    command = [sys.executable, "-c", EXECUTE, str(copy), str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr[-3000:]
    shown = [output for cell in read(copy).cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert not [output for output in shown if output.get("name") == "stderr" and "Traceback" in output.get("text", "")]
