"""Flags and config file → the settings of one mode; all problems are reported at once.

The flags are what the modes declare: a flag that no mode reads cannot exist. No other module reads the config file.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import seqsetvae.cli.config as config_file
from seqsetvae import __version__
from seqsetvae.settings.declare import (
    Problems,
    Setting,
    build,
    convert,
    declared,
    groups_in,
    problems_of_groups,
    recipe,
)
from seqsetvae.settings.groups import RunSettings
from seqsetvae.settings.kinds import OneOf, Several, existing_path
from seqsetvae.settings.old_names import old_name
from seqsetvae.settings.resume import FLAGS, OVERRIDE, RESUMABLE, RESUME, resumed, unused
from seqsetvae.system.environment import program
from seqsetvae.system.errors import InputError

IN_SEVERAL_PROCESSES = *RESUMABLE, "evaluate", "predict", "embed"


class Mode(Protocol):
    """What the file of a mode declares, without importing torch.

    It does it with `run(settings)`, which stands in the module that BODY names, or else in the same file. A mode that
    can resume a run has a second argument, `resume`: the folder of the run.
    """

    HELP: str  # what it does, for --help
    NEEDS: Any  # names of the settings that must not be None
    Settings: Any  # dataclass of the groups of settings that it reads, and its own arguments

    def problems(self, settings: Any) -> list[str]:
        """What is wrong with settings that are allowed one by one; each line begins with `name: `."""


EPILOG = """examples:
  {program} finetune --pretrained_ckpt CKPT --data_dir DIR
  {program} finetune --architecture variable_summaries --from_random_weights --data_dir DIR
  {program} evaluate --ckpt RUN_FOLDER --split test
  {program} predict --ckpt RUN_FOLDER --data_dir DIR --output FILE.csv
  {program} --resume RUN_FOLDER

