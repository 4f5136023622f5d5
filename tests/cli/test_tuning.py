"""--tuning on the command line: what a run records, that its checkpoint is an ordinary one, and what is refused."""

import csv
import json
from pathlib import Path

import pytest

from seqsetvae.cohort import Cohort
from tests.command import command, finetune, refused, rows_of, run_of, succeeded

FLAGS = {
    "probe": {},
    "full": {},
    "last_layers": {"tuned_layers": 2},
    "layer_decay": {"layer_lr_factor": 0.5},
    "lora": {"lora_rank": 2, "lora_lr": 1e-3},
}
SHORT: dict[str, object] = {"max_epochs": 2, "unfreeze_after": 1}


def _finetune(pretrained: Path, compiled: Cohort, root: Path, **flags: object) -> tuple[int, str, str]:
    """A short run; without unfreeze_after where the tuning has its own."""
    words = {**SHORT, **flags}
    if flags.get("tuning") in ("probe", "full"):
        change = {name: value for name, value in words.items() if name != "unfreeze_after"}
        usual = {"batch_size": 4, "cls_head_lr": 3e-3, "lr": 1e-3, "warmup_steps": 5, "seed": 3}
        files = {"pretrained_ckpt": pretrained, "data_dir": compiled.path, "output_root_dir": root}
        return command("finetune", **{**files, **usual, **change})
    return finetune(pretrained, compiled.path, root, **words)


# The tunings themselves are tested in tests/training/test_tuning.py.
@pytest.mark.parametrize(
    "tuning",
    ["probe", "lora", *(pytest.param(name, marks=pytest.mark.slow) for name in ("full", "last_layers", "layer_decay"))],
)
def test_evaluate_and_predict_take_the_checkpoint_of_every_tuning(pretrained, compiled, tmp_path, tuning):
    succeeded(_finetune(pretrained, compiled, tmp_path, tuning=tuning, **FLAGS[tuning]))
    run = run_of(tmp_path)
    stages = {"probe": ["1", "1"], "full": ["2", "2"]}.get(tuning, ["1", "2"])
    assert [row["stage"] for row in rows_of(run)] == stages
    recorded = json.loads((run / "config.json").read_text(encoding="utf-8"))["settings"]
    assert recorded["tuning"] == tuning
    assert recorded["unfreeze_after"] == {"probe": None, "full": 0}.get(tuning, 1)
    succeeded(command("evaluate", ckpt=run, split="valid", output_root_dir=tmp_path))
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    best = max(float(row["val_auc"]) for row in rows_of(run))
    assert evaluation["figures"]["auroc"]["value"] == pytest.approx(best, abs=1e-6)  # what was validated is what loads
    output = tmp_path / "risks.csv"
    succeeded(command("predict", ckpt=run, split="valid", output=output, output_root_dir=tmp_path))
    with output.open(encoding="utf-8") as file, (run / "predictions.csv").open(encoding="utf-8") as other:
        assert [row["logit"] for row in csv.DictReader(file)] == [row["logit"] for row in csv.DictReader(other)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"tuning": "adapter"}, "tuning: received 'adapter'; allowed: one of two_stage, probe, full, last_layers, "),
        (
            {"tuning": "lora", "architecture": "variable_summaries"},
            "tuning: received 'lora'; allowed: two_stage, probe or full with --architecture variable_summaries",
        ),
        ({"tuning": "probe", "unfreeze_after": 2}, "unfreeze_after: received 2; --tuning probe sets it to None"),
        ({"tuning": "full", "unfreeze_after": 2}, "unfreeze_after: received 2; --tuning full sets it to 0"),
        ({"tuning": "lora", "unfreeze_after": "none"}, "allowed: less than max_epochs (= 2) with --tuning lora"),
        ({"tuning": "lora", "unfreeze_after": 2}, "allowed: less than max_epochs (= 2) with --tuning lora"),
        ({"tuning": "last_layers", "tuned_layers": 9}, "tuned_layers: received 9; allowed: at most 4"),
    ],
)
def test_what_does_not_go_together_is_refused_before_a_run_begins(pretrained, compiled, tmp_path, flags, message):
    files = {"pretrained_ckpt": pretrained, "data_dir": compiled.path, "output_root_dir": tmp_path}
    assert message in refused(command("finetune", **{**files, "max_epochs": 2, **flags}))
    assert not list(tmp_path.glob("finetune-*"))


def test_only_a_tuning_that_trains_everything_suits_a_random_backbone(compiled, tmp_path):
    flags = {"data_dir": compiled.path, "output_root_dir": tmp_path, "from_random_weights": "true"}
    errors = refused(command("finetune", **{**flags, "tuning": "lora", "unfreeze_after": 0}))
    assert "tuning: received 'lora'; allowed: two_stage, full or layer_decay with --from_random_weights" in errors
    succeeded(command("finetune", **{**flags, "tuning": "full", "preset": "small", "max_epochs": 1}))
