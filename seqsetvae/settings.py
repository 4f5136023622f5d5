"""Config module + flags → one frozen, validated `Settings`; all problems are reported at once.

Settings are read here, once, and handed down as plain values; nobody else imports the config module. The help text of a
flag is the comment behind the setting in the config file, so that the two cannot drift apart.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import io
import math
import tokenize
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from seqsetvae.errors import InputError

MODES = ("finetune", "pretrain", "evaluate", "embed", "demo")
# The preset for CPUs: on two cores it trains about six times as fast as the sizes used in practice.
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


@dataclass(frozen=True)
class Kind:
    """What a setting may be: `convert` takes a config value or a flag's text and raises ValueError if not allowed."""

    allowed: str
    convert: Callable[[Any], Any]
    metavar: str  # what stands for a value in --help


def _bounded(value: float, low: float, high: float, above: bool) -> bool:
    return math.isfinite(value) and (value > low if above else value >= low) and value <= high


def number(low: float, high: float = math.inf, *, above: bool = False) -> Kind:
    """A finite number from low (or above it) to high."""

    def convert(received: Any) -> float:
        if isinstance(received, bool) or not _bounded(float(received), low, high, above):
            raise ValueError
        return float(received)

    return Kind(f"a number {'above' if above else 'from'} {low:g}" + _until(high), convert, "X")


def integer(low: int, high: float = math.inf) -> Kind:
    """A whole number from low to high."""

    def convert(received: Any) -> int:
        if isinstance(received, bool | float) or not low <= int(received) <= high:
            raise ValueError
        return int(received)

    return Kind(f"a whole number from {low}{_until(high)}", convert, "N")


def _until(high: float) -> str:
    return "" if math.isinf(high) else f" to {high:g}"


def choice(*names: str, **aliases: str) -> Kind:
    """One of these names; an alias stands for one of them."""

    def convert(received: Any) -> str:
        name = aliases.get(f"_{received}".replace("-", "_"), str(received))
        if name not in names:
            raise ValueError
        return name

    return Kind("one of " + ", ".join(names), convert, "{" + ",".join(names) + "}")


def boolean() -> Kind:
    """True or False; as a flag also without a value."""
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
    return Kind("a text", _text, "TEXT")


def _text(received: Any) -> str:
    if not isinstance(received, str | Path) or not str(received).strip():
        raise ValueError
    return str(received)


def optional(kind: Kind) -> Kind:
    """None (as a flag: none), or what `kind` allows."""
    return Kind(
        f"{kind.allowed}, or None",
        lambda received: None if received in (None, "none", "None") else kind.convert(received),
        kind.metavar,
    )


def either(first: Kind, second: Kind) -> Kind:
    """What one of the two allows."""

    def convert(received: Any) -> Any:
        try:
            return first.convert(received)
        except (ValueError, TypeError):
            return second.convert(received)

    return Kind(f"{first.allowed}, or {second.allowed}", convert, f"{first.metavar}|{second.metavar}")


def _setting(kind: Kind) -> Any:
    """A field whose default and help stand in the config module."""
    return field(metadata={"kind": kind})


def _argument(kind: Kind, help_text: str, default: Any = None) -> Any:
    """A field that belongs to one call and stands in no config file: a flag only."""
    return field(default=default, metadata={"kind": kind, "help": help_text})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a run is told. Meaning, unit and reason of each setting stand in the config module."""

    mode: str = _argument(choice(*MODES), "what to do: " + ", ".join(MODES))
    pretrained_ckpt: Path | None = _argument(optional(path()), "checkpoint to fine-tune, go on pretraining, or embed")
    ckpt: Path | None = _argument(optional(path()), "evaluate: a run folder, or a checkpoint of one")
    split: str | None = _argument(optional(choice("train", "valid", "test")), "evaluate, embed: which split")
    output: Path | None = _argument(optional(path()), "embed: the .npz file to write")
    from_random_weights: bool = _argument(
        boolean(),
        "fine-tune an untrained backbone: the baseline that says what --pretrained_ckpt is worth",
        default=False,
    )
    allow_partial_backbone: bool = _argument(
        boolean(), "go on although backbone weights are missing or misshapen; recorded in the run", default=False
    )

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
        """Sizes of the backbone (all but input_dim, which the data give), by the preset."""
        names = [*SMALL, "transformer_dropout"]
        return {name: getattr(self, name) for name in names} | (SMALL if self.preset == "small" else {})


def setting_fields() -> list[Field[Any]]:
    """The fields of Settings that are settings: each is a flag, and in the config module or a flag only."""
    return [item for item in fields(Settings) if "kind" in item.metadata]


def from_config() -> list[str]:
    """Names of the settings that the config module must give, each once."""
    return [item.name for item in setting_fields() if "help" not in item.metadata]


def config_comments(config: ModuleType) -> dict[str, tuple[str, str]]:
    """The section and the comment of each assignment of a config module: {name: (section, comment)}."""
    comments: dict[str, tuple[str, str]] = {}
    name, section = "", ""
    for token in tokenize.generate_tokens(io.StringIO(inspect.getsource(config)).readline):
        if token.type == tokenize.NAME and token.start[1] == 0:
            name = token.string
        elif token.type == tokenize.COMMENT and token.start[1] == 0:
            section = token.string.strip("#- ")
        elif token.type == tokenize.COMMENT:
            comments[name] = (section, token.string.lstrip("# "))
    return comments


class _Parser(argparse.ArgumentParser):
    """A parser that reports a problem as every other part of the project does."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; --help lists all flags")


