"""Export: a checkpoint as a folder for other programs: safetensors, a JSON card, and ONNX where that is exact."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from seqsetvae import __version__
from seqsetvae.batches.batch import Batch
from seqsetvae.batches.transform import VALUE_TRANSFORM
from seqsetvae.checkpoint.backbone import Loaded, read_checkpoint
from seqsetvae.checkpoint.file import read_file, write_safetensors
from seqsetvae.checkpoint.finetuned import is_finetuned
from seqsetvae.checkpoint.record import ARCHITECTURE, VARIABLES, record_of
from seqsetvae.cli.export import FIXED, Settings
from seqsetvae.cohort import Cohort
from seqsetvae.evaluation import onnx_file
from seqsetvae.evaluation.calibration import read_calibration, write_calibration
from seqsetvae.evaluation.model_card import hub_metadata, model_card
from seqsetvae.evaluation.onnx_file import PACKAGES, Part, as_card, write_onnx
from seqsetvae.evaluation.results import evaluation_schema
from seqsetvae.models.members import TREES
from seqsetvae.runs.evaluate import EVALUATION
from seqsetvae.runs.opening import load_pretrained, open_run
from seqsetvae.runs.scoring import data_dir_of_run, is_data_of_run, open_scorer
from seqsetvae.settings.declare import changed
from seqsetvae.settings.groups import PretrainedSettings
from seqsetvae.system.files import file_sha256, new_folder
from seqsetvae.system.schema import read_checked
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.spec import Spec
from seqsetvae.training.run_folder import EXPORTED, SUMMARY, RunFolder, find_checkpoint
from seqsetvae.training.summary import partial_weights_advice

CARDS = "card.json", "model_card.md"
HUB_CARDS = "config.json", "README.md"  # the same as model hubs call them
FINETUNED, PRETRAINED = "fine-tuned", "pretrained"


@dataclass(frozen=True)
class Exported:
    """A checkpoint as it is read, and data that it can be tried on."""

    kind: str
    path: Path
    folder: RunFolder | None
    weights: dict[str, torch.Tensor]
    content: dict[str, Any]  # what else the checkpoint records
    backbone: Any
    cohort: Cohort
    batch: Batch  # a few stays of it
    embeddings: torch.Tensor  # as from variables.variable_table
    is_data_of_run: bool
    head: Any = None
    spec: Spec | None = None  # what a fine-tuned model predicts
    texts: dict[str, list[str]] = field(default_factory=dict)  # long texts of the hyper-parameters
    notes: tuple[str, ...] = ()  # what a reader of the card must know of the weights

    @property
    def is_calibrated(self) -> bool:
        """Whether a model of this kind has a calibration."""
        return self.spec is not None and TASKS[self.spec.task].Calibration is not None


def run(settings: Settings) -> Path:
    """Write the folder --output: model.safetensors, card.json, calibration and .onnx files."""
    output, ckpt = settings.output.output, settings.finetuned.ckpt
    assert ckpt is not None, "settings are checked before a mode runs"
    assert output is not None, "settings are checked before a mode runs"
    settings = changed(settings, **FIXED)
    path, folder = find_checkpoint(ckpt[0])
    model = (_finetuned if is_finetuned(path) else _pretrained)(settings, path, folder)
    with new_folder(output) as partial:
        write_safetensors(partial / EXPORTED, model.weights, model.content, model.texts)
        calibration = _copy_calibration(model, partial / EXPORTED) if model.is_calibrated else None
        onnx, said = _write_onnx(model, partial)
        card = _card(model, calibration, onnx, said)
        evaluation = _evaluation(model)
        is_hub = settings.to == "hub_folder"
        card_file, text_file = HUB_CARDS if is_hub else CARDS
        text = hub_metadata(card, evaluation) * is_hub + model_card(card, evaluation)
        (partial / card_file).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (partial / text_file).write_text(text, encoding="utf-8")
        files = sorted(file.name for file in partial.iterdir())
    print("\n".join(said))
    print(f"Wrote {output}: {', '.join(files)}")
    return output


def _finetuned(settings: Settings, path: Path, folder: RunFolder | None) -> Exported:
    scorer = open_scorer(path, settings.data, settings.loader, settings.run, [], labelled=False)
    recorded = dict(read_file(path)["hyper_parameters"])
    texts = {TREES: recorded.pop(TREES)} if TREES in recorded else {}
    model, cohort, split = scorer.model, scorer.cohort, list(scorer.cohort.splits)[-1]
    return Exported(
        FINETUNED,
        path,
        folder,
        model.state_dict(),
        {"hyper_parameters": recorded, VARIABLES: record_of(scorer.trained_on.variables or cohort.variables)},
        model.backbone,
        cohort,
        next(iter(scorer.loaders.loader(split))),
        scorer.variables,
        scorer.is_data_of_run,
        model.head,
        scorer.spec,
        texts,
    )


def _pretrained(settings: Settings, path: Path, folder: RunFolder | None) -> Exported:
    data = replace(settings.data, data_dir=settings.data.data_dir or data_dir_of_run(folder, path))
    pretrained = PretrainedSettings(pretrained_ckpt=path, allow_partial_backbone=False)

    def load(width: int) -> Loaded:
        return load_pretrained(pretrained, settings.architecture, data, width)

    opened = open_run(data, settings.loader, settings.run, load=load)
    opened.ready()
    checkpoint, cohort, backbone, of = read_checkpoint(path), opened.cohort, opened.model, opened.trained_on
    content = {
        ARCHITECTURE: checkpoint.architecture,
        "hyper_parameters": backbone.sizes.as_dict(),
        VALUE_TRANSFORM: of.transform.as_plain(),
        VARIABLES: record_of(of.variables or cohort.variables),
    }
    return Exported(
        PRETRAINED,
        path,
        folder,
        checkpoint.weights,
        content,
        backbone,
        cohort,
        next(iter(opened.loaders.loader(list(cohort.splits)[-1]))),
        opened.variables,
        is_data_of_run(folder, cohort),
        notes=tuple(partial_weights_advice(opened.report)),
    )


def _copy_calibration(model: Exported, exported: Path) -> dict[str, Any] | None:
    """The calibration of the checkpoint, written for the exported file, whose checksum is another."""
    assert model.spec is not None, "only a fine-tuned model has one"
    calibration, line = read_calibration(model.path, model.spec.task)
    print(line)
    if calibration is None:
        return None
    return write_calibration(replace(calibration, checkpoint_sha256=file_sha256(exported)), exported)


def _write_onnx(model: Exported, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """({file: inputs and outputs}, a sentence for each part of the model that is not in a file)."""
    parts = _parts(model)
    missing = onnx_file.missing_packages()
    if missing:
        return {}, [f"No ONNX files: {', '.join(missing)} not installed (pip install {' '.join(PACKAGES)})"]
    written = {}
    for name, part in parts.items():
        difference = write_onnx(part, folder / name)
        print(f"{name}: onnxruntime differs from torch by at most {difference:.1e} on {model.batch.n_stays} stays")
        written[name] = {**as_card(part), "largest_difference": difference}
    return written, _onnx_limits(model)


def _parts(model: Exported) -> dict[str, Part]:
    """The parts of the model that ONNX can compute exactly, by file."""
    parts = {}
    batch, backbone = model.batch, model.backbone
    with torch.no_grad():
        if "padded_history" in backbone.OFFERS:
            mu = backbone.set_means(batch, model.embeddings)
            history = backbone.history(mu, batch, model.embeddings)
            read = backbone.history_input(mu, batch, model.embeddings)
            mask, padded = _padded(batch, mu=read, minute=batch.minute, history=history)
            inputs, axes = {name: padded[name] for name in ("mu", "minute")}, ("stays", "sets")
            parts["history_encoder.onnx"] = Part(
                backbone.padded_history(), inputs, dict.fromkeys(inputs, axes), "history", padded["history"], mask
            )
        if model.head is not None:
            pooled = backbone.pooled(batch, model.embeddings, model.content["hyper_parameters"]["head"]["pooling"])
            logits = model.head(pooled)
            parts["head.onnx"] = Part(model.head, {"pooled": pooled}, {"pooled": ("stays",)}, "logits", logits)
    return parts


def _padded(batch: Batch, **flat: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(which positions hold a set [N, T], arrays [N, T, ...] of these with a row for each set)."""
    stay, shape = batch.stay_of_set, (batch.n_stays, int(batch.sets_per_stay.max()))
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[stay, batch.set_index] = True
    padded = {name: rows.new_zeros(*shape, *rows.shape[1:]) for name, rows in flat.items()}
    for name, rows in flat.items():
        padded[name][stay, batch.set_index] = rows
    return mask, padded


