"""How settings are declared: as fields of small frozen dataclasses (groups), which a mode puts together.

    setting(kind)                           a line of the config file and a flag, both with the name of the field
    setting(kind, default=..., help=...)    the same, where the config file may lack the line
    argument(kind, help)                    a flag only
    selected(REGISTRY, "by", "Attribute")   the settings of the module that the setting `by` selects: {name: value}
    given()                                 which settings of the group the user chose: {name: its flag or config file}
    part(except_for=...)                    a group; the mode sets those of its settings itself

A group may have a method `problems()`: what is wrong with its settings together, a line each.

What is wrong with settings becomes a line for each mistake (`Problems`), also of those that a file records: they are
held to the ranges of the settings themselves, because files may be damaged or made up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from seqsetvae.settings.kinds import BOOLEAN, Kind, NotAllowedError
from seqsetvae.system.errors import InputError

Group = TypeVar("Group")


def setting(kind: Kind, default: Any = MISSING, help: str | None = None) -> Any:
    """A setting of the config file.

    Args:
        kind: the values that it allows.
        default: the value as shipped; a config file that has another one counts as the user's choice (see `given`).
        help: its text in --help if the config file has no line for it.
    """
    return field(default=default, metadata={"kind": kind, "help": help, "in_config": True})


def argument(kind: Kind, help: str | Mapping[str, str], default: Any = None) -> Any:
    """A setting of one call, which the config file does not hold; `help` may have a text for each mode, and "" else."""
    return field(default=default, metadata={"kind": kind, "help": help, "in_config": False})


def selected(registry: Mapping[Any, Any], by: str, attribute: str) -> Any:
    """Values of the settings that `registry[name].attribute` declares, where the setting `by` gives the name."""
    return field(metadata={"registry": registry, "by": by, "attribute": attribute})


def given() -> Any:
    """Where the user chose settings of this group: the flag, or the config file if its value is not as shipped."""
    return field(default_factory=dict, metadata={"given": True})


def part(except_for: Collection[str] = ()) -> Any:
    """A group of which the mode sets the settings `except_for` itself, so that their flags are not its flags."""
    return field(metadata={"except_for": frozenset(except_for)})


@dataclass(frozen=True)
class Setting:
    """One declared setting."""

    kind: Kind
    help: str | Mapping[str, str] | None
    in_config: bool
    default: Any  # MISSING: none
    only_with: str | None = None  # the flag that selects the module that declares it

    def help_in(self, mode: str) -> str:
        """The text of the setting in the --help of a mode."""
        text = self.help or ""
        return text.removeprefix(f"{mode}: ") if isinstance(text, str) else text.get(mode, text.get("", ""))

    @property
    def is_switch(self) -> bool:
        """Whether its flag may stand without a value."""
        return self.kind is BOOLEAN

    @property
    def is_config_line(self) -> bool:
        """Whether the config file must have a line for it."""
        return self.in_config and self.help is None


def declared(group: type, chosen: Mapping[str, Any] | None = None) -> dict[str, Setting]:
    """The settings of a group and of the groups in it, by name.

    `chosen` are the values of the settings that select a module of a registry; without one, every registered module
    counts.
    """
    all_settings: dict[str, Setting] = {}
    for item, inner in _parts(group):
        of_part: dict[str, Setting] = {}
        if "kind" in item.metadata:
            of_part = {item.name: Setting(**item.metadata, default=item.default)}
        elif "registry" in item.metadata:
            registry, by = item.metadata["registry"], item.metadata["by"]
            selected_name = None if chosen is None else chosen.get(by)
            for name in [selected_name] if isinstance(selected_name, str) and selected_name in registry else registry:
                of_module = declared(getattr(registry[name], item.metadata["attribute"]))
                only_with = f"--{by} {name}"
                of_part = {key: replace(of_module[key], only_with=only_with) for key in of_module} | of_part
        elif inner is not None:
            of_part = declared(inner, chosen)
        set_by_mode = item.metadata.get("except_for", ())
        all_settings |= {
            name: declaration
            for name, declaration in of_part.items()
            if name not in all_settings and name not in set_by_mode
        }
    return all_settings


def _parts(group: type) -> Iterator[tuple[Field[Any], type | None]]:
    """Each field of a dataclass, and the dataclass that it holds if it is a group."""
    hints = _hints(group)
    for item in fields(group):
        yield item, hints[item.name] if is_dataclass(hints[item.name]) else None


@cache  # annotations are texts, which take milliseconds to evaluate
def _hints(group: type) -> dict[str, Any]:
    return get_type_hints(group)


def build(group: type[Group], values: Mapping[str, Any], chosen: Mapping[str, str]) -> Group:
    """A group with these values of its settings; `chosen` is what `given` fields are filled from."""
    arguments: dict[str, Any] = {}
    for item, inner in _parts(group):
        if "kind" in item.metadata:
            arguments[item.name] = values.get(item.name)  # None: the mode sets it itself, and its line is missing
        elif "registry" in item.metadata:
            module = item.metadata["registry"][values[item.metadata["by"]]]
            names = declared(getattr(module, item.metadata["attribute"]))
            arguments[item.name] = {name: values.get(name) for name in names}
        elif "given" in item.metadata:
            arguments[item.name] = {name: chosen[name] for name in declared(group, values) if name in chosen}
        elif inner is not None:
            set_by_mode = item.metadata.get("except_for", ())
            by_user = {name: place for name, place in chosen.items() if name not in set_by_mode}
            arguments[item.name] = build(inner, values, by_user)
    return group(**arguments)


def recipe(group: type, values: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """What the modules that `values` select recommend for settings of other groups.

    That is their RECIPE, and of their RECIPES, which have the name of a setting, those whose setting is true, where
    all that it sets is `known`: a recipe of fine-tuning is none of pretraining.
    """
    recommended: dict[str, Any] = {}
    for item, inner in _parts(group):
        if "registry" in item.metadata:
            module = item.metadata["registry"].get(values.get(item.metadata["by"]))
            recommended |= getattr(module, "RECIPE", {})
            for name, added in getattr(module, "RECIPES", {}).items():
                recommended |= added if values.get(name) and added.keys() <= set(known) else {}
        elif inner is not None:
            recommended |= recipe(inner, values, known)
    return recommended


def groups_in(settings: Any) -> Iterator[Any]:
    """A built group and all groups in it."""
    yield settings
    for item, inner in _parts(type(settings)):
        if inner is not None:
            yield from groups_in(getattr(settings, item.name))


def as_plain(settings: Any) -> dict[str, Any]:
    """Every setting of a built group as str, int, float, bool, None or a list of them, for JSON."""
    plain: dict[str, Any] = {}
    for group in groups_in(settings):
        for item in fields(group):
            if "kind" in item.metadata:
                plain[item.name] = getattr(group, item.name)
            elif "registry" in item.metadata:
                plain |= getattr(group, item.name)
    return {name: _plain(value) for name, value in plain.items()}


def _plain(value: Any) -> Any:
    """As JSON brings it back."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def chosen_in(settings: Any) -> list[str]:
    """Names of the settings that the user chose, of the groups that ask for it (`given`)."""
    groups = [group for group in groups_in(settings) if "given" in {item.name for item in fields(group)}]
    return sorted({name for group in groups for name in group.given})