def parser(config: ModuleType) -> argparse.ArgumentParser:
    """The command line: one flag a setting. Values are checked later, together with the config's."""
    command = _Parser(
        prog="train_optimized.py",
        usage="train_optimized.py --mode MODE [--flag value ...]",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Fine-tune a SeqSetVAE checkpoint on patient records, or pretrain one.\n"
        f"Settings stand in {config.__name__}.py; a flag overrides one for this run.",
        epilog="examples:\n"
        "  train_optimized.py --mode finetune --pretrained_ckpt CKPT --data_dir DIR\n"
        "  train_optimized.py --mode pretrain --data_dir DIR\n"
        "  train_optimized.py --mode evaluate --ckpt RUN --split test\n"
        "  train_optimized.py --mode embed --pretrained_ckpt CKPT --data_dir DIR --split train --output FILE.npz\n"
        "  train_optimized.py --mode demo",
    )
    comments = config_comments(config)
    groups: dict[str, Any] = {}
    for item in setting_fields():
        section, comment = comments.get(item.name, ("This call", item.metadata.get("help", "")))
        if section not in groups:
            groups[section] = command.add_argument_group(section)
        default = f" [{getattr(config, item.name)}]" if hasattr(config, item.name) else ""
        kind: Kind = item.metadata["kind"]
        as_switch: dict[str, Any] = {"nargs": "?", "const": "true"} if item.type == "bool" else {}
        text = (comment + default).replace("%", "%%")
        groups[section].add_argument(f"--{item.name}", help=text, metavar=kind.metavar, **as_switch)
    return command


def resolve(config: ModuleType, argv: Sequence[str] | None = None) -> Settings:
    """Settings of this call: the config module's values, overridden by the flags.

    Raises:
        InputError: lists every problem with its name, the received value and what is allowed.
    """
    flags, unknown = parser(config).parse_known_args(argv)
    given = vars(flags)
    defaults = {name: getattr(config, name) for name in from_config() if hasattr(config, name)}
    received = defaults | given
    problems = [_unknown_flag(word) for word in unknown if word.startswith("--")]
    problems += [f"{word!r}: no flag takes this value" for word in unknown if not word.startswith("--")]
    problems += [
        f"{name}: not in {config.__name__}.py; add a line for it" for name in from_config() if name not in received
    ]
    problems += _unknown_in_config(config)
    values = _convert(received, problems)
    usable = _convert(defaults, []) | values  # a default stands in for a flag that is wrong, to check all the others
    if usable.keys() >= set(from_config()):
        wrong = received.keys() - values.keys()
        found = check(Settings(**usable)) + _unread(given, usable.get("mode"), usable["preset"])
        problems += [line for line in found if line.split(":")[0] not in wrong]
    if problems:
        raise _report(problems)
    return Settings(**values, given_flags=frozenset(given))


# Flags that only some modes read; in another mode one would be passed in vain. The demo sets some of them itself.
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


def _unread(given: dict[str, Any], mode: str | None, preset: str) -> list[str]:
    """Flags that were given and that nothing would read."""
    problems = [
        f"{name}: received {given[name]!r}; --mode {mode} does not read it (read by {', '.join(modes)})"
        for name, modes in READ_BY.items()
        if name in given and mode is not None and mode not in modes
    ]
    if preset == "small":
        sizes = [
            f"{name}: received {given[name]!r}; --preset small sets it to {size}"
            for name, size in SMALL.items()
            if name in given
        ]
        problems += sizes
    return problems


