"""What is quick to check is checked before a checkpoint is read and before data are hashed or compiled."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import command, finetune, succeeded

# ------------------------------------------------------------------------------------------------ cheap checks first


@pytest.fixture
def data(old_layout: Path, tmp_path: Path) -> Path:
    """A copy of the side files, beside a link to the same stays."""
    folder = tmp_path / "processed"
    folder.mkdir()
    for name in ("stats.csv", "oc.csv", "cached.csv"):
        shutil.copy(old_layout.parent / name, folder)
    (folder / "patient_ehr").mkdir()
    for split in ("train", "valid", "test"):
        (folder / "patient_ehr" / split).symlink_to(old_layout / split)
    return folder


def _edit(file: Path, change: Callable[[str], str]) -> None:
    file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")


def _encode(file: Path, encoding: str) -> None:
    file.write_text(file.read_text(encoding="utf-8"), encoding=encoding)


@pytest.fixture
def nothing_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """No checkpoint may be read, and no data may be hashed or compiled."""
    for name in ("runs.opening.read_checkpoint", "cohort.open.open_or_compile"):
        monkeypatch.setattr(f"seqsetvae.{name}", lambda *_, **__: pytest.fail("something slow was begun"))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no label column": (
        lambda data: _edit(data / "oc.csv", lambda text: text.replace("in_hospital_mortality", "died")),
        "in_hospital_mortality",
    ),
    "a label of 2": (
        lambda data: _edit(data / "oc.csv", lambda text: text.replace(",0\n", ",2\n").replace(",0\r", ",2\r")),
        "allowed: 0, 1",
    ),
    "one class": (
        lambda data: _edit(data / "oc.csv", lambda text: text.replace(",1\n", ",0\n").replace(",1\r", ",0\r")),
        "split 'train' has 60 stays of class 0, 0 of class 1",
    ),
    "labels of other stays": (
        lambda data: (data / "oc.csv").write_text("ts_id,in_hospital_mortality\n1,0\n2,1\n"),
        "60 without a label",
    ),
    "no labels": (lambda data: (data / "oc.csv").unlink(), "--label_path"),
    "no std column": (
        lambda data: _edit(data / "stats.csv", lambda text: text.replace(",std", ",sd")),
        "stats.csv: has no column std",
    ),
    "no Key column": (
        lambda data: _edit(data / "cached.csv", lambda text: text.replace("Key", "name")),
        "cached.csv: has no column Key",
    ),
    "labels in UTF-16": (
        lambda data: _encode(data / "oc.csv", "utf-16"),
        "oc.csv: cannot be read as a CSV file in UTF-8",
    ),
    "statistics in UTF-16": (lambda data: _encode(data / "stats.csv", "utf-16"), "stats.csv: cannot be read as a CSV"),
    "half a download of the labels": (
        lambda data: _edit(data / "oc.csv", lambda text: text[: text.rindex(",")]),
        "oc.csv: cannot be read (after row",
    ),
    "no validation split": (lambda data: (data / "patient_ehr" / "valid").unlink(), "no split 'valid'"),
}


@pytest.mark.usefixtures("nothing_slow")
@pytest.mark.parametrize("fault", FAULTS)
def test_side_files_are_checked_before_anything_slow(fault, data, pretrained, tmp_path):
    damage, expected = FAULTS[fault]
    damage(data)
    status, printed, errors = finetune(pretrained, data, tmp_path / "out")
    assert (status, printed) == (2, "")
    assert expected in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("nothing_slow")
@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"label_name": "died"}, "--label_name died"), ({"label_path": "oc.csv"}, "compiled cohort, which holds")],
)
def test_a_compiled_cohort_is_checked_before_anything_slow(
    flags, expected, data, pretrained, compiled, tmp_path,
    monkeypatch
):  # fmt: skip
    monkeypatch.chdir(data)
    status, printed, errors = finetune(pretrained, compiled.path, tmp_path / "out", **flags)
    assert (status, printed) == (2, "")
    assert expected in errors


def test_the_embedding_width_is_compared_before_the_data_are_hashed(data, pretrained, tmp_path, monkeypatch):
    (data / "cached.csv").unlink()  # embeddings are then generated, with another width
    monkeypatch.setattr("seqsetvae.cohort.open.open_or_compile", lambda *_, **__: pytest.fail("the data were hashed"))
    status, printed, errors = finetune(pretrained, data, tmp_path / "out")
    assert (status, printed) == (2, "")
    assert "variable embeddings of width 12; those of the data" in errors
    assert "have width 768" in errors


def test_pretraining_needs_no_labels(data, tmp_path):
    (data / "oc.csv").unlink()
    flags = {"preset": "small", "max_epochs": 1, "batch_size": 32, "max_sets": 3}
    succeeded(command("pretrain", data_dir=data, output_root_dir=tmp_path, **flags))
