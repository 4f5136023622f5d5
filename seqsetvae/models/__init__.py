"""The architectures, by name. Importing this imports no torch.

An architecture is a folder here whose __init__.py has the names below; a test registers one from its own file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any, Protocol

from seqsetvae.models import seqsetvae, variable_summaries
from seqsetvae.settings.declare import declared, given, selected, setting
from seqsetvae.settings.kinds import BOOLEAN, OneOf
from seqsetvae.system.errors import InputError


class Architecture(Protocol):
    """What the module of an architecture must have.

    It may also have RECIPE, the settings that it recommends, RECIPES, those by the name of a switch among its sizes,
    recipe_for(n_stays), those for so many labelled stays, and OTHER_VALUE_TRANSFORMS.
    """

    Sizes: type[Any]  # its settings: a frozen dataclass with input_dim (I) and a `setting` for each flag
    PRESETS: dict[str, dict[str, Any]]  # sizes by preset; {"full": {}} where there is one preset alone
    SKIPPED: tuple[str, ...]  # regular expressions of whole names of weights that fine-tuning does not load, on purpose
    INERT: frozenset[str]  # names of weights that a checkpoint may lack, because they have no effect
    OFFERS: frozenset[str]  # of its backbone: states, table, layers, padded_history, inputs (backbone.py)
    NOT_IN_SHAPES: tuple[str, ...]  # sizes that the shapes of weights do not show
    VALUE_TRANSFORM: str  # how a new model reads the values of a cohort, a name in batches.transform.VALUE_TRANSFORMS

    def problems(self, sizes: dict[str, Any]) -> list[str]:
        """What is wrong with the sizes of a new model together; each line begins with the name of a setting."""
        ...

    def build(self, sizes: Any) -> Any:
        """A backbone with random weights, a subclass of `backbone.BackboneBase`."""
        ...

    def canonical_name(self, key: str) -> str:
        """The name in the backbone's state dict of a weight of any checkpoint layout."""
        ...

    def explain(self, stored: Mapping[str, Sequence[int]]) -> str:
        """What a file with weights of these names and shapes is, where it is not a whole, trained model; else empty."""
        ...

    def random_in_file(self, stored: Mapping[str, Sequence[int]]) -> list[str]:
        """Weights that the code which wrote such a file left random; a load report says so."""
        ...

    def infer_sizes(
        self, shapes: Mapping[str, Sequence[int]], stated: Mapping[str, Any], fallback: Mapping[str, Any], file: str
    ) -> Any:
        """The Sizes of a checkpoint from the shapes of its weights, its hyper_parameters and the settings."""
        ...


ARCHITECTURES: dict[str, Architecture] = {"seqsetvae": seqsetvae, "variable_summaries": variable_summaries}


# ------------------------------------------------------------------ the setting that selects one


def _presets() -> list[str]:
    """Names of presets, each once."""
    return list(dict.fromkeys(name for architecture in ARCHITECTURES.values() for name in architecture.PRESETS))


