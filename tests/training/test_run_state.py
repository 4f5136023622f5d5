"""The state of a run survives JSON, and run_state.json is the state after the newest validation."""

import json

import pytest

from seqsetvae.training import stages
from seqsetvae.training.callbacks import GpuWatch
from seqsetvae.training.feature_pass import FeaturePass
from seqsetvae.training.run_folder import RUN_STATE, Row, RunState
from tests.training.helpers import scripted_run


def _row(stage: int, epoch: int, waiting: float | None) -> Row:
    return Row(stage, epoch, 4 * epoch, {"val_auc": 0.1 + 0.2 * epoch}, {"lr_head": 1e-3}, 10.5, waiting, 1 / 3)


def test_what_is_written_as_json_reads_back_equal():
    state = RunState(
        stage=2,
        rows=(_row(1, 1, None), _row(2, 2, 0.25)),
        trained={1: {"backbone": 0, "head": 5}, 2: {"backbone": 7, "head": 5}},
        passes=(FeaturePass(60, 0.1, 2.5),),
        gpu_busy=(80, 95),
        best_score=0.1 + 0.2,
        best_path="checkpoints/best.ckpt",
    )
    assert RunState.from_plain(json.loads(json.dumps(state.as_plain()))) == state
    assert RunState.from_plain(json.loads(json.dumps(RunState().as_plain()))) == RunState()
    assert (state.epochs, state.steps) == (2, 8)
    assert (RunState().epochs, RunState().steps) == (0, 0)


def test_the_file_of_a_run_is_its_state_over_both_stages(compiled, tmp_path):
    _, run = scripted_run(compiled, tmp_path, [0.6, 0.9, 0.7, 0.8], max_epochs=4)
    state = RunState.from_plain(run.folder.read_json(RUN_STATE))
    assert state == run.state
    assert (state.stage, state.epochs, len(state.rows), len(state.passes)) == (2, 4, 4, 2)
    assert state.best_score == pytest.approx(0.9)  # from stage 1; stage 2 was never better
    assert run.folder.path / str(state.best_path) == run.folder.best
    assert set(state.trained) == {1, 2}


def test_the_file_is_written_after_every_validation(compiled, tmp_path, monkeypatch):
    written: list[int] = []

    def read_then_print(line: str) -> None:
        for file in tmp_path.glob(f"*/{RUN_STATE}"):
            written.append(len(json.loads(file.read_text(encoding="utf-8"))["rows"]))

    monkeypatch.setattr(stages, "print_line", read_then_print)
    scripted_run(compiled, tmp_path, [0.6, 0.9, 0.7], max_epochs=3)
    assert written == [1, 2, 3]


def test_gpu_samples_of_all_stages_are_kept(compiled, tmp_path, monkeypatch):
    monkeypatch.setattr(GpuWatch, "on_train_epoch_start", lambda self, *_: self.samples.append(50), raising=False)
    _, run = scripted_run(compiled, tmp_path, [0.6, 0.9, 0.7], max_epochs=3)
    assert run.state.gpu_busy == (50, 50, 50)
