"""What may import what, and what importing costs."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

import topojax

PACKAGE = pathlib.Path(topojax.__file__).parent
HEAVY = ("tensorflow", "tensorflow_datasets", "matplotlib", "clu", "sklearn", "mlflow", "plotly", "PIL")


def imported(path, *, only_top=False):
    """Dotted names that a file imports, `from a import b` as both a and a.b."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if only_top else ast.walk(tree)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def importers(*packages, only_top=False):
    """Files of the package, relative, that import any of these or something below them."""
    return {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for name in imported(path, only_top=only_top)
        if any(name == package or name.startswith(f"{package}.") for package in packages)
    }


def loaded(statement):
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.split())


def test_the_scan_finds_imports(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("import a.b\ndef f():\n    from c import d\n")
    assert imported(file) == {"a.b", "c", "c.d"}
    assert imported(file, only_top=True) == {"a.b"}


def test_only_checkpoint_knows_orbax():
    assert importers("orbax") == {"checkpoint.py"}


def test_only_the_model_knows_linen():
    files = importers("flax.linen", "flax.nnx")
    assert files
    assert all(file.startswith("model") for file in files), files


def test_control_knows_neither_flax_nor_the_model_nor_the_configuration():
    forbidden = importers("flax", "topojax.model", "topojax.config", "ml_collections", "orbax")
    assert not {file for file in forbidden if file.startswith("control")}


def test_heavy_packages_are_imported_where_they_are_used():
    assert importers(*HEAVY, only_top=True) == set()


def test_no_module_stands_where_a_function_should():
    """`import topojax.x` binds topojax.x to the module: a public function of that name would be lost."""
    modules = {path.stem for path in PACKAGE.glob("*.py")} | {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert not modules & set(topojax.__all__)


def test_importing_the_package_loads_nothing_heavy():
    modules = loaded("import topojax")
    assert not modules & {*HEAVY, "orbax", "flax", "jax"}


def test_the_trainer_and_the_command_load_nothing_heavy():
    modules = loaded("import topojax.trainer, topojax.train")
    assert not modules & set(HEAVY)
    assert "orbax.checkpoint" in modules


@pytest.mark.parametrize("name", topojax.__all__)
def test_every_public_name_is_there(name):
    assert name in dir(topojax)
    assert getattr(topojax, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = topojax.trian
