"""Modules import only from lower layers."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Top to bottom. A module imports only from lower rooms, or from its own.
ROOMS = [
    ("train_optimized", "seqsetvae.api"),
    ("data",),
    ("seqsetvae.runs",),
    ("seqsetvae.cli",),
    ("seqsetvae.training",),  # knows the modules of model_optimized only by what it needs of them
    ("model_optimized",),
    ("seqsetvae.evaluation.baselines",),
    ("seqsetvae.report",),
    ("seqsetvae.evaluation",),
    ("seqsetvae.checkpoint.finetuned",),
    ("seqsetvae.tasks",),
    ("seqsetvae.training.optimizer", "seqsetvae.training.metrics"),
    ("seqsetvae.checkpoint",),
    ("seqsetvae.batches.variables",),
    ("seqsetvae.batches.loading",),
    ("seqsetvae.objectives",),
    ("seqsetvae.models",),
    ("seqsetvae.batches.transform",),
    ("seqsetvae.batches", "seqsetvae.cohort"),
    ("seqsetvae.ops",),
    ("seqsetvae.settings",),
    ("seqsetvae.system",),
]
# The config module is read once, by the command; modes get their settings as plain values, and nothing imports it.


def _room(module: str) -> tuple[int, str] | None:
    found = [(level, name) for level, room in enumerate(ROOMS) for name in room if f"{module}.".startswith(f"{name}.")]
    return max(found, key=lambda pair: len(pair[1]), default=None)


@cache
def _imports() -> dict[str, set[str]]:
    """What each module imports, by its name."""
    files = [*ROOT.glob("*.py"), *(ROOT / "seqsetvae").rglob("*.py")]
    names = {file: ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files}
    return {name: _imports_in(ast.parse(file.read_text(encoding="utf-8"))) for file, name in names.items()}


def _imports_in(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)  # perhaps a module of a package
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def test_imports_point_down():
    wrong = []
    for module, imports in _imports().items():
        own = _room(module)
        for imported in imports:
            other = _room(imported)
            if own and other and (other[0] < own[0] or (other[0] == own[0] and other[1] != own[1])):
                wrong.append(f"{module} imports {imported}")
            if imported == "finetune_config_optimized":
                wrong.append(f"{module} imports {imported}")
    assert not wrong


def test_every_module_has_a_room():
    without = {module for module in _imports() if not _room(module)}
    assert without == {"finetune_config_optimized", "seqsetvae"}


def test_patients_on_disk_need_no_torch_and_the_maths_no_files():
    forbidden = {
        "seqsetvae.cohort": {"torch", "pytorch_lightning"},
        "seqsetvae.models": {"pytorch_lightning", "pathlib"},
        "seqsetvae.ops": {"pytorch_lightning", "pathlib"},
    }
    for module, imports in _imports().items():
        for room, names in forbidden.items():
            if module.startswith(room):
                assert not {name.split(".")[0] for name in imports} & names, module
