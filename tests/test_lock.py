"""The versions that this is developed with: every dependency of pyproject.toml at one that it allows."""

import pathlib
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements-dev.lock").read_text()
PINNED = re.compile(r"([\w.-]+)==([^\s;]+)(?: ; (.+))?")


def pins():
    """Name → versions: one may be pinned for some systems, another for the others."""
    found = {}
    for line in LOCK.splitlines():
        if line and not line.lstrip().startswith("#"):
            name, version, _ = PINNED.fullmatch(line.strip()).groups()
            found.setdefault(canonicalize_name(name), []).append(Version(version))
    return found


def wanted(extra=None):
    """Requirements of the package, or of an extra and the extras that it names."""
    texts = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    for text in texts:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            for named in requirement.extras:
                yield from wanted(named)
        else:
            yield requirement


@pytest.mark.parametrize("extra", [None, "test"])
def test_every_dependency_is_pinned_at_a_version_that_is_allowed(extra):
    found = pins()
    for requirement in wanted(extra):
        versions = found.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement.name}: make requirements-dev.lock anew (CONTRIBUTING.md)"
        assert any(requirement.specifier.contains(version) for version in versions), requirement


def test_the_lock_is_of_the_least_python_and_names_no_place():
    (command,) = re.findall(r"uv pip compile .*", LOCK)
    assert command in (ROOT / "CONTRIBUTING.md").read_text()
    assert f"--python-version {PROJECT['requires-python'].removeprefix('>=')}" in command
    assert not re.search(r"https?://|file:|--(extra-)?index-url|--find-links|(^|\s)/\w", LOCK)