def _onnx_limits(model: Exported) -> list[str]:
    has_history = "padded_history" in model.backbone.OFFERS
    said = [
        "Not in ONNX: the set encoder, which reads sets of any size without padding; --mode embed writes its means, mu."
        if has_history
        else f"Not in ONNX: the backbone of {model.backbone.architecture}, which computes its summaries in numpy."
    ]
    if has_history and model.backbone.running is not None:
        said.append("Not in ONNX: running statistics; mu of history_encoder.onnx is each set's mean plus their part.")
    if model.texts:
        said.append(
            "Not in ONNX: the other members of the average (trees, a linear model), so head.onnx alone is not what the "
            "model predicts; model.safetensors has them."
        )
    return said


def _card(
    model: Exported, calibration: Mapping[str, Any] | None, onnx: Mapping[str, Any], said: list[str]
) -> dict[str, Any]:
    """What a reader must know of the model; no ids, paths or names of users."""
    recorded, table = model.content["hyper_parameters"], model.content[VARIABLES]
    triples = zip(table["names"], table["mean"], table["std"], strict=True)
    return {
        "kind": model.kind,
        "architecture": model.backbone.architecture,
        "model_type": model.backbone.architecture,  # as model hubs call it
        "task": None if model.spec is None else model.spec.task,
        "sizes": model.backbone.sizes.as_dict(),
        "parameters": sum(value.numel() for value in model.weights.values()),
        "label": recorded.get("label_name"),
        "variables": [{"name": name, "mean": mean, "std": std} for name, mean, std in triples],
        "embeddings": {
            "source": "generated by name" if table["vectors"] is None else "file",
            "width": table["width"],
        },
        "calibration": calibration,
        "trained_on": _trained_on(model),
        "checkpoint": {name: value for name, value in model.content.items() if name != VARIABLES},
        "onnx": onnx,
        "notes": [*model.notes, *said],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"seqsetvae": __version__, "torch": torch.__version__},
    }


