"""Config: print the config file that came with the program, for a copy to edit."""

from __future__ import annotations

from dataclasses import dataclass

from seqsetvae.cli.config_file import SHIPPED

HELP = "print the config file as it came, to save and edit"
NEEDS = ()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """No settings."""


def problems(settings: Settings) -> list[str]:
    return []


def run(settings: Settings) -> None:
    print(SHIPPED.read_text(encoding="utf-8"), end="")
