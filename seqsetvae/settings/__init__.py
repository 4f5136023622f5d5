"""Config module + flags → one frozen, validated `Settings`; all problems are reported at once.

Settings are read here, once, and passed on as plain values; no other module imports the config module. The help text of
a flag is the comment behind the setting in the config file, so that the two always agree.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import io
import math
import re
import sys
import tokenize
import traceback
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from seqsetvae import __version__
from seqsetvae.errors import InputError

MODES = ("finetune", "pretrain", "evaluate", "embed", "demo")
# Backbone sizes of --preset small, for CPUs: on two cores it trains about six times as fast as the usual sizes.
SMALL = {
    "reduced_dim": 64,
    "latent_dim": 64,
    "levels": 2,
    "heads": 2,
    "m": 8,
    "ff_dim": 128,
    "transformer_heads": 4,
    "transformer_layers": 2,
}
# What the config file holds as shipped (a test compares them). A checkpoint's sizes replace these without an error, but
# a size that the user has changed there must agree with the checkpoint.
SHIPPED: dict[str, Any] = {
    "preset": "full",
    "reduced_dim": 256,
    "latent_dim": 256,
    "levels": 2,
    "heads": 2,
    "m": 16,
    "ff_dim": 512,
    "transformer_heads": 8,
    "transformer_layers": 4,
    "transformer_dropout": 0.1,
}


@dataclass(frozen=True)
class ChosenSizes:
    """Backbone sizes that the user chose with one setting, to be compared with those of a checkpoint."""

    setting: str
    received: Any
    source: str  # where the setting was given: the flag or the config file
    sizes: dict[str, Any]  # one size; several if the setting is the preset
    remedy: str


@dataclass(frozen=True)
class Kind:
    """The values that a setting allows: `convert` takes a config value or a flag's text, and raises ValueError."""

    allowed: str
    convert: Callable[[Any], Any]
    metavar: str  # placeholder of the value in --help


def _bounded(value: float, low: float, high: float, above: bool) -> bool:
    return math.isfinite(value) and (value > low if above else value >= low) and value <= high


def number(low: float, high: float = math.inf, *, above: bool = False) -> Kind:
    """A finite number of at least low (or above it), and at most high."""

    def convert(received: Any) -> float:
        if isinstance(received, bool) or not _bounded(float(received), low, high, above):
            raise ValueError
        return float(received)

    return Kind(f"a number {'above' if above else 'of at least'} {low:g}" + _up_to(high), convert, "X")


def integer(low: int, high: float = math.inf) -> Kind:
    """An integer of at least low and at most high."""

    def convert(received: Any) -> int:
        if isinstance(received, bool | float) or not low <= int(received) <= high:
            raise ValueError
        return int(received)

    return Kind(f"an integer of at least {low}" + _up_to(high), convert, "N")


def _up_to(high: float) -> str:
    return "" if math.isinf(high) else f" and at most {high:g}" if high < 1e6 else f" and at most {high}"


def choice(*names: str, **aliases: str) -> Kind:
    """One of these names; an alias is another spelling of one of them."""

    def convert(received: Any) -> str:
        name = aliases.get(f"_{received}".replace("-", "_"), str(received))
        if name not in names:
            raise ValueError
        return name

    return Kind("one of " + ", ".join(names), convert, "{" + ",".join(names) + "}")


def boolean() -> Kind:
    """True or False; a flag without a value means true."""
    words = {"true": True, "false": False}

    def convert(received: Any) -> bool:
        try:
            return words[str(received).lower()]
        except KeyError:
            raise ValueError from None

    return Kind("true or false", convert, "true|false")


def path() -> Kind:
    return Kind("a path", lambda received: Path(_text(received)).expanduser(), "PATH")


def text() -> Kind:
    return Kind("a non-empty string", _text, "TEXT")


def _text(received: Any) -> str:
    if not isinstance(received, str | Path) or not str(received).strip() or "\0" in str(received):
        raise ValueError
    return str(received)


def optional(kind: Kind) -> Kind:
    """None (on the command line: none), or a value that `kind` allows."""
    return Kind(
        f"{kind.allowed}, or None",
        lambda received: None if received in (None, "none", "None") else kind.convert(received),
        kind.metavar,
    )


def either(first: Kind, second: Kind) -> Kind:
    """A value that one of the two allows."""

    def convert(received: Any) -> Any:
        try:
            return first.convert(received)
        except (ValueError, TypeError):
            return second.convert(received)

    return Kind(f"{first.allowed}, or {second.allowed}", convert, f"{first.metavar}|{second.metavar}")