def _evaluation(model: Exported) -> dict[str, Any] | None:
    """The evaluation of this checkpoint in the folder of its run, if there is one."""
    file = None if model.folder is None else model.folder.path / EVALUATION
    content = None if file is None or not file.is_file() else read_checked(file, evaluation_schema)
    return content if content is not None and Path(content["checkpoint"]).name == model.path.name else None


def _counts(model: Exported, split: str) -> dict[str, int]:
    """Stays, sets and events of a split; the labels too, unless the task has others than those of the cohort."""
    counts = model.cohort.manifest["splits"][split]
    has_others = model.spec is not None and not TASKS[model.spec.task].LABEL_IN_COHORT
    of_label = ("labelled", "positives") if has_others else ()
    return {name: count for name, count in counts.items() if name not in of_label}


def _trained_on(model: Exported) -> dict[str, Any]:
    """Counts of the data and results of the run, where the checkpoint is in the folder of its run."""
    if not model.is_data_of_run or model.folder is None:
        print("The card does not say how many stays it was trained on: the data are not those of a run folder.")
        return {}
    cohort, file = model.cohort, model.folder.path / SUMMARY
    summary = model.folder.read_json(SUMMARY) if file.is_file() else {}
    return {
        "data": cohort.data_hash,
        "splits": {name: _counts(model, name) for name in ("train", "valid") if name in cohort.splits},
        **{name: summary[name] for name in ("watched", "kept", "best", "best_epoch") if name in summary},
    }
