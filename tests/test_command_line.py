"""The command line of train_optimized.py: whatever is wrong ends in one clear error, before anything slow begins."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import finetune_config_optimized as config
import seqsetvae
import train_optimized
from seqsetvae.cohort import Cohort
from seqsetvae.settings import SHIPPED, SMALL, from_config, parser
from tests import tiny
from tests.training.test_finetune import command, finetune

ROOT = Path(__file__).resolve().parents[1]
CONFIG = (ROOT / "finetune_config_optimized.py").read_text(encoding="utf-8")


def _run_with_config(folder: Path, content: bytes | None, *argv: str) -> subprocess.CompletedProcess[str]:
    """train_optimized.py in a process of its own, with this config file (None: without one) beside it."""
    (folder / "seqsetvae").symlink_to(ROOT / "seqsetvae")
    shutil.copy(ROOT / "train_optimized.py", folder)
    if content is not None:
        (folder / "finetune_config_optimized.py").write_bytes(content)
    argv = argv or ("--mode", "finetune")
    return subprocess.run(
        [sys.executable, "train_optimized.py", *argv], cwd=folder, capture_output=True, text=True, check=False
    )


def _changed_config(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """The config file with some values changed by the user."""
    module = ModuleType("finetune_config_optimized")
    vars(module).update({name: getattr(config, name) for name in from_config()} | changes)
    monkeypatch.setattr(train_optimized, "load_config", lambda: module)
    monkeypatch.setattr("seqsetvae.settings.config_comments", lambda module: {})


# ------------------------------------------------------------------------------------------------ the config file


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"raise SystemExit(0)\n", "line 1: cannot be read: the file ends the program (SystemExit: 0)"),
        (b"import sys\nsys.exit()\n", "line 2: cannot be read: the file ends the program (SystemExit: None)"),
        (b"batch_size = 8\n1 / 0\n", "line 2: cannot be read: ZeroDivisionError: division by zero"),
        (b"batch_size = eight\n", "line 1: cannot be read: NameError: name 'eight' is not defined"),
        (b"import no_such_module\n", "line 1: cannot be read: ModuleNotFoundError: No module named 'no_such_module'"),
        (b"seed = 1\nbatch_size = = 8\n", "line 2: cannot be read: invalid syntax"),
        (b"batch_size = 8\n  lr = 1\n", "line 2: cannot be read: unexpected indent"),
        (b"batch_size = 8\n\0\n", "null bytes"),
        ("label_name = 'tödlich'\n".encode("latin-1"), "It must be saved as UTF-8."),
        (CONFIG.encode() + b"# caf\xe9\n", "It must be saved as UTF-8."),
        (b"", "finetune_config_optimized.py: contains no settings."),
        (b"# nothing but a comment\n", "finetune_config_optimized.py: contains no settings."),
        (None, "finetune_config_optimized.py: no such file."),
    ],
    ids=[
        "SystemExit", "sys.exit", "an exception", "an undefined name", "a missing import", "a syntax error",
        "an indentation error", "NUL", "Latin-1", "Latin-1 in a comment", "empty", "a comment alone", "no file",
    ],
)  # fmt: skip
def test_a_fault_in_the_config_file_is_one_error(tmp_path: Path, content: bytes | None, expected: str) -> None:
    done = _run_with_config(tmp_path, content)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "finetune_config_optimized.py" in line
    assert expected in line


def test_help_and_version_end_with_status_0(tmp_path: Path) -> None:
    for flag, expected in (("--help", "--pretrained_ckpt PATH"), ("--version", seqsetvae.__version__)):
        folder = tmp_path / flag
        folder.mkdir()
        done = _run_with_config(folder, CONFIG.encode(), flag)
        assert (done.returncode, done.stderr) == (0, "")
        assert expected in done.stdout


def test_an_output_that_cannot_show_a_character_does_not_end_the_run(tmp_path: Path) -> None:
    code = "import sys, train_optimized as t; sys.exit(t.main(['--mode', 'ü✅']))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, env={"PYTHONIOENCODING": "ascii"}, check=False
    )
    assert done.returncode == 2
    assert rb"mode: received '\xfc\u2705'" in done.stderr


# ------------------------------------------------------------------------------------------------ flags


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--batchsize", "8"], "--batchsize: no such flag; did you mean --batch_size?"),
        (["--batch-size=8"], "--batch-size=8: no such flag; did you mean --batch_size?"),
        (["--batch", "8"], "--batch: no such flag; did you mean --batch_size?"),
        (["-batch_size", "8"], "-batch_size: no such flag; did you mean --batch_size?"),
        (["\N{EM DASH}seed", "8"], "\N{EM DASH}seed: no such flag; did you mean --seed?"),
        (["--min_lrr", "-1"], "--min_lrr: no such flag; did you mean --min_lr?"),
        (["--determinstic"], "--determinstic: no such flag; did you mean --deterministic?"),
        (["--zzz", "8"], "--zzz: no such flag; --help lists all"),
        (["8"], "'8': a value without a flag; put a flag before it or remove it"),
        (["--seed"], "seed: --seed was given without a value"),
    ],
)
def test_a_mistyped_flag_costs_one_error(flags: list[str], expected: str, pretrained: Path, compiled: Cohort) -> None:
    given = ["--mode", "finetune", "--pretrained_ckpt", pretrained, "--data_dir", compiled.path]
    for argv in ([*given, *flags], [*flags, *given]):
        status, printed, errors = command(*argv)
        assert (status, printed) == (2, "")
        assert errors == f"error: one problem with the settings, nothing was read or written:\n  {expected}\n"


@pytest.mark.parametrize(
    ("mistyped", "meant"), [("--pretrained_ckp", "--pretrained_ckpt"), ("--datadir", "--data_dir")]
)
def test_a_mistyped_flag_that_is_needed_costs_one_error_too(
    mistyped: str, meant: str, pretrained: Path, compiled: Cohort
) -> None:
    given: dict[str, object] = {"--mode": "finetune", "--pretrained_ckpt": pretrained, "--data_dir": compiled.path}
    words = [word for flag, value in given.items() for word in (mistyped if flag == meant else flag, value)]
    _, _, errors = command(*words)
    assert errors.splitlines()[1:] == [f"  {mistyped}: no such flag; did you mean {meant}?"]


def test_a_mistyped_setting_in_the_config_costs_one_error(monkeypatch: pytest.MonkeyPatch, pretrained: Path) -> None:
    _changed_config(monkeypatch, batch_sise=16)
    monkeypatch.delattr(train_optimized.load_config(), "batch_size")
    _, _, errors = command("--mode", "finetune", "--pretrained_ckpt", pretrained, "--data_dir", pretrained.parent)
    expected = "batch_sise: no such setting (in finetune_config_optimized.py); did you mean batch_size?"
    assert errors.splitlines()[1:] == [f"  {expected}"]


def test_values_in_the_config_that_no_type_can_hold_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    _changed_config(monkeypatch, lr=10**400, output_root_dir="out\0put", max_sets=[3], seed=object)
    status, _, errors = command("--mode", "finetune")
    assert status == 2
    for name in ("lr", "output_root_dir", "max_sets", "seed"):
        assert f"\n  {name}: received " in errors


@pytest.mark.parametrize("flag", ["--data_dir", "--pretrained_ckpt"])
def test_a_path_that_no_file_can_have_does_not_exist(flag: str) -> None:
    status, _, errors = command("--mode", "finetune", flag, "x" * 5000)
    assert status == 2
    assert "which does not exist; allowed: an existing path" in errors


def test_no_help_text_or_error_names_a_flag_that_does_not_exist() -> None:
    flags = {option for action in parser(config)._actions for option in action.option_strings}
    texts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "seqsetvae" / "modes").glob("*.py"))
    texts += "".join((ROOT / name).read_text(encoding="utf-8") for name in ("train_optimized.py", "README.md"))
    texts += (ROOT / "seqsetvae" / "settings.py").read_text(encoding="utf-8") + CONFIG
    data_command = {"--fractions", "--test_sets", "--stats", "--embeddings", "--skip_bad"}
    assert set(re.findall(r"(?<![\w-])--[a-z_]+(?!-)\b", texts)) - flags - data_command <= {"--flag"}


# ------------------------------------------------------------------------------------------------ sizes of a checkpoint


def test_the_shipped_sizes_are_those_of_the_config_file() -> None:
    assert {name: getattr(config, name) for name in SHIPPED} == SHIPPED
    assert SHIPPED.keys() == {*SMALL, "preset", "transformer_dropout"}


@pytest.mark.parametrize(
    ("flag", "received"),
    [
        ("latent_dim", "128"),
        ("reduced_dim", "none"),
        ("levels", "3"),
        ("m", "16"),
        ("ff_dim", "512"),
        ("transformer_layers", "4"),
        ("heads", "4"),  # not in the shapes of the weights: the file states it
        ("transformer_heads", "8"),
        ("transformer_dropout", "0.3"),
    ],
)
def test_a_size_flag_that_disagrees_with_the_checkpoint_is_an_error(
    flag: str, received: str, pretrained: Path, compiled: Cohort, tmp_path: Path
) -> None:
    shown, actual = received.replace("none", "None"), tiny.SIZES.as_dict()[flag]
    status, printed, errors = finetune(pretrained, compiled.path, tmp_path, f"--{flag}", received)
    assert (status, printed) == (2, "")
    assert str(pretrained) in errors
    assert f"{flag}: received {shown} from --{flag}; the checkpoint has {flag} {actual}; leave out --{flag}" in errors
    assert list(tmp_path.iterdir()) == []


def test_all_sizes_that_disagree_are_reported_at_once_and_those_that_agree_are_not(
    pretrained: Path, compiled: Cohort, tmp_path: Path
) -> None:
    _, _, errors = finetune(
        pretrained, compiled.path, tmp_path, "--latent_dim", 128, "--heads", 2, "--transformer_heads", 8
    )
    assert [line.split(":")[0].strip() for line in errors.splitlines()[1:]] == ["latent_dim", "transformer_heads"]


@pytest.mark.parametrize("mode", ["pretrain", "embed"])
def test_other_modes_compare_sizes_too(mode: str, pretrained: Path, compiled: Cohort, tmp_path: Path) -> None:
    flags = ["--mode", mode, "--pretrained_ckpt", pretrained, "--data_dir", compiled.path, "--ff_dim", 512]
    if mode == "embed":
        flags += ["--split", "valid", "--output", tmp_path / "out.npz"]
    status, _, errors = command(*flags, "--output_root_dir", tmp_path)
    assert status == 2
    assert "ff_dim: received 512 from --ff_dim; the checkpoint has ff_dim 48" in errors


def test_a_preset_that_disagrees_with_the_checkpoint_is_an_error(
    pretrained: Path, compiled: Cohort, tmp_path: Path
) -> None:
    status, _, errors = finetune(pretrained, compiled.path, tmp_path, "--preset", "small")
    assert status == 2
    assert "preset: received 'small' (" in errors
    assert "latent_dim 64" in errors
    assert "latent_dim 32" in errors
    assert "leave out --preset" in errors


def test_a_size_that_was_changed_in_the_config_file_must_agree_too(
    pretrained: Path, compiled: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _changed_config(monkeypatch, latent_dim=128)
    status, _, errors = finetune(pretrained, compiled.path, tmp_path)
    assert status == 2
    assert (
        "latent_dim: received 128 from finetune_config_optimized.py; the checkpoint has latent_dim 32; restore the "
        "line latent_dim = 256 in finetune_config_optimized.py" in errors
    )


def test_the_shipped_sizes_and_sizes_that_agree_are_no_error(
    pretrained: Path, compiled: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--mode", "embed", "--pretrained_ckpt", pretrained, "--data_dir", compiled.path, "--split", "valid")
    assert command(*flags, "--output", tmp_path / "shipped.npz")[0] == 0  # latent_dim is 256 there, 32 here
    _changed_config(monkeypatch, latent_dim=32, ff_dim=48)
    assert command(*flags, "--output", tmp_path / "agree.npz", "--heads", 2)[0] == 0


# ------------------------------------------------------------------------------------------------ run folders


def test_a_run_folder_as_pretrained_ckpt_means_its_best_checkpoint(
    pretrained: Path, compiled: Cohort, tmp_path: Path
) -> None:
    run = tmp_path / "pretrain-1"
    (run / "checkpoints").mkdir(parents=True)
    flags = ("--mode", "embed", "--pretrained_ckpt", run, "--data_dir", compiled.path, "--split", "valid")
    status, _, errors = command(*flags, "--output", tmp_path / "out.npz")
    assert status == 2
    assert f"{run}: the folder contains no checkpoints/best.ckpt; pass a run folder or a .ckpt file" in errors
    shutil.copy(pretrained, run / "checkpoints" / "best.ckpt")
    status, printed, errors = command(*flags, "--output", tmp_path / "out.npz")
    assert status == 0, errors
    assert f"Checkpoint: {run / 'checkpoints' / 'best.ckpt'}\n" in printed


def test_finetune_takes_a_run_folder(pretrained: Path, compiled: Cohort, tmp_path: Path) -> None:
    run = tmp_path / "pretrain-1"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(pretrained, run / "checkpoints" / "best.ckpt")
    status, printed, errors = finetune(run, compiled.path, tmp_path, "--max_epochs", 1)
    assert status == 0, errors
    assert "Best val_auc" in printed


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


@pytest.fixture
def nothing_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """No checkpoint may be read, and no data may be hashed or compiled."""
    for module, name in (("common", "read_checkpoint"), ("common", "find_cohort")):
        monkeypatch.setattr(
            f"seqsetvae.modes.{module}.{name}", lambda *_, **__: pytest.fail("something slow was begun")
        )


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
    "no validation split": (lambda data: (data / "patient_ehr" / "valid").unlink(), "no split 'valid'"),
}


@pytest.mark.usefixtures("nothing_slow")
@pytest.mark.parametrize("fault", FAULTS)
def test_side_files_are_checked_before_anything_slow(fault: str, data: Path, pretrained: Path, tmp_path: Path) -> None:
    damage, expected = FAULTS[fault]
    damage(data)
    status, printed, errors = finetune(pretrained, data, tmp_path / "out")
    assert (status, printed) == (2, "")
    assert expected in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("nothing_slow")
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--label_name", "died"), "--label_name died"),
        (("--label_path", "oc.csv"), "compiled cohort, which holds"),
    ],
)
def test_a_compiled_cohort_is_checked_before_anything_slow(
    flags: tuple[str, ...], expected: str, data: Path, pretrained: Path, compiled: Cohort, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(data)
    status, printed, errors = finetune(pretrained, compiled.path, tmp_path / "out", *flags)
    assert (status, printed) == (2, "")
    assert expected in errors


def test_the_embedding_width_is_compared_before_the_data_are_hashed(
    data: Path, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "cached.csv").unlink()  # embeddings are then generated, with another width
    monkeypatch.setattr("seqsetvae.modes.common.find_cohort", lambda *_, **__: pytest.fail("the data were hashed"))
    status, printed, errors = finetune(pretrained, data, tmp_path / "out")
    assert (status, printed) == (2, "")
    assert "variable embeddings of width 12; those of the data" in errors
    assert "have width 768" in errors


def test_pretraining_needs_no_labels(data: Path, tmp_path: Path) -> None:
    (data / "oc.csv").unlink()
    flags = ("--preset", "small", "--max_epochs", 1, "--batch_size", 32, "--accelerator", "cpu", "--max_sets", 3)
    status, _, errors = command("--mode", "pretrain", "--data_dir", data, "--output_root_dir", tmp_path, *flags)
    assert status == 0, errors