def _setting(kind: Kind) -> Any:
    """A field whose default and help text are in the config module."""
    return field(metadata={"kind": kind})


def _argument(kind: Kind, help_text: str, default: Any = None) -> Any:
    """A field that is only a flag of the command line and not in the config module."""
    return field(default=default, metadata={"kind": kind, "help": help_text})


MODE_HELP = (
    "finetune: train a classifier on a pretrained checkpoint; pretrain: train a backbone without labels; evaluate: "
    "AUROC and AUPRC of a fine-tuned checkpoint; embed: write latent means and history states to a file; demo: run all "
    "steps on a small synthetic data set"
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a run. The config module gives meaning, unit and reason of each."""

    mode: str = _argument(choice(*MODES), MODE_HELP)
    pretrained_ckpt: Path | None = _argument(
        optional(path()),
        "finetune, embed: pretrained checkpoint; pretrain: checkpoint to continue from; a .ckpt file, or a run folder "
        "(its checkpoints/best.ckpt is used)",
    )
    ckpt: Path | None = _argument(
        optional(path()),
        "evaluate: fine-tuned checkpoint; a run folder (its checkpoints/best.ckpt is used) or a .ckpt file",
    )
    split: str | None = _argument(
        optional(choice("train", "valid", "test")), "evaluate, embed: the split of the data to use"
    )
    output: Path | None = _argument(optional(path()), "embed: the .npz file to write; must not exist yet")
    from_random_weights: bool = _argument(
        boolean(),
        "finetune: train a randomly initialized backbone instead of --pretrained_ckpt, as a baseline; needs "
        "--unfreeze_after 0",
        default=False,
    )
    allow_partial_backbone: bool = _argument(
        boolean(),
        "continue if backbone weights are missing in the checkpoint or have another shape; those weights start random, "
        "and the run's config.json lists them",
        default=False,
    )
    chosen_sizes: tuple[ChosenSizes, ...] = ()  # not a setting: found by `resolve`, for comparison with a checkpoint

    data_dir: Path | None = _setting(optional(path()))
    params_map_path: Path | None = _setting(optional(path()))
    label_path: Path | None = _setting(optional(path()))
    embeddings_path: Path | None = _setting(optional(path()))
    label_name: str | None = _setting(optional(text()))
    skip_bad: bool = _setting(boolean())
    max_sets: int | None = _setting(optional(integer(1)))
    value_clip: float | None = _setting(optional(number(1)))
    min_count: int = _setting(integer(0))
    batch_size: int = _setting(integer(1))
    max_events_per_batch: int = _setting(integer(1))
    num_workers: int = _setting(integer(0))

    preset: str = _setting(choice("full", "small"))
    reduced_dim: int | None = _setting(optional(integer(1)))
    latent_dim: int = _setting(integer(2))
    levels: int = _setting(integer(1))
    heads: int = _setting(integer(1))
    m: int = _setting(integer(1))
    ff_dim: int = _setting(integer(1))
    transformer_heads: int = _setting(integer(1))
    transformer_layers: int = _setting(integer(1))
    transformer_dropout: float = _setting(number(0, 0.9))

    head_pooling: str = _setting(choice("last", "mean", "last_mean"))
    head_hidden: int = _setting(integer(1))
    head_dropout: float = _setting(number(0, 0.9))

    loss: str = _setting(choice("cross_entropy", "focal"))
    class_weight: str | float = _setting(either(choice("none", "balanced"), number(0, above=True)))
    label_smoothing: float = _setting(number(0, 0.9))
    focal_gamma: float = _setting(number(0))
    focal_alpha: float | None = _setting(optional(number(0, 1)))

    cls_head_lr: float = _setting(number(0, above=True))
    lr: float = _setting(number(0, above=True))
    weight_decay: float = _setting(number(0))
    warmup_steps: int = _setting(integer(0))
    gradient_clip_val: float = _setting(number(0, above=True))
    gradient_accumulation_steps: int = _setting(integer(1))

    pretrain_lr: float = _setting(number(0, above=True))
    max_beta: float = _setting(number(0))
    beta_warmup_steps: int = _setting(integer(0))
    free_bits: float = _setting(number(0))

    max_epochs: int = _setting(integer(1))
    unfreeze_after: int | None = _setting(optional(integer(0)))
    lr_factor: float = _setting(number(0, 0.999, above=True))
    lr_patience: int = _setting(integer(0))
    min_lr: float = _setting(number(0))
    es_patience: int = _setting(integer(1))

    output_root_dir: Path = _setting(path())
    seed: int = _setting(integer(0, 2**32 - 1))
    accelerator: str = _setting(choice("auto", "cpu", "gpu"))
    devices: int = _setting(integer(1))
    strategy: str = _setting(choice("auto", "ddp", _ddp_find_unused_parameters_true="ddp"))
    precision: str = _setting(
        choice(
            "32-true",
            "bf16-mixed",
            "16-mixed",
            "64-true",
            _32="32-true",
            _16="16-mixed",
            _bf16="bf16-mixed",
            _64="64-true",
        )
    )
    deterministic: bool = _setting(boolean())
    compile_model: bool = _setting(boolean())

    given_flags: frozenset[str] = frozenset()  # not a setting: names of the flags of this call, found by `resolve`

    def as_plain(self) -> dict[str, Any]:
        """Every setting as str, int, float, bool or None, for JSON and checkpoints."""
        values = {item.name: getattr(self, item.name) for item in setting_fields()}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    def sizes(self) -> dict[str, Any]:
        """Sizes of the backbone by the preset; all but input_dim, which is the width of the data's embeddings."""
        names = [*SMALL, "transformer_dropout"]
        return {name: getattr(self, name) for name in names} | (SMALL if self.preset == "small" else {})


def setting_fields() -> list[Field[Any]]:
    """The fields of Settings that are settings: each is a flag, and in the config module or a flag only."""
    return [item for item in fields(Settings) if "kind" in item.metadata]


def from_config() -> list[str]:
    """Names of the settings that the config module must assign, each once."""
    return [item.name for item in setting_fields() if "help" not in item.metadata]


def config_comments(config: ModuleType) -> dict[str, tuple[str, str]]:
    """The section and the comment of each assignment of a config module: {name: (section, comment)}."""
    comments: dict[str, tuple[str, str]] = {}
    name, section = "", ""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(inspect.getsource(config)).readline))
    except (OSError, TypeError, SyntaxError, tokenize.TokenError):  # an empty file has no source
        tokens = []
    for token in tokens:
        if token.type == tokenize.NAME and token.start[1] == 0:
            name = token.string
        elif token.type == tokenize.COMMENT and token.start[1] == 0:
            section = token.string.strip("#- ")
        elif token.type == tokenize.COMMENT:
            comments[name] = (section, token.string.lstrip("# "))
    return comments


