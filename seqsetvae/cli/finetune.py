"""Fine-tune: a two-layer head on a backbone that is first frozen, then unfrozen; monitors val_auc."""

from __future__ import annotations

from dataclasses import dataclass

from seqsetvae.models import ARCHITECTURES, ArchitectureSettings, SummariesSettings
from seqsetvae.settings import groups
from seqsetvae.settings.declare import argument
from seqsetvae.settings.groups import min_lr_problems
from seqsetvae.settings.kinds import BOOLEAN
from seqsetvae.settings.tuning import TuningSettings, resolved
from seqsetvae.tasks import TaskSettings

HELP = "train a head on a backbone, pretrained or new, to predict labels of stays"
NEEDS = ("data_dir",)
BODY = "seqsetvae.runs.finetune"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What fine-tuning reads."""

    from_random_weights: bool = argument(
        BOOLEAN,
        "train a randomly initialized backbone instead of --pretrained_ckpt; seqsetvae then needs --unfreeze_after 0",
        default=False,
    )
    pretrained: groups.PretrainedSettings
    data: groups.DataSettings
    values: groups.ValueSettings
    loader: groups.LoaderSettings
    architecture: ArchitectureSettings
    beside: SummariesSettings
    task: TaskSettings
    head: groups.HeadSettings
    loss: groups.LossSettings
    trees: groups.TreeSettings
    rates: groups.FinetuningRates
    tuning: TuningSettings
    optimizer: groups.OptimizerSettings
    schedule: groups.FinetuningSchedule
    loggers: groups.LoggerSettings
    run: groups.RunSettings


def problems(settings: Settings) -> list[str]:
    """Rules of fine-tuning."""
    pretrained, after = settings.pretrained, resolved(settings).schedule.unfreeze_after
    random, size = settings.from_random_weights, settings.loader.batch_size
    uses_trees, name = settings.trees.beside_network, settings.architecture.architecture
    has_table = settings.beside.summaries or "table" in ARCHITECTURES[name].OFFERS
    several = settings.run.devices * settings.run.num_nodes > 1
    rules = [
        (
            not random and pretrained.pretrained_ckpt is None,
            "pretrained_ckpt: not given; --mode finetune needs --pretrained_ckpt (or --from_random_weights, to train "
            "without a pretrained checkpoint as a baseline)",
        ),
        (
            random and (pretrained.pretrained_ckpt is not None or pretrained.allow_partial_backbone),
            "from_random_weights: received together with pretrained_ckpt or allow_partial_backbone; it does not read a "
            "checkpoint, so leave out either it or the other two",
        ),
        (
            random and after != 0,
            f"unfreeze_after: received {after}; allowed: 0 with --from_random_weights, because a randomly initialized "
            "backbone must be trained from the start",
        ),
        (
            uses_trees and not has_table,
            "tree_models: allowed: 0 with this architecture, which computes no table of summaries; try "
            "--architecture variable_summaries, or --summaries beside this one",
        ),
        (
            settings.trees.average in ("folds", "trees") and not has_table,
            f"average: received {settings.trees.average}; this architecture has nothing beside its network; try "
            "--architecture variable_summaries, or --summaries beside this one",
        ),
        (
            settings.trees.average == "trees" and settings.trees.tree_models == 0,
            "average: received trees; allowed with --tree_models 1 or more",
        ),
        (
            uses_trees and after != 0 and not settings.beside.summaries,
            f"unfreeze_after: received {after}; allowed: 0 with --tree_models",
        ),
        (
            uses_trees and several and settings.trees.average == "folds",
            "average: received folds; allowed with one process, which trains the networks that the weights are chosen "
            "by. Pass --average fixed or trees with several.",
        ),
        (
            size < 4,
            f"batch_size: received {size}; allowed: 4 or more for fine-tuning, because smaller batches often have no "
            "positive stay (max_events_per_batch limits memory)",
        ),
    ]
    broken_rules = [problem for wrong, problem in rules if wrong] + min_lr_problems(settings.schedule, settings.rates)
    broken_rules += settings.beside.problems_with(name)
    has_layers = "layers" in ARCHITECTURES[name].OFFERS
    broken_rules += settings.tuning.problems_with(settings.schedule, name, has_layers=has_layers, is_new=random)
    broken_rules += settings.task.problems_with(settings.data, settings.loss)
    return broken_rules + (
        settings.architecture.problems_of_new_model(settings.values.value_transform) if random else []
    )