@dataclass(frozen=True, kw_only=True)
class ArchitectureSettings:
    """The backbone of a new model. A checkpoint has its own sizes: these must not contradict them."""

    architecture: str = setting(OneOf(lambda: ARCHITECTURES), default="seqsetvae")
    preset: str = setting(OneOf(_presets), default="full")
    values: Mapping[str, Any] = selected(ARCHITECTURES, by="architecture", attribute="Sizes")
    given: Mapping[str, str] = given()

    @property
    def preset_sizes(self) -> dict[str, Any]:
        """The sizes that the preset sets."""
        return ARCHITECTURES[self.architecture].PRESETS[self.preset]

    def sizes(self) -> dict[str, Any]:
        """All sizes but those that follow from the data."""
        return {**self.values, **self.preset_sizes}

    def new_sizes(self, input_dim: int, vocabulary: tuple[str, ...]) -> Any:
        """The Sizes of a new model for data with these variables, whose embeddings have width `input_dim`."""
        sizes = ARCHITECTURES[self.architecture].Sizes
        of_data = {"input_dim": input_dim, "vocabulary": vocabulary}
        needed = {field.name for field in fields(sizes)}
        return sizes(**{name: value for name, value in of_data.items() if name in needed}, **self.sizes())

    def problems(self) -> list[str]:
        presets = ARCHITECTURES[self.architecture].PRESETS
        if self.preset not in presets:
            allowed = ", ".join(presets)
            return [
                f"preset: received {self.preset!r}; allowed: one of {allowed} with architecture {self.architecture}"
            ]
        return [
            f"{name}: received {self.values[name]!r}; --preset {self.preset} sets it to {size}; leave out --{name} or "
            f"--preset {self.preset}"
            for name, size in self.preset_sizes.items()
            if self.given.get(name) == f"--{name}"
        ]

    def require_name(self, actual: str, file: str) -> None:
        """Raises InputError if the checkpoint has another architecture than the settings."""
        if actual != self.architecture:
            raise InputError(
                f"architecture: received {self.architecture!r}; {file} has the architecture {actual!r}. Pass "
                f"--architecture {actual}, or another checkpoint."
            )

    def problems_of_new_model(self, value_transform: str | None) -> list[str]:
        """What is wrong with these sizes and this way to read values; a checkpoint has its own."""
        chosen = ARCHITECTURES[self.architecture]
        problems = chosen.problems(self.sizes())
        if value_transform not in (None, chosen.VALUE_TRANSFORM, *getattr(chosen, "OTHER_VALUE_TRANSFORMS", ())):
            problems.append(
                f"value_transform: received {value_transform}; allowed: {chosen.VALUE_TRANSFORM} with architecture "
                f"{self.architecture}, which needs it"
            )
        return problems

    def require(self, actual: Mapping[str, Any], file: str) -> None:
        """Check sizes that the user chose against those of the checkpoint, which would silently replace them.

        Raises:
            InputError: a line for every setting that disagrees, with both values.
        """
        shipped = {name: item.default for name, item in declared(type(self)).items()}
        lines = []
        for name in sorted(self.given.keys() - self.preset_sizes.keys() - {"architecture"}):
            sizes = self._sizes_of_preset() if name == "preset" else {name: self.values[name]}
            wrong = {size: value for size, value in sizes.items() if value != actual[size]}
            if not wrong:
                continue
            where, received = self.given[name], self.preset if name == "preset" else self.values[name]
            means = f" ({_listed(wrong)})" if name == "preset" else ""
            by_flag = where == f"--{name}"
            remedy = f"leave out --{name}" if by_flag else f"restore the line {name} = {shipped[name]!r} in {where}"
            lines.append(
                f"\n  {name}: received {received!r}{means} from {where}; the checkpoint has "
                f"{_listed({size: actual[size] for size in wrong})}; {remedy}"
            )
        if lines:
            raise InputError(f"{file}: the sizes of a checkpoint cannot be changed:{''.join(lines)}")

    def _sizes_of_preset(self) -> dict[str, Any]:
        """The sizes that the choice of the preset stands for; those chosen one by one are not among them."""
        others = {name for preset in ARCHITECTURES[self.architecture].PRESETS.values() for name in preset}
        return self.preset_sizes or {name: self.values[name] for name in self.values if name in others - {*self.given}}


@dataclass(frozen=True)
class _NoSettings:
    """No settings: a network beside a backbone has the default sizes."""


BESIDE = {
    False: SimpleNamespace(Sizes=_NoSettings),
    True: SimpleNamespace(
        Sizes=_NoSettings,
        # The other backbone stays frozen: what it pools is computed once, so an epoch takes seconds. `lr` is its own.
        RECIPE={name: value for name, value in variable_summaries.RECIPE.items() if name not in ("lr", "min_count")}
        | {"unfreeze_after": None},
        recipe_for=variable_summaries.recipe_for,
    ),
}


@dataclass(frozen=True, kw_only=True)
class SummariesSettings:
    """Whether the head of another architecture also reads the network of `variable_summaries`."""

    summaries: bool = setting(
        BOOLEAN,
        default=False,
        help="true: the head reads summaries of each variable beside the backbone, and boosted trees on them are "
        "averaged with it, as variable_summaries does, which predicts far better than seqsetvae alone; false: the "
        "backbone alone, with the numbers of earlier versions (docs/variable-summaries.md)",
    )
    values: Mapping[str, Any] = selected(BESIDE, by="summaries", attribute="Sizes")  # for its RECIPE

    def problems_with(self, architecture: str) -> list[str]:
        if self.summaries and architecture == "variable_summaries":
            return ["summaries: received True; allowed: false with --architecture variable_summaries, which is that"]
        return []

    def recipe(self, architecture: str) -> Any:
        """The object that has the RECIPE, and perhaps recipe_for(n_stays)."""
        return BESIDE[True] if self.summaries else ARCHITECTURES[architecture]


def _listed(sizes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sizes.items())
