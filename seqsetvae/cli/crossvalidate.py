"""Cross-validate: fine-tune on all folds but one, predict that one, and compare with baselines on the same folds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from seqsetvae.cli.finetune import Settings as Finetuning
from seqsetvae.cli.finetune import problems as problems_of_finetuning
from seqsetvae.cli.pretrain import Settings as Pretraining
from seqsetvae.cli.pretrain import problems as problems_of_pretraining
from seqsetvae.objectives import ObjectiveSettings
from seqsetvae.settings import groups
from seqsetvae.settings.declare import argument, changed, declared, problems_of_groups
from seqsetvae.settings.kinds import Several, integer, number, optional, text
from seqsetvae.settings.tuning import TUNINGS

HELP = "fine-tune and predict fold by fold, beside boosted trees and logistic regression"
NEEDS = ("data_dir",)
BODY = "seqsetvae.runs.crossvalidate"


# Settings that a sweep cannot vary: one cohort is opened, on one device, and others exist with one architecture alone.
NOT_IN_SWEEPS = {
    *(declared(groups.DataSettings).keys() - {"max_sets"}),
    *declared(groups.PretrainedSettings),
    *declared(groups.RunSettings),
    *declared(groups.LoggerSettings),
    *("from_random_weights", "architecture", "preset", "summaries", "task"),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What cross-validation reads: all of fine-tuning, and the folds."""

    folds: int = argument(
        integer(1),
        "number of folds, stratified by a label of 0 and 1, the stays of a patient in one fold (default: 5); 1: the "
        "train and valid splits of the data",
        default=5,
    )
    seeds: int = argument(
        integer(1), "trainings in each fold, with the seeds seed, seed + 1, ... (default: 1)", default=1
    )
    tunings: tuple[str, ...] | None = argument(
        Several(TUNINGS), "short for --sweep tuning=A,B: ways of tuning to compare on the same folds"
    )
    sweep: tuple[str, ...] | None = argument(
        Several(text()),
        "settings of fine-tuning to vary, such as lr=1e-5,5e-5 tuning=probe,lora; every combination is "
        "trained on the same folds and seeds, and compared with the first",
    )
    repeats: int = argument(
        integer(1), "number of partitions into folds, each with seeds of its own (default: 1)", default=1
    )
    partition_seed: int = argument(integer(0), "seed of the first partition into folds (default: 0)", default=0)
    train_fraction: float = argument(
        number(0, 1, above=True),
        "share of the training patients of each fold whose stays are used, the models' labels (default: 1)",
        default=1.0,
    )
    pretrain_epochs: int = argument(
        integer(0),
        "epochs of pretraining before fine-tuning, on all training stays of a fold whatever "
        "train_fraction (default: 0, none)",
        default=0,
    )
    pretrain_batch_size: int | None = argument(
        optional(integer(1)),
        "stays per batch of pretraining, which has more stays than fine-tuning where train_fraction is "
        "small (default: batch_size)",
    )
    objective: ObjectiveSettings
    rate: groups.PretrainingRate
    baselines: groups.BaselineSettings
    output: groups.OutputSettings
    finetuning: Finetuning


def problems(settings: Settings) -> list[str]:
    """The rules of fine-tuning in each combination, and of pretraining where there is any."""
    finetuning = settings.finetuning
    if len(set(settings.tunings or ())) < len(settings.tunings or ()):
        return [f"tunings: received {' '.join(settings.tunings or ())}; name each way of tuning once"]
    broken_rules = list(_problems_of_sweep(settings))
    if broken_rules:
        return broken_rules
    own_checkpoint = finetuning.from_random_weights or finetuning.pretrained.pretrained_ckpt is not None
    if settings.pretrain_epochs and own_checkpoint:
        return [
            f"pretrain_epochs: received {settings.pretrain_epochs} together with from_random_weights or "
            "pretrained_ckpt; leave these out, because each fold is then fine-tuned from a checkpoint of its own"
        ]
    for combination in combinations(settings).values():
        broken_rules += problems_of_groups(combination)
        if settings.pretrain_epochs:
            broken_rules += problems_of_pretraining(pretraining(settings, combination))
            combination = changed(combination, pretrained_ckpt=Path())
        broken_rules += problems_of_finetuning(combination)
    return list(dict.fromkeys(broken_rules))


def _problems_of_sweep(settings: Settings) -> Iterator[str]:
    """What is wrong with --sweep itself, a line each."""
    known, seen = _can_vary(settings), {"tuning"} if settings.tunings else set()
    for item in settings.sweep or ():
        name, _, listed = item.partition("=")
        if name not in known:
            yield (
                f"sweep: received {item!r}; allowed: NAME=VALUE,VALUE with a setting of fine-tuning other than those "
                "of data, checkpoint, architecture, task and device"
            )
            continue
        try:
            values = [known[name].convert(value) for value in listed.split(",")]
        except (ValueError, TypeError, OverflowError):
            yield f"sweep: received {item!r}; allowed as {name}: {known[name].allowed}"
            continue
        if name in seen or len(set(values)) < len(values):
            yield f"sweep: received {item!r}; name each setting and each value once"
        seen.add(name)


def _can_vary(settings: Settings) -> dict[str, Any]:
    """The kinds of the settings that a sweep can vary, by name."""
    chosen = {"architecture": settings.finetuning.architecture.architecture}
    known = declared(Finetuning, chosen).items()
    return {name: item.kind for name, item in known if name not in NOT_IN_SWEEPS}


def varied(settings: Settings) -> dict[str, tuple[Any, ...]]:
    """The values of each setting that is varied; of tuning its one value where nothing is."""
    values_of: dict[str, tuple[Any, ...]] = {} if settings.tunings is None else {"tuning": settings.tunings}
    for name, _, listed in (item.partition("=") for item in settings.sweep or ()):
        values_of[name] = tuple(_can_vary(settings)[name].convert(value) for value in listed.split(","))
    return values_of or {"tuning": (settings.finetuning.tuning.tuning,)}


def combinations(settings: Settings) -> dict[str, Finetuning]:
    """The settings of fine-tuning for each combination of varied values, by a name such as "probe, lr=1e-05"."""
    names, settings_of = varied(settings), {}
    by = "--sweep" if settings.sweep else None
    for values in product(*names.values()):
        pairs = dict(zip(names, values, strict=True))
        label = ", ".join(value if name == "tuning" else f"{name}={value}" for name, value in pairs.items())
        settings_of[label] = changed(settings.finetuning, by, **pairs)
    return settings_of


def is_sweep(settings: Settings) -> bool:
    """Whether there may be several trainings in a fold, each of which then has a file of its own."""
    return bool(settings.tunings or settings.sweep) or settings.seeds > 1


def pretraining(settings: Settings, finetuning: Finetuning) -> Pretraining:
    """The settings of pretraining within a fold."""
    schedule = finetuning.schedule
    return Pretraining(
        pretrained=finetuning.pretrained,
        data=finetuning.data,
        values=finetuning.values,
        loader=replace(finetuning.loader, batch_size=settings.pretrain_batch_size or finetuning.loader.batch_size),
        architecture=finetuning.architecture,
        objective=settings.objective,
        rate=settings.rate,
        optimizer=finetuning.optimizer,
        schedule=groups.ScheduleSettings(
            max_epochs=settings.pretrain_epochs,
            warmup_steps=schedule.warmup_steps,
            min_lr=schedule.min_lr,
            es_patience=schedule.es_patience,
        ),
        loggers=finetuning.loggers,
        run=finetuning.run,
    )
