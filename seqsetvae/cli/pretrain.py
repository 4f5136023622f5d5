"""Pretrain: train the checkpoint that fine-tuning needs, or continue training one."""

from __future__ import annotations

from dataclasses import dataclass

from seqsetvae.models import ArchitectureSettings
from seqsetvae.objectives import OBJECTIVES, ObjectiveSettings
from seqsetvae.settings import groups
from seqsetvae.settings.groups import min_lr_problems

HELP = "train a backbone without labels"
NEEDS = ("data_dir",)
BODY = "seqsetvae.runs.pretrain"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What pretraining reads."""

    pretrained: groups.PretrainedSettings
    data: groups.DataSettings
    values: groups.ValueSettings
    loader: groups.LoaderSettings
    architecture: ArchitectureSettings
    objective: ObjectiveSettings
    rate: groups.PretrainingRate
    optimizer: groups.OptimizerSettings
    schedule: groups.ScheduleSettings
    loggers: groups.LoggerSettings
    run: groups.RunSettings


def problems(settings: Settings) -> list[str]:
    """Rules of pretraining."""
    is_new, chosen = settings.pretrained.pretrained_ckpt is None, settings.architecture
    broken_rules = chosen.problems_of_new_model(settings.values.value_transform) if is_new else []
    return (
        broken_rules
        + min_lr_problems(settings.schedule, settings.rate)
        + objective_problems(settings.objective, chosen)
    )


def objective_problems(objective: ObjectiveSettings, architecture: ArchitectureSettings) -> list[str]:
    """Whether the objective can train the architecture, in a line if not."""
    trains, name = OBJECTIVES[objective.objective].TRAINS, architecture.architecture
    if trains is None or name in trains:
        return []
    others = [other for other, each in OBJECTIVES.items() if each.TRAINS is None or name in each.TRAINS]
    instead = f"; pass --objective {others[0]}" if others else ""
    listed = ", ".join(sorted(trains))
    return [f"objective: received {objective.objective!r}; it trains only {listed}, not {name}{instead}"]
