"""Files of strangers execute nothing: no module calls what would, but for the few places that are listed here."""

import ast
import pathlib

import topojax

PACKAGE = pathlib.Path(topojax.__file__).parent
EXECUTES = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "marshal.loads",
    "shelve.open",
    "joblib.load",
    "torch.load",
    "yaml.load",
    "os.system",
    "os.popen",
    "runpy.run_path",
    "importlib.util.spec_from_file_location",
}
LISTENS = {"socket.create_server", "http.server.HTTPServer", "ThreadingHTTPServer"}
ALLOWED = {
    "config/command_line.py": {"importlib.util.spec_from_file_location"},  # of --config, a program of the user's own
}


def dotted(node):
    """The name that an expression is, as it is written; '' for another expression."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def used(path):
    """Such names that a file calls or derives from, and flags that let NumPy unpickle or a shell read a line."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            found |= {dotted(node.func)} & (EXECUTES | LISTENS)
            for keyword in node.keywords:
                if keyword.arg in ("allow_pickle", "shell") and not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                ):
                    found.add(keyword.arg)
        if isinstance(node, ast.ClassDef):
            found |= {dotted(base) for base in node.bases} & EXECUTES
    return found


def test_the_scan_finds_what_it_looks_for(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("import pickle\nclass A(pickle.Unpickler): pass\nnp.load(f, allow_pickle=True)\nexec('1')\n")
    assert used(path) == {"pickle.Unpickler", "allow_pickle", "exec"}


def test_no_module_executes_what_it_reads_and_none_listens():
    found = {path.relative_to(PACKAGE).as_posix(): used(path) for path in PACKAGE.rglob("*.py")}
    assert {name: names for name, names in found.items() if names - ALLOWED.get(name, set())} == {}