def _report(problems: list[str]) -> InputError:
    count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
    return InputError("\n  ".join([f"{count} with the settings, nothing was read or written:", *problems]))


def _convert(received: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    values = {}
    for item in setting_fields():
        if item.name not in received:
            continue
        kind: Kind = item.metadata["kind"]
        try:
            values[item.name] = kind.convert(received[item.name])
        except (ValueError, TypeError):
            problems.append(f"{item.name}: received {received[item.name]!r}; allowed: {kind.allowed}")
    return values


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name, [item.name for item in setting_fields()], n=1)
    return f"; did you mean {close[0]}?" if close else "; --help lists all"


def _unknown_flag(word: str) -> str:
    return f"{word}: no such flag{_suggestion(word.lstrip('-').split('=')[0])}"


def _unknown_in_config(config: ModuleType) -> list[str]:
    names = [name for name in vars(config) if not name.startswith("_")]
    return [
        f"{name}: no such setting (in {config.__name__}.py){_suggestion(name)}"
        for name in names
        if name not in from_config()
    ]


def check(settings: Settings) -> list[str]:
    """What is wrong with settings that are fine one by one but not together, or name files that are not there."""
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
        if given is not None and not given.exists():
            problems.append(f"{name}: received {str(given)!r}; allowed: a path that exists")
    return problems + _size_problems(settings) + _training_problems(settings) + _output_problems(settings)


def _size_problems(settings: Settings) -> list[str]:
    sizes = settings.sizes()
    starts_random = settings.from_random_weights or (settings.mode == "pretrain" and settings.pretrained_ckpt is None)
    return [
        f"{name}: received {sizes[name]}; allowed: a number that divides latent_dim ({sizes['latent_dim']})"
        for name in ("heads", "transformer_heads")
        if starts_random and sizes["latent_dim"] % sizes[name]
    ]


def _needed(mode: str | None, name: str) -> str:
    why = ": fine-tuning starts from a pretrained checkpoint (--from_random_weights: the baseline without one)" * (
        mode == "finetune" and name == "pretrained_ckpt"
    )
    where = ", or its line in the config file" if name in from_config() else ""
    return f"{name}: not given; --mode {mode} needs --{name}{where}{why}"


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
            "from_random_weights: received together with pretrained_ckpt or allow_partial_backbone; leave them out, "
            "since no checkpoint is read",
        ),
        (
            untrained and settings.unfreeze_after != 0,
            f"unfreeze_after: received {settings.unfreeze_after}; allowed: 0 with --from_random_weights, since random "
            "weights are not worth freezing",
        ),
        (
            settings.mode == "finetune" and settings.batch_size < 4,
            f"batch_size: received {settings.batch_size}; allowed: 4 or more when fine-tuning",
        ),
        (
            settings.mode != "pretrain"
            and settings.es_patience <= settings.lr_patience + 1,  # a cut comes after lr_patience + 1 validations
            f"es_patience: received {settings.es_patience}; allowed: above lr_patience + 1 "
            f"({settings.lr_patience + 1}), or training stops before a lower learning rate is tried",
        ),
        (
            settings.devices > 1,
            f"devices: received {settings.devices}; allowed: 1 (this version trains in one process)",
        ),
        (
            settings.loss == "focal" and settings.label_smoothing > 0,
            f"label_smoothing: received {settings.label_smoothing}; allowed: 0 with the focal loss",
        ),
        (
            settings.loss == "focal" and settings.class_weight != "none",
            f"class_weight: received {settings.class_weight!r}; allowed: none with focal, which has focal_alpha",
        ),
        (
            settings.min_lr > min(rates.values(), default=settings.min_lr),
            f"min_lr: received {settings.min_lr:g}; allowed: at most "
            + " and ".join(f"{name} ({rate:g})" for name, rate in rates.items()),
        ),
        (
            settings.output_root_dir.exists() and not settings.output_root_dir.is_dir(),
            f"output_root_dir: received {str(settings.output_root_dir)!r}, a file; allowed: a folder, new or not",
        ),
    ]
    return [problem for wrong, problem in rules if wrong]


def _output_problems(settings: Settings) -> list[str]:
    output = settings.output
    if output is None:
        return []
    rules = [
        (output.suffix != ".npz", f"output: received {str(output)!r}; allowed: a file that ends in .npz"),
        (output.exists(), f"output: received {str(output)!r}, which exists; allowed: a new file"),
        (not output.parent.is_dir(), f"output: received {str(output)!r}; allowed: a file in a folder that exists"),
    ]
    return [problem for wrong, problem in rules if wrong]
