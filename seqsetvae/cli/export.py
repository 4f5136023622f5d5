"""Export: a checkpoint as a folder for other programs: safetensors, a JSON card, and ONNX where that is exact."""

from __future__ import annotations

from dataclasses import dataclass

from seqsetvae.models import ArchitectureSettings
from seqsetvae.settings import groups
from seqsetvae.settings.declare import argument, part
from seqsetvae.settings.kinds import choice, exists

HELP = "write a checkpoint as safetensors with a JSON card, and as ONNX where that is exact"
NEEDS = ("ckpt", "output")
BODY = "seqsetvae.runs.export"
FIXED = {"accelerator": "cpu", "precision": "32-true", "compile_model": False}  # what is written depends on no other


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What exporting reads."""

    finetuned: groups.FinetunedSettings
    output: groups.OutputSettings
    data: groups.DataSettings
    loader: groups.LoaderSettings
    architecture: ArchitectureSettings
    to: str = argument(
        choice("folder", "hub_folder"),
        "export: folder (card.json, model_card.md), or hub_folder: the names that model hubs expect (config.json, "
        "README.md with metadata); nothing is uploaded",
        default="folder",
    )
    run: groups.RunSettings = part(except_for=(*FIXED, "devices", "strategy", "deterministic"))


def problems(settings: Settings) -> list[str]:
    """One checkpoint, and a new folder."""
    output, broken_rules = settings.output.output, settings.finetuned.problems_of_one("export")
    if output is not None and exists(output):
        broken_rules.append(f"output: received {str(output)!r}, which already exists; allowed: a new folder")
    return broken_rules
