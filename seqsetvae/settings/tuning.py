"""How a backbone is fine-tuned: the settings, and what goes together with them.

The old scripts' flag `strategy` names Lightning's way to use several devices, so this one is called `tuning`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from seqsetvae.settings.declare import changed, setting
from seqsetvae.settings.groups import FinetuningSchedule
from seqsetvae.settings.kinds import choice, integer, number

TUNINGS = choice("two_stage", "probe", "full", "last_layers", "layer_decay", "lora")
UNFREEZE_AFTER: dict[str, int | None] = {"probe": None, "full": 0}  # those that fix this setting


@dataclass(frozen=True, kw_only=True)
class TuningSettings:
    """What of the backbone is fine-tuned after the frozen stage, if anything; the head always is."""

    tuning: str = setting(TUNINGS, default="two_stage")
    tuned_layers: int = setting(integer(1), default=1)
    layer_lr_factor: float = setting(number(0, 1, above=True), default=0.75)
    lora_rank: int = setting(integer(1), default=8)
    lora_alpha: float = setting(number(0, above=True), default=16.0)
    lora_lr: float = setting(number(0, above=True), default=5e-4)

    def problems_with(
        self, schedule: FinetuningSchedule, architecture: str, *, has_layers: bool, is_new: bool
    ) -> list[str]:
        """What does not go together, a line each.

        Args:
            schedule: of the same run.
            architecture, has_layers: its name, and whether it tells its layers apart.
            is_new: the backbone is randomly initialized.
        """
        needs_layers = self.tuning in ("last_layers", "layer_decay", "lora")
        after, epochs = schedule.unfreeze_after, schedule.max_epochs
        rules = [
            (
                needs_layers and not has_layers,
                f"tuning: received {self.tuning!r}; allowed: two_stage, probe or full with --architecture "
                f"{architecture}, which has no layers to tell apart",
            ),
            (
                is_new and self.tuning in ("probe", "last_layers", "lora"),
                f"tuning: received {self.tuning!r}; allowed: two_stage, full or layer_decay with "
                "--from_random_weights, because all of a randomly initialized backbone must be trained",
            ),
            (
                self.tuning in UNFREEZE_AFTER and "unfreeze_after" in schedule.given,
                f"unfreeze_after: received {after}; --tuning {self.tuning} sets it to "
                f"{UNFREEZE_AFTER.get(self.tuning)}; leave out one of the two",
            ),
            (
                needs_layers and (after is None or after >= epochs),
                f"unfreeze_after: received {after}; allowed: less than max_epochs (= {epochs}) with --tuning "
                f"{self.tuning}; otherwise no layer would be tuned",
            ),
        ]
        return [problem for wrong, problem in rules if wrong]


def resolved(settings: Any) -> Any:
    """The settings of a mode with the `unfreeze_after` that their tuning fixes: no second stage, or no first one."""
    tuning = settings.tuning.tuning
    return changed(settings, unfreeze_after=UNFREEZE_AFTER[tuning]) if tuning in UNFREEZE_AFTER else settings