def paths_in(settings: Any) -> set[str]:
    """The names of the settings of a built group that hold a path."""
    return {
        item.name
        for group in groups_in(settings)
        for item in fields(group)
        if isinstance(getattr(group, item.name), Path)
    }


def changed(settings: Group, by: str | None = None, /, **values: Any) -> Group:
    """A built group with other values of these settings, wherever in its groups they are declared.

    `by` is the flag by which the user chose them, for `given`; None: they are no choice of the user.
    """
    changes: dict[str, Any] = {}
    for item, inner in _parts(type(settings)):
        now = getattr(settings, item.name)
        if item.name in values and "kind" in item.metadata:
            changes[item.name] = values[item.name]
        elif "given" in item.metadata and by is not None:
            changes[item.name] = {**now, **dict.fromkeys(declared(type(settings)).keys() & values.keys(), by)}
        elif "registry" in item.metadata:
            changes[item.name] = {name: values.get(name, value) for name, value in now.items()}
        elif inner is not None:
            changes[item.name] = changed(now, by, **values)
    return replace(settings, **changes)  # type: ignore[type-var]


# ------------------------------------------------------------------ what is wrong with settings


@dataclass
class Problems:
    """What the user has to correct, a line for each mistake."""

    lines: list[str] = field(default_factory=list)
    settings: set[str] = field(default_factory=set)  # those that have a line

    def add(self, line: str, *settings: str | None) -> None:
        """A line about these settings."""
        self.lines.append(line)
        self.settings.update(name for name in settings if name)

    def add_consequences(self, lines: Iterable[str]) -> None:
        """Lines that begin with the name of a setting; they are left out if it already has a line."""
        self.lines += [line for line in dict.fromkeys(lines) if line.split(":")[0] not in self.settings]

    def error(self) -> InputError:
        count = "one problem" if len(self.lines) == 1 else f"{len(self.lines)} problems"
        return InputError("\n  ".join([f"{count} with the settings, nothing was read or written:", *self.lines]))


def problems_of_groups(settings: Any) -> list[str]:
    groups = [] if settings is None else groups_in(settings)
    return [line for group in groups if hasattr(group, "problems") for line in group.problems()]


def convert(received: Mapping[str, Any], known: Mapping[str, Setting], problems: Problems) -> dict[str, Any]:
    """Values in the types of the settings, without those that are not allowed."""
    values = {}
    for name, value in received.items():
        kind = known[name].kind
        try:
            values[name] = kind.convert(value)
        except (ValueError, TypeError, OverflowError) as error:
            reason = f", {error}" if isinstance(error, NotAllowedError) else ""
            problems.add(f"{name}: received {shown(value)}{reason}; allowed: {kind.allowed}", name)
    return values


def shown(received: Any) -> str:
    """A value as it was given: the words of a flag that takes several are one text."""
    words = isinstance(received, list) and all(isinstance(word, str) for word in received)
    return repr(" ".join(received) if words else received)


def check_recorded(group: type, recorded: Any, file: str | Path) -> None:
    """Compare those settings of a group that a file records with what the group allows; other names are ignored.

    Raises:
        InputError: `recorded` is no mapping, or one of its values is not allowed.
    """
    if not isinstance(recorded, Mapping):
        raise InputError(f"{file}: damaged, it records {recorded!r:.60} where settings are expected. Use another copy.")
    for name, item in declared(group).items():
        if name in recorded and not _allows(item.kind, recorded[name]):
            raise InputError(
                f"{file}: records {name} = {recorded[name]!r:.60}; allowed: {item.kind.allowed}. The file is damaged "
                "or was not written by this program: use another copy."
            )


def _allows(kind: Kind, value: Any) -> bool:
    """Whether a value is allowed as it is; texts of numbers, which a flag may have, are not."""
    try:
        converted = kind.convert(value)
    except (ValueError, TypeError, OverflowError):
        return False
    return converted == value and isinstance(converted, str) == isinstance(value, str)
