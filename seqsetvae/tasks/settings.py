"""The setting that selects a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seqsetvae.settings.declare import selected, setting
from seqsetvae.settings.groups import DataSettings, LossSettings
from seqsetvae.settings.kinds import OneOf
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.spec import BINARY, columns_of


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """What is predicted."""

    task: str = setting(OneOf(lambda: TASKS), default=BINARY)
    values: Mapping[str, Any] = selected(TASKS, by="task", attribute="Settings")  # and the RECIPE of the task

    @property
    def label_in_cohort(self) -> bool:
        """Whether the labels are those of the cohort; else they are read from a file."""
        return bool(TASKS[self.task].LABEL_IN_COHORT)

    def offers(self, what: str) -> bool:
        """Whether the task has what only some have."""
        return what in TASKS[self.task].OFFERS

    def problems_with(self, data: DataSettings, loss: LossSettings) -> list[str]:
        """What other settings do not go with the task."""
        names, rules = columns_of(data.label_name), list[tuple[bool, str]]()
        if not self.label_in_cohort:
            rules += [
                (len(set(names)) < len(names), f"label_name: received {data.label_name!r}; name each column once,"),
                (not names, "label_name: not given; names the column or, with commas, the columns"),
            ]
        if not self.offers("loss"):
            rules += [
                (
                    loss.loss != "cross_entropy",
                    f"loss: received {loss.loss!r}; allowed: cross_entropy (the task's own)",
                ),
                (loss.class_weight != "none", f"class_weight: received {loss.class_weight!r}; allowed: none"),
                (loss.label_smoothing > 0, f"label_smoothing: received {loss.label_smoothing}; allowed: 0"),
            ]
        return [f"{text} with --task {self.task}" for wrong, text in rules if wrong]
