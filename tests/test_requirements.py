"""What has to be installed is listed in several files for several programs; they all say the same."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import seqsetvae

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, GROUPS = PYPROJECT["project"], PYPROJECT["dependency-groups"]
EXTRAS = {name: lines for name, lines in PROJECT["optional-dependencies"].items() if name != "all"}
LOCK = {each["name"]: each for each in tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]}
OWN: dict[str, Any] = LOCK[PROJECT["name"]]


def _lines(file: str) -> list[str]:
    """The requirements in a file of pip, without comments and files that it includes."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("-")]


def _parsed(lines: list[str]) -> set[tuple[str, SpecifierSet]]:
    return {(canonicalize_name(each.name), each.specifier) for each in map(Requirement, lines)}


def _locked(rows: list[dict[str, str]]) -> set[tuple[str, SpecifierSet]]:
    return {(row["name"], SpecifierSet(row.get("specifier", ""))) for row in rows if row["name"] != PROJECT["name"]}


EVERYTHING = [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]


def test_requirements_of_pip_are_those_of_the_project():
    (named,) = PROJECT["optional-dependencies"]["all"]
    assert set(re.findall(r"\w+", named.partition("[")[2])) == set(EXTRAS)
    assert sorted(_lines("requirements.txt")) == sorted(EVERYTHING)
    assert sorted(_lines("requirements-dev.txt")) == sorted(GROUPS["dev"])
    assert "\n-r requirements.txt\n" in (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")


def test_the_lock_file_is_of_these_requirements_and_has_the_pinned_versions():
    """`uv lock` writes it; constraints.txt has the versions that the tests ran with."""
    assert _locked(OWN["metadata"]["requires-dist"]) == _parsed(EVERYTHING)
    assert _locked(OWN["metadata"]["requires-dev"]["dev"]) == _parsed(GROUPS["dev"])
    pins = [line.split("==") for line in _lines("constraints.txt")]
    assert {name: version for name, version in pins if LOCK[canonicalize_name(name)]["version"] != version} == {}


def test_no_requirement_names_lightning():
    """Its versions 2.6.2 and 2.6.3 were malicious (docs/dependencies.md); pytorch-lightning is another package."""
    files = ("requirements.txt", "requirements-dev.txt", "constraints.txt")
    lines = [*EVERYTHING, *GROUPS["dev"], *(line for file in files for line in _lines(file))]
    named = {canonicalize_name(Requirement(line).name) for line in lines} | LOCK.keys()
    assert "pytorch-lightning" in named
    assert "lightning" not in named


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned_and_explained(file):
    names = [Requirement(line).name for line in _lines(file)]
    pins = {canonicalize_name(line.split("==")[0]) for line in _lines("constraints.txt")}
    assert [name for name in names if canonicalize_name(name) not in pins] == []
    explained = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    assert [name for name in names if name not in explained] == []


def test_files_of_the_release_say_the_same():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {seqsetvae.__version__}\n" in citation
    assert f"\nlicense: {PROJECT['license']}\n" in citation
    assert f"\n## {seqsetvae.__version__} (" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (author,) = PROJECT["authors"]
    assert f"  - name: {author['name']}\n" in citation
    assert f"(c) 2026 {author['name']}\n" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_commits_and_the_forge_run_what_ci_runs():
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    hooks = re.findall(r"entry: ([^,]+),", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert hooks == re.findall(r"\.venv/bin/((?:ruff|mypy)[^&)]*?) ?(?=&&|\))", run)
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert re.findall(r"bash (\S+)", workflow) == [".ci/run", ".ci/oldest"]
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert [f'"{version}"' for version in versions] == re.findall(r'"3\.\d+"', workflow.partition("matrix:")[2])
