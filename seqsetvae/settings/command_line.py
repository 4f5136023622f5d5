"""Flags and config file → the settings of one mode; all problems are reported at once.

The flags are what the modes declare: a flag that no mode reads cannot exist. No other module reads the config file.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from types import ModuleType
from typing import Any, NoReturn, Protocol

from seqsetvae import __version__
from seqsetvae.errors import InputError
from seqsetvae.settings import config_file
from seqsetvae.settings.declare import Setting, build, declared, groups_in
from seqsetvae.settings.kinds import NotAllowedError, OneOf, Several


class Mode(Protocol):
    """What the file of a mode declares."""

    @property
    def HELP(self) -> str:  # noqa: N802
        """What it does, for --help."""

    @property
    def NEEDS(self) -> Sequence[str]:  # noqa: N802
        """Settings that must not be None."""

    @property
    def Settings(self) -> type:  # noqa: N802
        """The groups of settings that it reads, and its own arguments."""

    def problems(self, settings: Any) -> list[str]:
        """What is wrong with settings that are allowed one by one; each line begins with `name: `."""

    def run(self, settings: Any) -> Any:
        """Do it."""


class Parser(argparse.ArgumentParser):
    """A parser that raises InputError, as the rest of the project does, instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; --help lists all flags")


def parser(config: ModuleType, modes: Mapping[str, Mode]) -> argparse.ArgumentParser:
    """The command line: one flag per setting. Values are checked later, together with those of the config file."""
    command = Parser(
        prog="train_optimized.py",
        usage="train_optimized.py --mode MODE [--flag VALUE ...]",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Fine-tune a SeqSetVAE checkpoint on patient records, or pretrain one.\n"
        f"Default values are read from {config.__name__}.py; a flag overrides the value for one run.\n"
        "On the command line, write none for None.",
        epilog="examples:\n"
        "  train_optimized.py --mode finetune --pretrained_ckpt CKPT --data_dir DIR\n"
        "  train_optimized.py --mode pretrain --data_dir DIR\n"
        "  train_optimized.py --mode evaluate --ckpt RUN_FOLDER --split test\n"
        "  train_optimized.py --mode report --runs RUN_FOLDER [RUN_FOLDER ...]\n"
        "  train_optimized.py --mode embed --pretrained_ckpt CKPT --data_dir DIR --split train --output FILE.npz\n"
        "  train_optimized.py --mode demo",
    )
    command.add_argument("--version", action="version", version=f"SeqSetVAE fine-tuning {__version__}")
    comments, known = config_file.comments(config), settings_of(modes)
    order = {name: place for place, name in enumerate(comments)}  # flags without a line come first, switches last
    sections: dict[str, Any] = {}
    for name in sorted(known, key=lambda name: (order.get(name, -1), known[name].is_switch)):
        item = known[name]
        section, comment = comments.get(name, ("Command line only", item.help or ""))
        if section not in sections:
            sections[section] = command.add_argument_group(section)
        value = getattr(config, name, item.default if item.in_config else MISSING)
        default = "" if value is MISSING else f" (default: {value})"
        how: dict[str, Any] = {"nargs": "?", "const": "true"} if item.is_switch else {}
        if isinstance(item.kind, Several):
            how = {"nargs": "+", "action": "extend"}  # the flag may also be repeated
        text = (comment + default).replace("%", "%%")
        sections[section].add_argument(f"--{name}", help=text, metavar=item.kind.metavar, **how)
    return command


def settings_of(modes: Mapping[str, Mode]) -> dict[str, Setting]:
    """Every setting of every mode, by name."""
    help_text = "; ".join(f"{name}: {mode.HELP}" for name, mode in modes.items())
    found = {"mode": Setting(OneOf(lambda: modes), help_text, in_config=False, default=MISSING)}
    for mode in modes.values():
        found |= {name: item for name, item in declared(mode.Settings).items() if name not in found}
    return found


