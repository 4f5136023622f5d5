"""An architecture, an objective, a mode and a source are added from this file, without a change to the package."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from seqsetvae.batches.batch import Batch
from seqsetvae.batches.transform import VALUE_TRANSFORMS, ValueChange
from seqsetvae.checkpoint.backbone import read_checkpoint
from seqsetvae.cli import MODES
from seqsetvae.cohort import Cohort, open_cohort
from seqsetvae.cohort.command import main as data_command
from seqsetvae.cohort.sources import SOURCES
from seqsetvae.cohort.sources.opened import Opened
from seqsetvae.cohort.tidy import Rows, Skip, Stay, Stays, UnnamedRows
from seqsetvae.models import ARCHITECTURES
from seqsetvae.models.backbone import BackboneBase
from seqsetvae.objectives import OBJECTIVES
from seqsetvae.settings.declare import argument, setting
from seqsetvae.settings.groups import DataSettings
from seqsetvae.settings.kinds import integer, number
from tests.command import argv, call, command, finetune, refused, rows_of, run_of, succeeded
from tests.figures import printed_figure

# ------------------------------------------------------------------------------------------------ architecture


@dataclass(frozen=True, kw_only=True)
class BagSizes:
    """Sizes of a bag of events."""

    input_dim: int
    bag_width: int = setting(integer(1), default=8, help="width of the bag")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Bag(BackboneBase):
    """The mean over the events of a stay of a linear map of (embedding · value)."""

    architecture = "bag"

    def __init__(self, sizes: BagSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.map = nn.Linear(sizes.input_dim, sizes.bag_width)

    def pooled(self, batch: Batch, embeddings: torch.Tensor, pooling: str) -> torch.Tensor:
        assert set(batch.value.tolist()) <= {-1, 0, 1}  # its value transform
        events = self.map(embeddings[batch.variable] * batch.value[:, None])  # [E, P]
        in_size_order = torch.empty_like(batch.set_row).index_copy(0, batch.set_row, batch.stay_of_set)  # [S]
        stay = batch.sizes.spread(in_size_order[:, None])[:, 0]  # [E]
        total = events.new_zeros(batch.n_stays, events.shape[1]).index_add(0, stay, events)
        return total / stay.bincount(minlength=batch.n_stays)[:, None]

    def pooled_width(self, pooling: str) -> int:
        return self.sizes.bag_width


def _infer(shapes: Mapping[str, Sequence[int]], stated: Any, fallback: Any, file: str) -> BagSizes:
    width, input_dim = shapes["map.weight"]
    return BagSizes(input_dim=input_dim, bag_width=width)


def _explain(stored: Mapping[str, Sequence[int]]) -> str:
    return ""


BAG = SimpleNamespace(
    Sizes=BagSizes,
    PRESETS={"full": {}},
    SKIPPED=(),
    INERT=frozenset(),
    NOT_IN_SHAPES=(),
    OFFERS=frozenset(),
    VALUE_TRANSFORM="signs",
    problems=lambda sizes: [],
    build=Bag,
    canonical_name=lambda key: key,
    explain=_explain,
    random_in_file=lambda stored: [],
    infer_sizes=_infer,
)

# ------------------------------------------------------------------------------------------------ value transform


@dataclass(frozen=True)
class Signs:
    """A model that reads whether a value is above the mean of its variable, or below."""

    @classmethod
    def fit(cls, cohort: Cohort, *, value_clip: float | None, min_count: int) -> Signs:
        return cls()

    @classmethod
    def from_plain(cls, content: dict[str, Any]) -> Signs:
        return cls()

    def as_plain(self) -> dict[str, Any]:
        return {"name": "signs"}

    def options(self) -> dict[str, Any]:
        return {}

    def with_unknown(self, vocabulary: Collection[str], known: Collection[str]) -> Signs:
        return self

    def values_read(self, name: str) -> bool:
        return True

    def change(self, cohort: Cohort) -> ValueChange:
        return lambda variable, value: np.sign(value)


# ------------------------------------------------------------------------------------------------ objective


@dataclass(frozen=True, kw_only=True)
class LengthSettings:
    """Weight of the loss."""

    length_weight: float = setting(number(0), default=1.0, help="weight of the loss")


class Length(nn.Module):
    """Predict the number of sets of a stay from its pooled state."""

    def __init__(self, settings: LengthSettings) -> None:
        super().__init__()
        self.settings = settings

    def validation_terms(self, model: Any, batch: Batch, embeddings: torch.Tensor) -> dict[str, torch.Tensor]:
        predicted = model.pooled(batch, embeddings, "mean").sum(dim=1)
        return {"loss": self.settings.length_weight * (predicted - batch.sets_per_stay.log()).square().mean()}

    def training_terms(self, model: Any, batch: Batch, embeddings: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        return self.validation_terms(model, batch, embeddings)

    def end_of_validation(self, step: int) -> dict[str, float]:
        return {"val_step": float(step)}

    def hyper_parameters(self) -> dict[str, Any]:
        return {"length_weight": self.settings.length_weight}


def _build_model(architecture: str, sizes: Any) -> nn.Module:
    return ARCHITECTURES[architecture].build(sizes)


LENGTH = SimpleNamespace(
    TRAINS=None,
    Settings=LengthSettings,
    WATCHED=("val_loss", "min"),
    METRICS=("train_loss", "val_loss", "val_step"),
    PRINTED=("train_loss", "val_loss"),
    build_model=_build_model,
    build_loss=lambda settings, sizes: Length(settings),
    advice=lambda *_: ["this is advice of the objective"],
)

# ------------------------------------------------------------------------------------------------ mode


@dataclass(frozen=True, kw_only=True)
class CountSettings:
    """What the mode reads."""

    at_least: int = argument(integer(0), "count: fewest stays", default=0)
    data: DataSettings


def _problems(settings: CountSettings) -> list[str]:
    return ["at_least: received 13; allowed: any other number"] if settings.at_least == 13 else []


def _run(settings: CountSettings) -> None:
    print(f"at least {settings.at_least} stays in {settings.data.data_dir}")


COUNT = SimpleNamespace(HELP="count stays", NEEDS=("data_dir",), Settings=CountSettings, problems=_problems, run=_run)


# ------------------------------------------------------------------------------------------------ source


class Clocks:
    """Every clock is a subject with two samples, after two hours and after all three; the first is positive."""

    description = "clocks"

    def __init__(self, n_clocks: int) -> None:
        stays = [
            Stay(2 * clock + at, f"clock {clock}", subject_id=clock, prediction_minute=end)
            for clock in range(n_clocks)
            for at, end in enumerate((120.0, None))
        ]
        self.stays: dict[str, Sequence[Stay]] = {"train": stays[:n_clocks], "valid": stays[n_clocks:]}
        self.skips: list[Skip] = []
        self.unnamed_rows = UnnamedRows()

    def read(self, stays: Stays) -> Rows:
        hours = np.tile(np.arange(3.0), len(stays))
        return Rows(
            stays=stays,
            n_rows=np.full(len(stays), 3),
            names=["hour"],
            variable=np.zeros(len(hours), dtype=np.int32),
            value=hours,
            minute=60 * hours,
            set_index=None,
            has_set_index=np.zeros(len(stays), dtype=bool),
        )


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clocks", type=int, default=8)


def _open_source(arguments: argparse.Namespace) -> Opened:
    labels = {number: 1 - number % 2 for number in range(2 * arguments.clocks)}
    return Opened(source=Clocks(arguments.clocks), label_name="running", labels=labels)


CLOCKS = SimpleNamespace(HELP="clocks", add_flags=_add_flags, open_source=_open_source)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "bag", BAG)
    monkeypatch.setitem(OBJECTIVES, "length", LENGTH)
    monkeypatch.setitem(MODES, "count", COUNT)
    monkeypatch.setitem(SOURCES, "clocks", CLOCKS)
    monkeypatch.setitem(VALUE_TRANSFORMS, "signs", Signs)


def test_an_architecture_and_an_objective_pretrain_fine_tune_and_evaluate(compiled, tmp_path):
    flags = {"architecture": "bag", "data_dir": compiled.path, "output_root_dir": tmp_path}
    printed = succeeded(
        command("pretrain", **flags, bag_width=6, objective="length", length_weight=2, max_epochs=2, batch_size=8)
    )
    assert "this is advice of the objective" in " ".join(printed.split())
    pretrained = run_of(tmp_path, "pretrain") / "checkpoints" / "best.ckpt"
    assert read_checkpoint(pretrained).architecture == "bag"
    assert read_checkpoint(pretrained).trained_on.transform == Signs()
    assert rows_of(run_of(tmp_path, "pretrain"))[-1]["val_step"] == "16.0"

    succeeded(finetune(pretrained, compiled.path, tmp_path, architecture="bag"))  # cached features included
    run = run_of(tmp_path)
    assert len(rows_of(run)) == 3
    printed = succeeded(command("evaluate", ckpt=run, split="valid", output_root_dir=tmp_path))
    best = max(float(row["val_auc"]) for row in rows_of(run))
    assert printed_figure(printed, "AUROC") == f"{best:.4f}"
    flags = {"architecture": "bag", "summaries": True, "tree_models": 0, "batch_size": 16, "max_epochs": 2}
    succeeded(finetune(pretrained, compiled.path, tmp_path / "beside", **flags))  # it still reads signs alone
    assert command("evaluate", ckpt=run_of(tmp_path / "beside"), split="valid", output=tmp_path / "out")[0] == 0


def test_a_checkpoint_of_another_architecture_is_refused(pretrained, compiled, tmp_path):
    errors = refused(finetune(pretrained, compiled.path, tmp_path, architecture="bag"))
    assert "architecture: received 'bag'" in errors
    assert "has the architecture 'seqsetvae'" in errors


def test_an_objective_names_the_architectures_that_it_cannot_train(compiled, tmp_path):
    errors = refused(command("pretrain", architecture="bag", data_dir=compiled.path, output_root_dir=tmp_path))
    assert "objective: received 'reconstruction'; it trains only seqsetvae, not bag" in errors


def test_a_mode_brings_its_flags_and_rules(compiled):
    # It does not read --accelerator, which `command` passes.
    assert "accelerator" in refused(command("count", data_dir=compiled.path, at_least=3))
    status, printed, _ = call(argv(mode="count", data_dir=compiled.path, at_least=3))
    assert (status, printed) == (0, f"at least 3 stays in {compiled.path}\n")
    errors = refused(call(argv(mode="count", data_dir=compiled.path, at_least=13)))
    assert "at_least: received 13; allowed: any other number" in errors
    status, _, errors = call(argv(mode="count"))
    assert "data_dir: not given" in errors


def test_a_source_brings_its_flags_stays_and_labels(tmp_path):
    assert data_command(["clocks", str(tmp_path / "out"), "--clocks", "12"]) == 0
    cohort = open_cohort(tmp_path / "out")
    assert cohort.label_name == "running"
    assert {name: split.n_stays for name, split in cohort.splits.items()} == {"train": 12, "valid": 12}
    assert cohort.vocabulary == ("hour",)
    valid = cohort.split("valid")
    assert valid.subject_id[:4].tolist() == [6, 6, 7, 7]
    assert valid.label[:4].tolist() == [1, 0, 1, 0]
    assert np.diff(valid.stay_offset)[:4].tolist() == [2, 3, 2, 3]  # the event at minute 120 comes too late
