"""`--resume RUN`: the settings of a resumed run are those in its config.json.

A flag that names another value is refused, unless `--override` names the setting too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from seqsetvae.settings.declare import Problems, Setting, build, convert, declared, problems_of_groups, shown
from seqsetvae.settings.kinds import Several, existing_path, exists, optional, text
from seqsetvae.settings.old_names import current
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import read_json

CONFIG = "config.json"
CHECKSUM = "settings_checksum"  # in config.json: of its settings, so that a change by hand is noticed
CHOSEN = "chosen_settings"  # there: names of those that the user chose, which a default for few stays does not replace
RESUME, OVERRIDE = "resume", "override"
FLAGS = {
    RESUME: Setting(
        optional(existing_path()),
        "folder of an interrupted run of finetune or pretrain, which resumes from its last.ckpt with its settings",
        in_config=False,
        default=None,
    ),
    OVERRIDE: Setting(
        Several(text()),
        "with --resume: names of settings that change from here on, to the values of their flags",
        in_config=False,
        default=None,
    ),
}
RESUMABLE = "finetune", "pretrain"
# What may change between two processes of a run. All else would make it another run, or move its position in an epoch.
CAN_CHANGE = frozenset(
    {
        *("data_dir", "params_map_path", "label_path", "embeddings_path", "pretrained_ckpt", "output_root_dir"),
        *("lr", "cls_head_lr", "pretrain_lr", "min_lr", "lr_factor", "lr_patience", "warmup_steps", "weight_decay"),
        *("max_epochs", "es_patience", "gradient_clip_val", "save_every_minutes"),
        *("num_workers", "devices", "num_nodes", "accelerator", "deterministic", "compile_model"),
        "loggers",
    }
)


def resumed(given: dict[str, Any], modes: Mapping[str, Any], problems: Problems) -> tuple[Any, Any, Path]:
    """(mode, settings, run folder) of a call with --resume and these flags.

    Raises:
        InputError: lists every problem.
    """
    folder, recorded, chosen = _recorded(given.pop(RESUME))
    override, name = given.pop(OVERRIDE, []), recorded.pop("mode")
    if name not in RESUMABLE:
        raise InputError(f"resume: {folder} is of mode {name!r}; only runs of {' and '.join(RESUMABLE)} can be resumed")
    mode, wanted = modes[name], given.pop("mode", name)
    if wanted != name:
        problems.add(f"mode: received {wanted!r}; {folder} is a run of mode {name!r}; leave out --mode", "mode")
    problems.add_consequences(unused(given, recorded, mode, modes, name))
    known = declared(mode.Settings, recorded)
    flags = convert({flag: value for flag, value in given.items() if flag in known}, known, problems)
    kept = {flag: value for flag, value in recorded.items() if flag in known and flag not in {*override} & flags.keys()}
    values = convert(kept, known, problems)
    before = convert({flag: recorded.get(flag) for flag in flags}, known, Problems())
    problems.add_consequences(_changes(before, flags, override, folder))
    if not problems.lines:
        shipped = {flag: item.default for flag, item in known.items() if item.default is not MISSING}
        by_user = dict.fromkeys(chosen, str(folder / CONFIG)) | {flag: f"--{flag}" for flag in flags}
        settings = build(mode.Settings, shipped | values | flags, by_user)
        problems.add_consequences([*problems_of_groups(settings), *mode.problems(settings)])
    if problems.lines:
        raise problems.error()
    return mode, settings, folder


def _recorded(received: str) -> tuple[Path, dict[str, Any], list[str]]:
    """The run folder of --resume; the settings in its config.json, with the mode; and those that the user chose.

    Raises:
        InputError: it is not the folder of a training run.
    """
    folder = Path(received).expanduser()
    if not exists(folder / CONFIG):
        raise InputError(f"resume: received {received!r}; allowed: an existing run folder, which holds {CONFIG}")
    config = read_json(folder / CONFIG)
    recorded = config.get("settings")
    if not isinstance(recorded, dict) or not isinstance(recorded.get("mode"), str):
        raise InputError(f"resume: {folder / CONFIG} is damaged: it holds no settings")
    if config.get(CHECKSUM, settings_checksum(recorded)) != settings_checksum(recorded):
        raise InputError(
            f"resume: the settings in {folder / CONFIG} are not those that the run wrote (their checksum differs). Put "
            "back what was there; a setting is changed on purpose with its flag and --override, for example "
            "--max_epochs 30 --override max_epochs"
        )
    chosen = config.get(CHOSEN, [])  # earlier versions did not record it
    if not isinstance(chosen, list) or not all(isinstance(name, str) for name in chosen):
        raise InputError(f"resume: {folder / CONFIG} is damaged: {CHOSEN!r} is no list of names")
    return folder, current(recorded, folder / CONFIG), chosen


def settings_checksum(settings: Mapping[str, Any]) -> str:
    """Checksum of settings as config.json holds them."""
    text = json.dumps(json.loads(json.dumps(settings)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _changes(
    recorded: Mapping[str, Any], given: Mapping[str, Any], override: Collection[str], folder: Path
) -> list[str]:
    """A line for every given setting that is not as recorded and may not change, or is not named by --override."""
    changes = {name: value for name, value in given.items() if value != recorded.get(name)}
    problems = [
        f"override: received {name!r}, but --{name} gives it no other value; add --{name} VALUE, or leave out {name!r}"
        for name in override
        if name not in changes
    ]
    for name, value in changes.items():
        line = f"{name}: received {_plain(value)!r}; the run in {folder} has {_plain(recorded.get(name))!r}"
        if name not in CAN_CHANGE:
            problems.append(f"{line}, and it cannot change within a run; leave out --{name}, or start a new run")
        elif name not in override:
            problems.append(f"{line}; leave out --{name}, or change it on purpose with --override {name}")
    return problems


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def unused(
    given: Mapping[str, str], received: Mapping[str, Any], mode: Any, modes: Mapping[str, Any], name_of_mode: str
) -> list[str]:
    """Flags that were given and would have no effect."""
    read, read_with_others = declared(mode.Settings, received), declared(mode.Settings)
    problems = []
    for name in [name for name in given if name not in {"mode", RESUME, OVERRIDE, *read}]:
        readers = ", ".join(mode_name for mode_name in modes if name in declared(modes[mode_name].Settings))
        where = f"--mode {name_of_mode} does not use it (used by {readers})"
        if name in read_with_others:
            where = f"it is used only with {read_with_others[name].only_with}"
        problems.append(f"{name}: received {shown(given[name])}; {where}; leave out --{name}")
    return problems
