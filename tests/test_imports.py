"""The house: rooms in one order, imports running downward, what is heavy where it is used, and no module too large."""

import ast
import itertools
import os
import pathlib
import statistics
import subprocess
import sys

import pytest

import topojax

PACKAGE = pathlib.Path(topojax.__file__).parent
ROOMS = (
    *("types", "errors", "control", "data", "atlas", "config", "storage", "tracking", "step", "scoring", "training"),
    *("analysis", "report", "commands", "benchmarks", "__main__", "train"),
)
"""From the ground up: each imports of those before it."""
HEAVY = (
    "tensorflow",
    "tensorflow_datasets",
    "matplotlib",
    "clu",
    "sklearn",
    "mlflow",
    "plotly",
    "PIL",
    "torch",
    "cooper",
    "pynndescent",
    "grain",
)
TABLES = ("atlas/table.py", "config/defaults.py", "config/original_flags.py")
"""Modules that are a table: their functions are as long as it is."""
ENDINGS = ("ations", "ation", "ions", "ion", "ings", "ing", "ers", "er", "es", "e", "s")
MODULES = sorted(PACKAGE.rglob("*.py"))


def relative(path):
    return path.relative_to(PACKAGE).as_posix()


def room(name):
    """The room of a file's path or of a dotted name; '' for the package itself."""
    if isinstance(name, pathlib.Path):
        name = "." + relative(name).removesuffix(".py").replace("/", ".")
    first = name.partition(".")[2].partition(".")[0]
    return "" if first == "__init__" else first


def imported(path, *, only_top=False):
    """Dotted names that a file imports, `from a import b` as a.b; at its top alone, or in its functions too."""
    names, nodes = set(), [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        if not (only_top and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            nodes += ast.iter_child_nodes(node)
    return names


def importers(*packages, only_top=False):
    """Files of the package that import any of these or something of them."""
    return {
        relative(path)
        for path in MODULES
        for name in imported(path, only_top=only_top)
        if any(name == package or name.startswith(f"{package}.") for package in packages)
    }


def loaded(statement):
    """What a process of its own has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.split())


def stem(name):
    """A name without its ending: score, scores, scorer and scoring are one."""
    for ending in ENDINGS:
        if name.endswith(ending) and len(name) - len(ending) >= 3:
            return name.removesuffix(ending)
    return name


def entry(path):
    """Whether a file is named after what one types."""
    return room(path) in ("commands", "train") or any(
        isinstance(node, ast.FunctionDef) and node.name == "main" for node in ast.parse(path.read_text()).body
    )


def test_the_scan_finds_imports_and_tells_names_apart(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("import a.b\nif a:\n    import e\ndef f():\n    from c import d\n")
    assert imported(file) == {"a.b", "c.d", "e"}
    assert imported(file, only_top=True) == {"a.b", "e"}
    assert stem("score") == stem("scores") == stem("scorer") == stem("scoring") != stem("score_table")
    assert room("topojax.atlas.model") == room(PACKAGE / "atlas" / "model" / "jump.py") == "atlas"
    assert room("topojax") == room(PACKAGE / "__init__.py") == ""


def test_the_rooms_are_those_of_the_order():
    there = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert there - {"py.typed", "__init__"} == set(ROOMS)
    assert len(set(ROOMS) - {"__main__"}) <= 16


def test_nothing_imports_upward():
    """Nor within its functions: an arrow upward is one however late it is drawn."""
    order = {name: i for i, name in enumerate(ROOMS)}
    upward = [
        f"{relative(path)} imports {name}"
        for path in MODULES
        if room(path)
        for name in imported(path)
        if name.partition(".")[0] == "topojax" and order.get(room(name), len(ROOMS)) > order[room(path)]
    ]
    assert not upward


def test_control_stands_alone():
    """It works on arrays of anyone's program: of this package types and errors, and of others jax, numpy and optax."""
    names = {name for path in MODULES if room(path) == "control" for name in imported(path)}
    assert {room(name) for name in names if name.startswith("topojax")} <= {"types", "errors", "control"}
    outside = {name.partition(".")[0] for name in names} - {"topojax", *sys.stdlib_module_names}
    assert outside == {"jax", "numpy", "optax"} & outside


def test_only_checkpoint_knows_orbax_and_only_the_model_linen():
    assert importers("orbax") == {f"storage/{name}.py" for name in ("checkpoint", "joint", "manager")}
    assert {file.rpartition("/")[0] for file in importers("flax.linen", "flax.nnx")} == {"atlas/model"}


def test_heavy_packages_are_imported_where_they_are_used():
    assert importers(*HEAVY, only_top=True) == {"analysis/estimator.py"}  # a class of scikit-learn's, itself lazy


def test_importing_loads_what_is_needed_and_no_more():
    assert not loaded("import topojax") & {*HEAVY, "orbax", "flax", "jax"}
    modules = loaded("import topojax.training.loop, topojax.train")
    assert not modules & set(HEAVY)
    assert "orbax.checkpoint" in modules


def test_no_module_stands_where_a_function_should():
    """`import topojax.x` binds topojax.x to the module: a public function of that name would be lost."""
    assert not set(ROOMS) & set(topojax.__all__)


@pytest.mark.parametrize("name", topojax.__all__)
def test_every_public_name_is_there(name):
    assert name in dir(topojax)
    assert getattr(topojax, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = topojax.trian


def test_no_two_modules_differ_by_their_ending():
    """Neither modules nor rooms; what is named after what one types may be like what it calls."""
    modules = {path.stem for path in MODULES if not path.stem.startswith("__") and not entry(path)}
    rooms = {name for name in ROOMS if (PACKAGE / name).is_dir()}
    for names in (modules, rooms):
        assert not [pair for pair in itertools.combinations(sorted(names), 2) if stem(pair[0]) == stem(pair[1])]


def test_functions_and_modules_can_be_read():
    functions = {
        f"{relative(path)}:{node.name}": node.end_lineno - node.lineno + 1
        for path in MODULES
        if relative(path) not in TABLES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name: lines for name, lines in functions.items() if lines > 80}
    rooms = [path for path in MODULES if path.name != "__init__.py"]
    assert statistics.median(len(path.read_text().splitlines()) for path in rooms) <= 150
