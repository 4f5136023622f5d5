"""The settings that select a pretraining objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seqsetvae.objectives import OBJECTIVES
from seqsetvae.settings.declare import selected, setting
from seqsetvae.settings.kinds import OneOf


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """What pretraining minimizes."""

    objective: str = setting(OneOf(lambda: OBJECTIVES), default="reconstruction")
    values: Mapping[str, Any] = selected(OBJECTIVES, by="objective", attribute="Settings")

    def settings(self) -> Any:
        """The settings of the selected objective."""
        return OBJECTIVES[self.objective].Settings(**self.values)
