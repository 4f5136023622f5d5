"""--mode embed: a backbone's states of every stay, from outside."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from seqsetvae.cohort.profile import Profile
from seqsetvae.runs import embed
from tests import tiny
from tests.command import command, refused, succeeded


def _embed(pretrained: Path, data_dir: Path, output: Path, **flags: object) -> tuple[int, str, str]:
    given = {"pretrained_ckpt": pretrained, "data_dir": data_dir, "split": "train", "output": output}
    return command("embed", **{**given, "output_root_dir": output.parent, **flags})


@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-4), ("64-true", 1e-6)])
def test_every_stay_has_its_mu_and_history_in_the_order_of_its_sets(
    pretrained, compiled, tmp_path, precision, tolerance
):
    output = tmp_path / "states.npz"
    said = succeeded(_embed(pretrained, compiled.path, output, precision=precision, batch_size=7))
    split = compiled.split("train")
    assert f"{split.n_stays} stays" in said
    z_scores = compiled.variables.z_scores(split.variable, split.value)
    plain_model = tiny.plain_model(tiny.tiny_backbone(dtype=torch.float64))
    table = torch.from_numpy(compiled.embeddings.copy())
    with np.load(output, allow_pickle=False) as arrays:
        assert set(arrays.files) == {f"{stay}/{name}" for stay in split.stay_id.tolist() for name in ("mu", "history")}
        for n in (0, 17, 41):
            sets = range(int(split.stay_offset[n]), int(split.stay_offset[n + 1]))
            stay = [
                (
                    float(split.minute[s]),
                    [
                        (int(split.variable[e]), float(z_scores[e]))
                        for e in range(int(split.set_offset[s]), int(split.set_offset[s + 1]))
                    ],
                )
                for s in sets
            ]
            with torch.no_grad():
                mu, _, history = plain_model(stay, table)
            for name, expected in (("mu", mu), ("history", history)):
                found = arrays[f"{split.stay_id[n]}/{name}"]
                assert found.dtype == np.float32
                assert found.shape == (len(stay), 32)
                np.testing.assert_allclose(found, expected.float().numpy(), rtol=0, atol=tolerance)
    assert [path.name for path in tmp_path.iterdir()] == ["states.npz"]


def test_a_file_of_the_old_fine_tuning_is_used_and_its_random_weights_are_said(compiled, tmp_path):
    old = tiny.write_checkpoint(tmp_path / "old.ckpt", tiny.tiny_backbone(), "fine-tuned legacy")
    said = succeeded(_embed(old, compiled.path, tmp_path / "states.npz", heads=2, transformer_heads=4))
    assert "⚠️  RANDOM WEIGHTS IN THE FILE: It was fine-tuned by the old scripts: rel_time_bucket_embed.weight" in said


def test_sets_that_were_cut_off_are_not_counted(pretrained, compiled, tmp_path):
    said = succeeded(_embed(pretrained, compiled.path, tmp_path / "states.npz", max_sets=2))
    with np.load(tmp_path / "states.npz") as arrays:
        written = sum(len(arrays[name]) for name in arrays.files if name.endswith("/mu"))
    assert f"{written:,} sets" in said
    assert written < compiled.split("train").n_sets


def test_an_output_that_exists_is_left_alone(pretrained, compiled, tmp_path):
    output = tmp_path / "states.npz"
    output.write_text("precious", encoding="utf-8")
    assert "which already exists" in refused(_embed(pretrained, compiled.path, output))
    assert output.read_text(encoding="utf-8") == "precious"


def test_of_two_that_write_one_output_the_slower_one_is_refused(pretrained, compiled, tmp_path, monkeypatch):
    output, real = tmp_path / "states.npz", embed.encode

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(embed, "encode", real)
        assert _embed(pretrained, compiled.path, output)[0] == 0  # another process finishes while this one is at work
        return real(*arguments)

    monkeypatch.setattr(embed, "encode", overtaken)
    errors = refused(_embed(pretrained, compiled.path, output, max_sets=2))
    assert errors == f"error: {output} exists already and is not overwritten. Name another one or delete it.\n"
    with zipfile.ZipFile(output) as archive:
        assert archive.testzip() is None
    with np.load(output) as arrays:
        written = sum(len(arrays[name]) for name in arrays.files if name.endswith("/mu"))
    assert written == compiled.split("train").n_sets
    assert [path.name for path in tmp_path.iterdir()] == ["states.npz"]


def test_a_full_disk_is_one_error_and_leaves_no_output(pretrained, compiled, tmp_path):
    with tiny.largest_file(10_000):
        status, _, errors = _embed(pretrained, compiled.path, tmp_path / "states.npz")
    assert status == 2
    assert errors.startswith(f"error: {tmp_path / 'states.npz'}: cannot be written (File too large). Free disk space")
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_neither_labels_nor_other_splits_are_needed(pretrained, old_layout, compiled, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(old_layout / "train", data / "patient_ehr" / "train")
    for name in ("stats.csv", "cached.csv"):
        shutil.copy(old_layout.parent / name, data / name)
    succeeded(_embed(pretrained, data, tmp_path / "states.npz"))
    with np.load(tmp_path / "states.npz") as arrays:
        assert len(arrays.files) == 2 * compiled.split("train").n_stays
    assert "no split 'test'; it has train" in refused(_embed(pretrained, data, tmp_path / "other.npz", split="test"))
    assert not (tmp_path / "other.npz").exists()


def test_training_variables_that_are_missing_are_said(pretrained, old_layout, compiled, tmp_path):
    shutil.copytree(old_layout.parent, tmp_path / "data")
    for file in (tmp_path / "data" / "patient_ehr" / "test").iterdir():
        rows = pd.read_parquet(file)
        rows[rows["variable"] != "heart rate"].to_parquet(file)
    content = torch.load(pretrained, weights_only=True)
    torch.save(content | {"training_data": Profile.from_cohort(compiled).as_plain()}, tmp_path / "new.ckpt")
    said = succeeded(_embed(tmp_path / "new.ckpt", tmp_path / "data", tmp_path / "states.npz", split="test"))
    assert "are missing here, or nearly: 'heart rate'" in said


@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-4), ("64-true", 1e-6)])
def test_golden_numbers_from_outside(golden, tmp_path, precision, tolerance):
    succeeded(
        _embed(
            golden / "tiny" / "pretrain.ckpt",
            golden / "tiny" / "patient_ehr",
            tmp_path / "states.npz",
            precision=precision,
        )
    )
    with np.load(golden / "tiny" / "expected.npz") as expected, np.load(tmp_path / "states.npz") as found:
        assert set(found.files) == {name for name in expected.files if name.endswith(("/mu", "/history"))}
        for name in found.files:
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=tolerance, err_msg=name)


def test_an_architecture_without_states_is_refused(pretrained, compiled, tmp_path):
    flags = {"pretrained_ckpt": pretrained, "data_dir": compiled.path, "output": tmp_path / "e.npz"}
    errors = refused(command("embed", split="valid", architecture="variable_summaries", **flags))
    assert "architecture: received 'variable_summaries', which has no state of each set" in errors
