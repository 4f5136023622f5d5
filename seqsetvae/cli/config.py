"""Config: print the config file that came with the program, for a copy to edit."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

HELP = "print the config file as it came, to save and edit"
NEEDS = ()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """No settings."""


def problems(settings: Settings) -> list[str]:
    return []


def run(settings: Settings) -> None:
    spec = find_spec("finetune_config_optimized")  # by name, since importing it would run it
    assert spec is not None, "the command has read it"
    assert spec.origin is not None, "it is a file"
    print(Path(spec.origin).read_text(encoding="utf-8"), end="")
