"""What the documents point at is there."""

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