@dataclass(frozen=True)
class Call:
    """A mode and its settings."""

    mode: Mode
    settings: Any

    def run(self) -> Any:
        return self.mode.run(self.settings)


def resolve(config: ModuleType, argv: Sequence[str], modes: Mapping[str, Mode]) -> Call:
    """The mode and the settings of this call: the config file's values, overridden by the flags.

    Raises:
        InputError: lists every problem with its name, the received value and the allowed ones.
    """
    known = settings_of(modes)
    words, unknown = _take_out_unknown_flags(argv, known)
    words, without_value = _take_out_flags_without_value(words, known)
    flags, stray = parser(config, modes).parse_known_args(words)
    given, in_config = vars(flags), _config_values(config, known)
    received = in_config | given
    surplus = [name for name in vars(config) if not name.startswith("_") and name not in in_config]
    misspelled = {_closest(name, known) for name in [*map(_flag_name, unknown), *surplus]}
    problems = [f"{word}: no such flag{_suggestion(_flag_name(word), known, '--')}" for word in unknown]
    problems += [f"{name}: --{name} was given without a value" for name in without_value]
    problems += [f"{word!r}: a value without a flag; put a flag before it or remove it" for word in stray]
    problems += [f"{name}: no such setting (in {config.__name__}.py){_suggestion(name, known)}" for name in surplus]
    problems += [
        f"{name}: missing in {config.__name__}.py; add a line such as {name} = ..."
        for name, item in known.items()
        if item.is_config_line and name not in received and name not in misspelled
    ]
    mode = modes.get(given.get("mode", ""))
    known |= {} if mode is None else declared(mode.Settings, received)  # two architectures may share a name
    values = _convert(received, known, problems)
    # A default replaces a wrong value, so that the others can be checked.
    usable = _defaults(known) | _convert(in_config, known, []) | values
    chosen = _chosen(given, in_config, usable, known, f"{config.__name__}.py")
    reported = (received.keys() - values.keys()) | misspelled | {*without_value}  # one problem for each mistake
    found = [] if "mode" in received else [f"mode: not given; allowed: {known['mode'].kind.allowed}"]
    found += [] if mode is None else _unused(given, received, mode, modes)
    for each in modes.values() if mode is None else [mode]:
        if usable.keys() >= declared(each.Settings, usable).keys():  # else a line of the config file is missing
            settings: Any = build(each.Settings, usable, chosen)
            found += [line for group in groups_in(settings) if hasattr(group, "problems") for line in group.problems()]
            if each is mode:
                found += _needed(given["mode"], mode, usable, known) + mode.problems(settings)
    problems += [line for line in dict.fromkeys(found) if line.split(":")[0] not in reported]
    if problems or mode is None:
        raise _report(problems)
    return Call(mode, settings)


def _config_values(config: ModuleType, known: Mapping[str, Setting]) -> dict[str, Any]:
    """The settings in the config module. Raises InputError if it has none: one problem instead of one for each."""
    values = {name: getattr(config, name) for name, item in known.items() if item.in_config and hasattr(config, name)}
    if not values:
        raise InputError(
            f"{config.__name__}.py: contains no settings. Restore the config file that came with train_optimized.py."
        )
    return values


def _defaults(known: Mapping[str, Setting]) -> dict[str, Any]:
    return {name: item.default for name, item in known.items() if item.default is not MISSING}


def _chosen(
    given: Mapping[str, str],
    in_config: Mapping[str, Any],
    values: Mapping[str, Any],
    known: Mapping[str, Setting],
    config_file: str,
) -> dict[str, str]:
    """Where the user chose a setting: its flag, or the config file if the value there is not as shipped."""
    shipped = _defaults(known)
    changed = {name for name in in_config.keys() & shipped.keys() if values[name] != shipped[name]}
    return dict.fromkeys(changed, config_file) | {name: f"--{name}" for name in given}


# A flag, or one that was meant: word processors turn hyphens into dashes, and other programs use one hyphen.
_FLAG = re.compile(r"[-\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}]{1,2}[A-Za-z_]")


