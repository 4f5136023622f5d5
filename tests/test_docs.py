"""What the documents point at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_figures_are_there(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("file", ["finetune_config_optimized.py", "benchmarks/plots.py", "README.md"])
def test_documents_that_are_named_are_there(file: str) -> None:
    named = re.findall(r"docs/[\w-]+\.md", (ROOT / file).read_text(encoding="utf-8"))
    assert named
    assert all((ROOT / name).exists() for name in named)
