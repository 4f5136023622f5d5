"""What the documents point at is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_figures_are_there(document):
    links = re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("file", ["finetune_config_optimized.py", "README.md"])
def test_documents_that_are_named_are_there(file):
    named = re.findall(r"docs/[\w-]+\.md", (ROOT / file).read_text(encoding="utf-8"))
    assert named
    assert all((ROOT / name).exists() for name in named)


def test_every_fault_of_the_table_has_its_test():
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    tests = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    rows = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    faults = [row for row in rows if not row.startswith("| fault |")]
    assert len(faults) > 50
    for row in faults:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        assert all(f"\ndef {name}(" in tests for name in named), row


MAP = re.search(
    r"```\n(finetune_config.*?)```", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), re.DOTALL
)
PACKAGE = sorted((ROOT / "seqsetvae").rglob("*.py"))


def test_the_map_of_the_code_names_every_file_of_the_package():
    """A package is named by its folder."""
    assert MAP is not None
    names = {file.parent.name if file.name == "__init__.py" else file.stem for file in PACKAGE}
    words = {name: name.replace("_", "[ _]") for name in names}
    assert {name for name in names if not re.search(rf"\b{words[name]}\b", MAP[1])} == set()


FRAGMENT = re.compile(r"(The same|The reverse|Those|That|Of|None of|As they|Its|They|Likewise|By)\b(?! default)")


def test_docstrings_begin_with_what_something_is_or_does():
    """Not with a word that refers to something else, which a reader would have to look for."""
    wrong = []
    for file in [*PACKAGE, *ROOT.glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                text = ast.get_docstring(node) or ""
                wrong += [f"{file.relative_to(ROOT)}: {text[:60]}"] * bool(FRAGMENT.match(text))
    assert not wrong