def _take_out_unknown_flags(words: Sequence[str], known: Iterable[str]) -> tuple[list[str], list[str]]:
    """(words without unknown flags and their values, unknown flags): argparse would report the value separately."""
    flags = {"-h", "--help", "--version", *(f"--{name}" for name in known)}
    kept: list[str] = []
    unknown: list[str] = []
    after_unknown = False
    for word in words:
        is_flag = _FLAG.match(word) is not None
        if is_flag and word.split("=")[0] not in flags:
            unknown.append(word)
            after_unknown = "=" not in word
        else:
            if is_flag or not after_unknown:
                kept.append(word)
            after_unknown = False
    return kept, unknown


def _take_out_flags_without_value(words: Sequence[str], known: Mapping[str, Setting]) -> tuple[list[str], list[str]]:
    """(words without flags that lack their value, names of those flags): argparse would stop at the first."""
    needs_value = {f"--{name}" for name, item in known.items() if not item.is_switch}
    ends = {at for at in range(len(words)) if at + 1 == len(words) or _FLAG.match(words[at + 1])}
    lacking = [at for at in sorted(ends) if words[at] in needs_value]
    kept = [word for at, word in enumerate(words) if at not in lacking]
    return kept, [words[at].removeprefix("--") for at in lacking]


def _flag_name(word: str) -> str:
    """The name in a flag: `--batch-size=8` gives batch_size."""
    return _FLAG.sub(lambda match: match[0][-1], word).split("=")[0].replace("-", "_")


def _closest(name: str, known: Iterable[str]) -> str | None:
    """The setting whose name is most like this one."""
    return next(iter(difflib.get_close_matches(name, [*known, "help", "version"], n=1)), None)


def _suggestion(name: str, known: Iterable[str], before: str = "") -> str:
    close = _closest(name, known)
    return f"; did you mean {before}{close}?" if close else "; --help lists all"


def _unused(given: Mapping[str, str], received: Mapping[str, Any], mode: Mode, modes: Mapping[str, Mode]) -> list[str]:
    """Flags that were given and would have no effect."""
    read, read_with_others = declared(mode.Settings, received), declared(mode.Settings)
    problems = []
    for name in given:
        readers = [each for each in modes if name in declared(modes[each].Settings)]
        if name == "mode" or name in read:
            continue
        where = f"--mode {given['mode']} does not use it (used by {', '.join(readers)})"
        if name in read_with_others:
            where = f"it is used only with {read_with_others[name].only_with}"
        problems.append(f"{name}: received {_shown(given[name])}; {where}; leave out --{name}")
    return problems


def _needed(name: str, mode: Mode, values: Mapping[str, Any], known: Mapping[str, Setting]) -> list[str]:
    """Settings that the mode needs and that have no value."""
    return [
        f"{needed}: not given; --mode {name} needs --{needed}"
        + (f" (or {needed} in the config file)" if known[needed].in_config else "")
        for needed in mode.NEEDS
        if values[needed] is None
    ]


def _convert(received: Mapping[str, Any], known: Mapping[str, Setting], problems: list[str]) -> dict[str, Any]:
    """Values in the types of the settings; a value that is not allowed is added to `problems` instead."""
    values = {}
    for name, value in received.items():
        kind = known[name].kind
        try:
            values[name] = kind.convert(value)
        except (ValueError, TypeError, OverflowError) as error:
            reason = f", {error}" if isinstance(error, NotAllowedError) else ""
            problems.append(f"{name}: received {_shown(value)}{reason}; allowed: {kind.allowed}")
    return values


def _shown(received: Any) -> str:
    """A value as it was given: the words of a flag that takes several are one text."""
    words = isinstance(received, list) and all(isinstance(word, str) for word in received)
    return repr(" ".join(received) if words else received)


def _report(problems: list[str]) -> InputError:
    count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
    return InputError("\n  ".join([f"{count} with the settings, nothing was read or written:", *problems]))
