"""--mode export: a folder that says what the model is, gives the same predictions, and shows nothing of its maker."""

from __future__ import annotations

import builtins
import getpass
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from seqsetvae import load
from seqsetvae.checkpoint.backbone import read_checkpoint
from seqsetvae.checkpoint.finetuned import load_finetuned
from seqsetvae.evaluation import onnx_file
from seqsetvae.system.errors import InputError
from seqsetvae.training.run_folder import EXPORTED
from tests.command import argv, call, command, finetune, refused, rows_of, run_of, succeeded

pytest.importorskip("safetensors", reason="safetensors is not installed")
needs_onnx = pytest.mark.skipif(bool(onnx_file.missing_packages()), reason="ONNX packages are not installed")


def export(ckpt: Path, output: Path, **flags: object) -> str:
    return succeeded(call(argv(mode="export", ckpt=ckpt, output=output, output_root_dir=output.parent, **flags)))


@pytest.fixture
def no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the ONNX packages, whose import takes seconds, were not installed."""
    monkeypatch.setattr(onnx_file, "missing_packages", lambda: ["onnxscript"])


@pytest.fixture(scope="module")
def exported(finished: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(folder, what was printed) of the finished run, with ONNX files where the packages are installed."""
    folder = tmp_path_factory.mktemp("export") / "model"
    return folder, export(finished[0], folder)


def predicted(ckpt: Path, data_dir: Path, output: Path) -> str:
    succeeded(command("predict", ckpt=ckpt, data_dir=data_dir, output=output, output_root_dir=output.parent))
    return output.read_text(encoding="utf-8")


def test_the_exported_folder_predicts_the_same_to_the_last_digit(finished, exported, compiled, old_layout, tmp_path):
    ours = predicted(finished[0], compiled.path, tmp_path / "run.csv")
    assert predicted(exported[0], compiled.path, tmp_path / "folder.csv") == ours  # with the calibration
    assert predicted(exported[0] / EXPORTED, old_layout, tmp_path / "file.csv") == ours
    model, again = load(finished[0]), load(exported[0])
    one, other = model.trained_on, again.trained_on
    assert replace(one, variables=None) == replace(other, variables=None)
    assert one.variables is not None
    assert other.variables is not None
    assert one.variables.content_hash == other.variables.content_hash
    for name, value in model.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def test_an_exported_folder_needs_events_alone(exported, old_layout, compiled, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "patient_ehr").symlink_to(old_layout)
    ours = predicted(exported[0], compiled.path, tmp_path / "with.csv").splitlines()
    new = predicted(exported[0], tmp_path / "new", tmp_path / "without.csv").splitlines()
    assert [line.split(",")[:4] for line in new] == [line.split(",")[:4] for line in ours]


def test_the_card_says_what_the_model_is(exported, finished, compiled):
    card = json.loads((exported[0] / "card.json").read_text(encoding="utf-8"))
    assert (card["kind"], card["architecture"], card["label"]) == ("fine-tuned", "seqsetvae", "in_hospital_mortality")
    assert card["sizes"]["latent_dim"] == 32
    assert [(each["name"], each["mean"], each["std"]) for each in card["variables"]] == list(
        zip(compiled.vocabulary, compiled.mean.tolist(), compiled.std.tolist(), strict=True)
    )
    calibration = json.loads((finished[0] / "calibration.json").read_text(encoding="utf-8"))
    assert card["calibration"]["slope"] == calibration["slope"]
    assert card["trained_on"]["splits"]["train"] == compiled.manifest["splits"]["train"]
    summary = json.loads((finished[0] / "summary.json").read_text(encoding="utf-8"))
    assert card["trained_on"]["best"] == summary["best"]


def test_the_model_card_says_what_the_run_knows_and_asks_the_rest(exported, compiled):
    text = (exported[0] / "model_card.md").read_text(encoding="utf-8")
    assert text.startswith("# seqsetvae: in_hospital_mortality\n\n## Model\n")
    counts = compiled.manifest["splits"]["train"]
    assert f"train: {counts['stays']} stays" in text
    assert f"{counts['positives']} positives" in text
    assert "Not evaluated on stays that took no part in training" in text
    assert text.count("To be answered by the authors: ") == 2