class _Parser(argparse.ArgumentParser):
    """A parser that raises InputError, as the rest of the project does, instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; --help lists all flags")


def parser(config: ModuleType) -> argparse.ArgumentParser:
    """The command line: one flag per setting. Values are checked later, together with those of the config."""
    command = _Parser(
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
        "  train_optimized.py --mode embed --pretrained_ckpt CKPT --data_dir DIR --split train --output FILE.npz\n"
        "  train_optimized.py --mode demo",
    )
    command.add_argument("--version", action="version", version=f"SeqSetVAE fine-tuning {__version__}")
    comments = config_comments(config)
    groups: dict[str, Any] = {}
    for item in setting_fields():
        section, comment = comments.get(item.name, ("Command line only", item.metadata.get("help", "")))
        if section not in groups:
            groups[section] = command.add_argument_group(section)
        default = f" (default: {getattr(config, item.name)})" if hasattr(config, item.name) else ""
        kind: Kind = item.metadata["kind"]
        as_switch: dict[str, Any] = {"nargs": "?", "const": "true"} if item.type == "bool" else {}
        text = (comment + default).replace("%", "%%")
        groups[section].add_argument(f"--{item.name}", help=text, metavar=kind.metavar, **as_switch)
    return command


def resolve(config: ModuleType, argv: Sequence[str] | None = None) -> Settings:
    """Settings of this call: the config module's values, overridden by the flags.

    Raises:
        InputError: lists every problem with its name, the received value and the allowed ones.
    """
    words, unknown = _take_out_unknown_flags(sys.argv[1:] if argv is None else argv)
    words, without_value = _take_out_flags_without_value(words)
    flags, stray = parser(config).parse_known_args(words)
    given = vars(flags)
    in_config = _config_values(config)
    received = in_config | given
    surplus = _unknown_in_config(config)
    misspelled = {_closest(name) for name in [*map(_flag_name, unknown), *surplus]}
    problems = [f"{word}: no such flag{_suggestion(_flag_name(word), '--')}" for word in unknown]
    problems += [f"{name}: --{name} was given without a value" for name in without_value]
    problems += [f"{word!r}: a value without a flag; put a flag before it or remove it" for word in stray]
    problems += [f"{name}: no such setting (in {config.__name__}.py){_suggestion(name)}" for name in surplus]
    problems += [
        f"{name}: missing in {config.__name__}.py; add a line such as {name} = ..."
        for name in from_config()
        if name not in received and name not in misspelled
    ]
    values = _convert(received, problems)
    usable = _convert(in_config, []) | values  # a default replaces a wrong flag, so that the others can be checked
    if usable.keys() >= set(from_config()):
        reported = (received.keys() - values.keys()) | misspelled | {*without_value}  # one problem for each mistake
        found = check(Settings(**usable)) + _unused(given, usable.get("mode"), usable["preset"])
        problems += [line for line in found if line.split(":")[0] not in reported]
    if problems:
        raise _report(problems)
    return Settings(
        **values, chosen_sizes=_chosen_sizes(given, values, f"{config.__name__}.py"), given_flags=frozenset(given)
    )


def config_error(file: Path, error: BaseException) -> InputError:
    """The error for a config file that cannot be imported: the line, the reason, and what such a file may hold."""
    if isinstance(error, FileNotFoundError) and not _exists(file):
        return InputError(f"{file}: no such file. Restore the config file that came with train_optimized.py.")
    line = error.lineno if isinstance(error, SyntaxError) else _line_in(file, error)
    place = f"{file}, line {line}" if line else f"{file}"
    reason = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    if isinstance(error, SystemExit):
        reason = f"the file ends the program (SystemExit: {error.code})"
    elif not isinstance(error, SyntaxError):
        reason = f"{type(error).__name__}: {reason}"
    encoding = " It must be saved as UTF-8." if "codec" in reason or "encoding" in reason else ""
    return InputError(
        f"{place}: cannot be read: {reason}.{encoding} The config file must consist of lines such as: batch_size = 8"
    )


def _line_in(file: Path, error: BaseException) -> int | None:
    """The line of the file at which the error was raised."""
    if isinstance(error, UnicodeDecodeError):
        return error.object.count(b"\n", 0, error.start) + 1
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == file.name]
    return frames[-1].lineno if frames else None


def _config_values(config: ModuleType) -> dict[str, Any]:
    """The settings in the config module. Raises InputError if it has none: one problem instead of one for each."""
    values = {name: getattr(config, name) for name in from_config() if hasattr(config, name)}
    if not values:
        raise InputError(
            f"{config.__name__}.py: contains no settings. Restore the config file that came with train_optimized.py."
        )
    return values


# A flag, or one that was meant: word processors turn hyphens into dashes, and other programs use one hyphen.
_FLAG = re.compile(r"[-\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}]{1,2}[A-Za-z_]")


def _take_out_unknown_flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(words without unknown flags and their values, unknown flags): argparse would report the value separately."""
    known = {"-h", *(f"--{name}" for name in _flag_names())}
    kept: list[str] = []
    unknown: list[str] = []
    after_unknown = False
    for word in words:
        is_flag = _FLAG.match(word) is not None
        if is_flag and word.split("=")[0] not in known:
            unknown.append(word)
            after_unknown = "=" not in word
        else:
            if is_flag or not after_unknown:
                kept.append(word)
            after_unknown = False
    return kept, unknown