COMMAND --help lists all flags of a command; --mode COMMAND is the same as COMMAND.
exit status: 0 done; 1 the run failed; 2 bad input; 3 done, but the data (predict) or the metrics (reproduce) differ;
75 stopped by SIGTERM, the run is saved; 130 interrupted (see --resume)"""
MOST_USED = {
    "data_dir": "data folder",
    "pretrained_ckpt": "checkpoint to train from",
    "ckpt": "fine-tuned checkpoint, or the folder of its run",
    "output": "what to write",
    "output_root_dir": "folder for the folders of runs",
    "batch_size": "stays per batch",
    "max_epochs": "maximum number of epochs",
    "resume": "run folder of an interrupted run",
}


def parser(config: ModuleType, modes: Mapping[str, Mode], name: str | None) -> argparse.ArgumentParser:
    """The command line as --help shows it: all flags of one mode by section, or the modes and the most used flags."""
    known, comments, typed = settings_of(modes), config_file.help_comments(config), program("train_optimized.py")
    if name is None:
        file = getattr(config, "__file__", f"{config.__name__}.py")
        about = f"Default values are read from {file} (or --config FILE); a flag overrides the value for one run."
        known, comments = {flag: known[flag] for flag in MOST_USED}, {}
    else:
        about = f"{modes[name].HELP}\n\nOn the command line, write none for None."
        known = declared(modes[name].Settings) | (FLAGS if name in RESUMABLE else {})
    command = argparse.ArgumentParser(
        prog=typed,
        usage=f"{typed} {name or 'COMMAND'} [--flag VALUE ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=about,
        epilog=EPILOG.format(program=typed) if name is None else None,
    )
    if name is None:
        command.add_argument("--version", action="version", version=f"SeqSetVAE fine-tuning {__version__}")
        listed = command.add_argument_group("commands")
        for mode_name, mode in modes.items():
            listed.add_argument(mode_name, help=mode.HELP.replace("%", "%%"))
    order = {flag: place for place, flag in enumerate(comments)}  # flags without a line come first, switches last
    sections: dict[str, Any] = {}
    for flag in sorted(known, key=lambda flag: (order.get(flag, -1), known[flag].is_switch)) if name else known:
        item = known[flag]
        own = f"Only with {item.only_with}" if item.only_with else "Command line only"
        if name is None:
            section, comment = "most used flags", MOST_USED[flag]
        else:
            section, comment = comments.get(flag, (own, item.help_in(name)))
        if section not in sections:
            sections[section] = command.add_argument_group(section)
        value = getattr(config, flag, item.default if item.in_config else MISSING)
        default = "" if value is MISSING or (name is None and value is None) else f" (default: {value})"
        how: dict[str, Any] = {"nargs": "?", "const": "true"} if item.is_switch else {}
        if isinstance(item.kind, Several):
            how = {"nargs": "*" if item.kind.may_be_empty else "+"}
        text = (comment + default).replace("%", "%%")
        sections[section].add_argument(f"--{flag}", help=text, metavar=item.kind.metavar, **how)
    return command


def settings_of(modes: Mapping[str, Mode]) -> dict[str, Setting]:
    """Every setting of every mode, by name."""
    all_settings = {"mode": Setting(OneOf(lambda: modes), None, in_config=False, default=MISSING)}
    # --config is read before all others.
    all_settings[config_file.FLAG] = Setting(existing_path(), None, in_config=False, default=MISSING)
    all_settings |= FLAGS
    for mode in modes.values():
        all_settings |= {name: item for name, item in declared(mode.Settings).items() if name not in all_settings}
    return all_settings


@dataclass(frozen=True)
class Call:
    """A mode and its settings."""

    mode: Mode
    settings: Any
    resume: Path | None = None

    def run(self) -> Any:
        body: Any = import_module(self.mode.BODY) if hasattr(self.mode, "BODY") else self.mode
        return body.run(self.settings, **({} if self.resume is None else {"resume": self.resume}))


def resolve(config: ModuleType, argv: Sequence[str], modes: Mapping[str, Mode]) -> Call:
    """The mode and the settings of this call: the config file's values, overridden by the flags.

    Raises:
        InputError: lists every problem with its name, the received value and the allowed ones.
    """
    known, problems = settings_of(modes), Problems()
    has_mode = any(word.split("=")[0] in ("--mode", f"--{RESUME}") for word in argv)
    is_mode = bool(argv) and (argv[0] in modes or not (has_mode or _FLAG.match(argv[0])))  # without --mode
    first = argv[0] if is_mode else None
    given = _flags(argv if first is None else ["--mode", *argv], known, problems)
    for word in argv:
        if word in ("-h", "--help", "--version"):
            name = given.get("mode") if word != "--version" else None
            parser(config, modes, name if name in modes else None).parse_args([word])  # prints and ends the process
    if first is not None and given["mode"] != first:
        problems.add(f"mode: received {given['mode']!r} and the command {first!r}; leave out --mode", "mode")
    if RESUME in given:
        return Call(*resumed(given, modes, problems))
    if OVERRIDE in given:
        problems.add("override: it changes settings of a resumed run; it needs --resume RUN", OVERRIDE)
    in_config = _config_values(config, known, given, problems)
    received = in_config | given
    mode = modes.get(given.get("mode", ""))
    known |= {} if mode is None else declared(mode.Settings, received)  # two architectures may share a name
    values = convert(received, known, problems)
    # A default replaces a wrong value, so that the others can be checked.
    shipped = {name: item.default for name, item in known.items() if item.default is not MISSING}
    usable = shipped | convert(in_config, known, Problems()) | values
    changed = {name for name in in_config.keys() & shipped.keys() if usable[name] != shipped[name]}
    chosen = dict.fromkeys(changed, f"{config.__name__}.py") | {name: f"--{name}" for name in given}
    if mode is None:
        problems.add_consequences([f"mode: not given; allowed: {known['mode'].kind.allowed}"])
        for other in modes.values():
            problems.add_consequences(problems_of_groups(_build(other, usable, chosen)))
        raise problems.error()
    problems.add_consequences(unused(given, received, mode, modes, given["mode"]))
    settings = _build(mode, usable, chosen)
    if settings is not None:
        broken_rules = [
            *problems_of_groups(settings),
            *_one_process(given["mode"], settings),
            *_needed(given["mode"], mode, usable, known),
        ]
        problems.add_consequences(broken_rules + mode.problems(settings))
    if problems.lines:
        raise problems.error()
    return Call(mode, settings)


# A flag, or one that was meant: word processors turn hyphens into dashes, and other programs use one hyphen.
_FLAG = re.compile(r"[-\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}]{1,2}(?=[A-Za-z_])")


def _flags(argv: Sequence[str], known: Mapping[str, Setting], problems: Problems) -> dict[str, Any]:
    """The value of each flag, a list where it takes several; argparse would stop at the first mistake."""
    given: dict[str, Any] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        if not _FLAG.match(word):
            problems.add(f"{word!r}: a value without a flag; put a flag before it or remove it")
            continue
        name = flag.removeprefix("--")
        takes_several = name in known and isinstance(known[name].kind, Several)
        values = [value] if equals else []
        while not equals and words and not _FLAG.match(words[0]) and (takes_several or not values):
            values.append(words.pop(0))
        if name not in known:
            meant, text = _similar_setting(_FLAG.sub("", flag, count=1).replace("-", "_"), known, "--")
            problems.add(f"{word}: no such flag{text}", meant)
        elif takes_several and (values or getattr(known[name].kind, "may_be_empty", False)):
            given[name] = [*given.get(name, []), *values]  # the flag may also be repeated
        elif values:
            given[name] = values[0]
        elif known[name].is_switch:
            given[name] = "true"
        else:
            problems.add(f"{name}: --{name} was given without a value", name)
    return given


def _config_values(
    config: ModuleType, known: Mapping[str, Setting], given: Mapping[str, str], problems: Problems
) -> dict[str, Any]:
    """The settings in the config module. Raises InputError if it has none: one problem instead of one for each."""
    values = {name: getattr(config, name) for name, item in known.items() if item.in_config and hasattr(config, name)}
    file = f"{config.__name__}.py"
    if not values:
        raise InputError(f"{file}: contains no settings. {config_file.RESTORE}")
    for name in vars(config):
        if not name.startswith("_") and name in known.keys() - values.keys():
            problems.add(f"{name}: is a flag and no line of {file}; remove the line and pass --{name}", name)
        elif not name.startswith("_") and name not in values:
            meant, text = _similar_setting(name, known)
            problems.add(f"{name}: no such setting (in {file}){text}", meant)
    for name, lines in config_file.repeated_settings(config).items():
        listed = ", ".join(map(str, lines))
        problems.add(f"{name}: set in lines {listed} of {file}, of which the last would hold; keep one of them", name)
    for name, item in known.items():
        if item.is_config_line and name not in values.keys() | given.keys() | problems.settings:
            problems.add(f"{name}: missing in {file}; add a line such as {name} = ...")
    return values


def _similar_setting(name: str, known: Iterable[str], before: str = "") -> tuple[str | None, str]:
    """The setting that is meant by a name that is none, and the end of a line that says so."""
    old = old_name(name)
    if old is not None:
        return old.setting, f"; {old.text} (docs/moving.md)"
    meant = next(iter(difflib.get_close_matches(name, [*known, "help", "version"], n=1)), None)
    return meant, f"; did you mean {before}{meant}?" if meant else "; COMMAND --help lists all"


def _build(mode: Mode, values: Mapping[str, Any], chosen: Mapping[str, str]) -> Any:
    """The settings of a mode; None if a line of the config file is missing.

    What the user left as shipped is replaced by what the selected modules, such as an architecture, recommend.
    """
    known = declared(mode.Settings, values).keys()
    advised = recipe(mode.Settings, values, known)
    left = known - chosen.keys()
    advised = {name: value for name, value in advised.items() if name in left}
    return build(mode.Settings, {**values, **advised}, chosen) if values.keys() >= known else None


def processes_of(settings: Any) -> tuple[int, int]:
    """(devices, num_nodes) of the settings of a mode."""
    counts = [(group.devices, group.num_nodes) for group in groups_in(settings) if isinstance(group, RunSettings)]
    return counts[0] if counts else (1, 1)


def _one_process(name: str, settings: Any) -> list[str]:
    """Only these modes share their work among several processes."""
    devices, num_nodes = processes_of(settings)
    if name in IN_SEVERAL_PROCESSES or (devices or 1) * (num_nodes or 1) == 1:
        return []
    several, number = ("devices", devices) if devices > 1 else ("num_nodes", num_nodes)
    return [
        f"{several}: received {number}; allowed: 1 with --mode {name}, which runs in one process; pass --{several} 1"
    ]


def _needed(name: str, mode: Mode, values: Mapping[str, Any], known: Mapping[str, Setting]) -> list[str]:
    """Settings that the mode needs and that have no value."""
    return [
        f"{needed}: not given; --mode {name} needs --{needed}"
        + (f" (or {needed} in the config file)" if known[needed].in_config else "")
        for needed in mode.NEEDS
        if values[needed] is None
    ]