def test_a_hub_folder_has_its_names_the_metrics_and_the_same_predictions(finished, compiled, tmp_path, no_onnx):
    run, hub = tmp_path / "run", tmp_path / "hub"
    shutil.copytree(finished[0], run)
    succeeded(command("evaluate", ckpt=run, split="test", data_dir=compiled.path))
    export(run, hub, to="hub_folder", data_dir=compiled.path)
    names = {"model.safetensors", "config.json", "README.md", "calibration.json"}
    assert {file.name for file in hub.iterdir()} == names
    assert json.loads((hub / "config.json").read_text(encoding="utf-8"))["model_type"] == "seqsetvae"
    _, metadata, text = (hub / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    result = yaml.safe_load(metadata)["model-index"][0]["results"][0]
    figures = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["figures"]
    assert (result["task"], result["dataset"]["split"]) == ({"type": "tabular-classification"}, "test")
    values = {each["name"]: each["value"] for each in result["metrics"]}
    assert values["AUROC"] == figures["auroc"]["value"]
    auroc = figures["auroc"]
    assert f"| AUROC | {auroc['value']:.4f} ({auroc['low']:.4f} to {auroc['high']:.4f}) |" in text
    ours = predicted(run, compiled.path, tmp_path / "run.csv")
    assert predicted(hub, compiled.path, tmp_path / "hub.csv") == ours


def test_nothing_in_the_folder_names_a_path_a_user_or_a_stay(exported, finished, compiled):
    secrets = {getpass.getuser(), str(Path.home()), str(Path.cwd()), "Läufe", "site-packages", str(finished[0].parent)}
    stays = {str(stay) for split in compiled.splits.values() for stay in split.stay_id}
    for file in exported[0].iterdir():
        content = file.read_bytes()
        found = [name for name in secrets if len(name) > 4 and name.encode() in content]
        assert not found, file.name
        if file.suffix in (".json", ".csv"):
            words = set(content.decode().replace(",", " ").replace('"', " ").split())
            assert not words & stays, file.name


@needs_onnx
def test_onnx_files_give_what_torch_gives(exported, finished):
    ort = pytest.importorskip("onnxruntime")
    folder, said = exported
    assert "history_encoder.onnx: onnxruntime differs from torch by at most" in said
    assert "Not in ONNX: the set encoder, which reads sets of any size without padding" in said
    model = load(finished[0]).model
    history = model.backbone.padded_history().eval()
    rng, width = np.random.default_rng(1), model.backbone.sizes.latent_dim
    for stays, sets in ((1, 1), (3, 50)):  # other numbers of stays and sets than in the command
        inputs = {
            "mu": rng.normal(size=(stays, sets, width)).astype(np.float32),
            "minute": np.cumsum(rng.choice([0.0, 0.5, 60.0, 1440.0, 3000.0], (stays, sets)), axis=1),
        }
        (found,) = ort.InferenceSession(folder / "history_encoder.onnx").run(None, inputs)
        with torch.no_grad():
            expected = history(*map(torch.from_numpy, inputs.values()))
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    pooled = rng.normal(size=(5, model.backbone.pooled_width(model.pooling))).astype(np.float32)
    (logits,) = ort.InferenceSession(folder / "head.onnx").run(None, {"pooled": pooled})
    np.testing.assert_allclose(logits, model.head(torch.from_numpy(pooled)).detach().numpy(), atol=1e-5)


@needs_onnx
def test_a_file_that_differs_from_torch_is_not_written(tmp_path):
    inputs = {"x": torch.ones(2, 3)}
    part = onnx_file.Part(torch.nn.Linear(3, 1), inputs, {"x": ("rows",)}, "y", torch.full((2, 1), 7.0))
    with pytest.raises(FloatingPointError, match=r"y.onnx: onnxruntime differs from torch by .*nothing was written"):
        onnx_file.write_onnx(part, tmp_path / "y.onnx")
    assert not list(tmp_path.iterdir())


def test_without_the_onnx_packages_the_rest_is_written_and_one_line_says_so(finished, tmp_path, no_onnx):
    said = export(finished[0], tmp_path / "model")
    assert "No ONNX files: onnxscript not installed (pip install onnx onnxscript onnxruntime)\n" in said
    assert {file.name for file in (tmp_path / "model").iterdir()} == {
        *("model.safetensors", "card.json", "model_card.md", "calibration.json")
    }


def test_without_safetensors_one_error_says_so(finished, tmp_path, monkeypatch):
    real: Callable[..., Any] = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    errors = refused(call(argv(mode="export", ckpt=finished[0], output=tmp_path / "model")))
    assert errors == (
        "error: safetensors is not installed; --mode export and .safetensors checkpoints need it: "
        "pip install safetensors\n"
    )
    assert not list(tmp_path.iterdir())


def test_an_exported_pretrained_checkpoint_can_be_fine_tuned(pretrained, compiled, tmp_path, no_onnx):
    said = export(pretrained, tmp_path / "backbone", data_dir=compiled.path)
    assert "The card does not say how many stays it was trained on" in said
    ours, theirs = read_checkpoint(pretrained), read_checkpoint(tmp_path / "backbone" / EXPORTED)
    assert ours.weights.keys() == theirs.weights.keys()
    assert all(torch.equal(ours.weights[name], theirs.weights[name]) for name in ours.weights)
    assert theirs.not_stated == []
    runs = []
    for name, checkpoint in (("old", pretrained), ("new", tmp_path / "backbone")):
        succeeded(finetune(checkpoint, compiled.path, tmp_path / name, max_epochs=1))
        runs.append(rows_of(run_of(tmp_path / name)))
    assert runs[0] == runs[1]


def test_trees_and_an_ensemble_are_exported_too(compiled, tmp_path, no_onnx):
    flags = {"tree_models": 1, "head_members": 2, "summary_width": 8, "max_epochs": 1, "average": "fixed"}
    flags |= {"architecture": "variable_summaries", "from_random_weights": "true"}
    succeeded(command("finetune", data_dir=compiled.path, output_root_dir=tmp_path, **flags))
    run = run_of(tmp_path)
    export(run, tmp_path / "model")
    ours = predicted(run, compiled.path, tmp_path / "run.csv")
    assert predicted(tmp_path / "model", compiled.path, tmp_path / "model.csv") == ours


def test_a_damaged_file_is_one_error(exported, tmp_path):
    content = bytearray((exported[0] / EXPORTED).read_bytes())
    content[-5] ^= 1
    (tmp_path / "flipped.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="the checksum of its weights does not match"):
        load_finetuned(tmp_path / "flipped.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(content[:100])
    with pytest.raises(InputError, match="not a safetensors file, or damaged"):
        load_finetuned(tmp_path / "cut.safetensors")


def test_an_existing_folder_is_left_alone(finished, tmp_path):
    errors = refused(call(argv(mode="export", ckpt=finished[0], output=tmp_path)))
    assert "output: received" in errors
    assert "already exists; allowed: a new folder" in errors