def _take_out_flags_without_value(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(words without flags that lack their value, names of those flags): argparse would stop at the first."""
    needs_value = {f"--{item.name}" for item in setting_fields() if item.type != "bool"}
    ends = {at for at in range(len(words)) if at + 1 == len(words) or _FLAG.match(words[at + 1])}
    lacking = [at for at in sorted(ends) if words[at] in needs_value]
    kept = [word for at, word in enumerate(words) if at not in lacking]
    return kept, [words[at].removeprefix("--") for at in lacking]


def _flag_names() -> list[str]:
    return [*(item.name for item in setting_fields()), "help", "version"]


def _flag_name(word: str) -> str:
    """The name in a flag: `--batch-size=8` gives batch_size."""
    return _FLAG.sub(lambda match: match[0][-1], word).split("=")[0].replace("-", "_")


# Modes that use a flag; in another mode it would have no effect. The demo sets some of them itself.
_OWN_DATA = ("data_dir", "params_map_path", "label_path", "embeddings_path", "label_name", "skip_bad", "max_sets")
_LOADING = ("finetune", "pretrain", "embed")  # the modes that load or make a backbone
_HEAD = ("head_pooling", "head_hidden", "head_dropout")
_LOSS = ("loss", "class_weight", "label_smoothing", "focal_gamma", "focal_alpha")
_STEPS = ("weight_decay", "gradient_clip_val", "gradient_accumulation_steps", "min_lr", "es_patience")
READ_BY = {
    **dict.fromkeys(_OWN_DATA, (*_LOADING, "evaluate")),
    **dict.fromkeys(("pretrained_ckpt", "allow_partial_backbone", "preset", *SMALL, "transformer_dropout"), _LOADING),
    **dict.fromkeys(("from_random_weights", "cls_head_lr", "lr", "unfreeze_after"), ("finetune",)),
    **dict.fromkeys((*_HEAD, *_LOSS, "lr_factor", "lr_patience"), ("finetune", "demo")),
    **dict.fromkeys(("value_clip", "min_count"), ("finetune", "pretrain", "demo")),
    "beta_warmup_steps": ("pretrain",),
    **dict.fromkeys(("pretrain_lr", "max_beta", "free_bits"), ("pretrain", "demo")),
    **dict.fromkeys(("max_epochs", "warmup_steps"), ("finetune", "pretrain")),
    **dict.fromkeys(_STEPS, ("finetune", "pretrain", "demo")),
    "ckpt": ("evaluate",),
    "split": ("evaluate", "embed"),
    "output": ("embed",),
}


def _unused(given: dict[str, Any], mode: str | None, preset: str) -> list[str]:
    """Flags that were given and would have no effect."""
    problems = [
        f"{name}: received {given[name]!r}; --mode {mode} does not use it (used by {', '.join(modes)}); "
        f"leave out --{name}"
        for name, modes in READ_BY.items()
        if name in given and mode is not None and mode not in modes
    ]
    if preset == "small":
        sizes = [
            f"{name}: received {given[name]!r}; --preset small sets it to {size}; leave out --{name} or --preset small"
            for name, size in SMALL.items()
            if name in given
        ]
        problems += sizes
    return problems


def _chosen_sizes(given: dict[str, Any], values: dict[str, Any], config_file: str) -> tuple[ChosenSizes, ...]:
    """The sizes that were given as flags or changed in the config file."""
    chosen = {name for name in SHIPPED if name in given or values[name] != SHIPPED[name]}
    small = values["preset"] == "small"
    found = []
    for name in sorted(chosen - (SMALL.keys() if small else set())):  # with preset small, the config's are not used
        sizes = {name: values[name]}
        if name == "preset":
            sizes = dict(SMALL) if small else {size: values[size] for size in SMALL if size not in chosen}
        by_flag = name in given
        remedy = f"leave out --{name}" if by_flag else f"restore the line {name} = {SHIPPED[name]!r} in {config_file}"
        found.append(ChosenSizes(name, values[name], f"--{name}" if by_flag else config_file, sizes, remedy))
    return tuple(found)


def _report(problems: list[str]) -> InputError:
    count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
    return InputError("\n  ".join([f"{count} with the settings, nothing was read or written:", *problems]))


def _convert(received: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Values in the types of Settings; a value that is not allowed is added to `problems` instead."""
    values = {}
    for item in setting_fields():
        if item.name not in received:
            continue
        kind: Kind = item.metadata["kind"]
        try:
            values[item.name] = kind.convert(received[item.name])
        except (ValueError, TypeError, OverflowError):
            problems.append(f"{item.name}: received {received[item.name]!r}; allowed: {kind.allowed}")
    return values


def _closest(name: str) -> str | None:
    """The setting whose name is most like this one."""
    return next(iter(difflib.get_close_matches(name, _flag_names(), n=1)), None)


def _suggestion(name: str, before: str = "") -> str:
    close = _closest(name)
    return f"; did you mean {before}{close}?" if close else "; --help lists all"


def _unknown_in_config(config: ModuleType) -> list[str]:
    return [name for name in vars(config) if not name.startswith("_") and name not in from_config()]


def check(settings: Settings) -> list[str]:
    """Problems of settings that are allowed one by one but not together, or that name files that do not exist."""
    needs: dict[str | None, list[str]] = {
        "finetune": ["data_dir"] if settings.from_random_weights else ["pretrained_ckpt", "data_dir"],
        "pretrain": ["data_dir"],
        "evaluate": ["ckpt", "split"],
        "embed": ["pretrained_ckpt", "data_dir", "split", "output"],
    }
    missing = [name for name in needs.get(settings.mode, []) if getattr(settings, name) is None]
    problems = [_needed(settings.mode, name) for name in missing]
    if settings.mode is None:
        problems.append(f"mode: not given; allowed: {choice(*MODES).allowed}")
    for name in ("pretrained_ckpt", "ckpt", "data_dir", "params_map_path", "label_path", "embeddings_path"):
        given = getattr(settings, name)
        if given is not None and not _exists(given):
            problems.append(f"{name}: received {str(given)!r}, which does not exist; allowed: an existing path")
    return problems + _size_problems(settings) + _training_problems(settings) + _output_problems(settings)


def _exists(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # a name that is too long, or a folder that may not be searched
        return False


def _size_problems(settings: Settings) -> list[str]:
    sizes = settings.sizes()
    starts_random = settings.from_random_weights or (settings.mode == "pretrain" and settings.pretrained_ckpt is None)
    return [
        f"{name}: received {sizes[name]}; allowed: a divisor of latent_dim ({sizes['latent_dim']})"
        for name in ("heads", "transformer_heads")
        if starts_random and sizes["latent_dim"] % sizes[name]
    ]


def _needed(mode: str | None, name: str) -> str:
    where = f" (or {name} in the config file)" if name in from_config() else ""
    if mode == "finetune" and name == "pretrained_ckpt":
        where = " (or --from_random_weights, to train without a pretrained checkpoint as a baseline)"
    return f"{name}: not given; --mode {mode} needs --{name}{where}"


def _training_problems(settings: Settings) -> list[str]:
    untrained = settings.mode == "finetune" and settings.from_random_weights
    rates = {
        name: getattr(settings, name)
        for name in ("lr", "cls_head_lr", "pretrain_lr")
        if settings.mode in READ_BY[name] or settings.mode == "demo"
    }
    rules = [
        (
            untrained and (settings.pretrained_ckpt is not None or settings.allow_partial_backbone),
            "from_random_weights: received together with pretrained_ckpt or allow_partial_backbone; it does not read a "
            "checkpoint, so leave out either it or the other two",
        ),
        (
            untrained and settings.unfreeze_after != 0,
            f"unfreeze_after: received {settings.unfreeze_after}; allowed: 0 with --from_random_weights, because a "
            "randomly initialized backbone must be trained from the start",
        ),
        (
            settings.mode == "finetune" and settings.batch_size < 4,
            f"batch_size: received {settings.batch_size}; allowed: 4 or more for fine-tuning",
        ),
        (
            settings.mode != "pretrain"
            and settings.es_patience <= settings.lr_patience + 1,  # a cut comes after lr_patience + 1 validations
            f"es_patience: received {settings.es_patience}; allowed: more than lr_patience + 1 "
            f"(= {settings.lr_patience + 1}); otherwise training stops before a reduced learning rate has been tried",
        ),
        (
            settings.devices > 1,
            f"devices: received {settings.devices}; allowed: 1 (this version trains on one device)",
        ),
        (
            settings.loss == "focal" and settings.label_smoothing > 0,
            f"label_smoothing: received {settings.label_smoothing}; allowed: 0 with --loss focal",
        ),
        (
            settings.loss == "focal" and settings.class_weight != "none",
            f"class_weight: received {settings.class_weight!r}; allowed: none with --loss focal, whose class weight is "
            "--focal_alpha",
        ),
        (
            settings.min_lr > min(rates.values(), default=settings.min_lr),
            f"min_lr: received {settings.min_lr:g}; allowed: at most "
            + " and ".join(f"{name} ({rate:g})" for name, rate in rates.items()),
        ),
        (
            _exists(settings.output_root_dir) and not settings.output_root_dir.is_dir(),
            f"output_root_dir: received {str(settings.output_root_dir)!r}, which is a file; allowed: an existing or "
            "new folder",
        ),
    ]
    return [problem for wrong, problem in rules if wrong]


def _output_problems(settings: Settings) -> list[str]:
    output = settings.output
    if output is None:
        return []
    rules = [
        (output.suffix != ".npz", "allowed: a file name that ends in .npz"),
        (_exists(output), "which already exists; allowed: a new file"),
        (not (_exists(output.parent) and output.parent.is_dir()), "allowed: a file in an existing folder"),
    ]
    return [
        f"output: received {str(output)!r}{', ' if 'which' in text else '; '}{text}" for wrong, text in rules if wrong
    ]
