"""The sizes of a checkpoint: flags and config lines that contradict them are errors; a run folder is a checkpoint."""

import shutil

import pytest

import finetune_config_optimized as config
from seqsetvae.models import ArchitectureSettings
from seqsetvae.models.seqsetvae.sizes import PRESETS
from seqsetvae.settings.declare import declared
from tests import tiny
from tests.command import change_config, command, finetune, refused, succeeded

# ------------------------------------------------------------------------------------------------ sizes of a checkpoint


def test_the_shipped_sizes_are_those_of_the_config_file():
    known = declared(ArchitectureSettings, {"architecture": "seqsetvae"})
    shipped = {name: item.default for name, item in known.items() if item.is_config_line}
    assert {name: getattr(config, name) for name in shipped} == shipped
    assert shipped.keys() == {*PRESETS["small"], "architecture", "preset", "transformer_dropout"}


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
def test_a_size_flag_that_disagrees_with_the_checkpoint_is_an_error(flag, received, pretrained, compiled, tmp_path):
    shown, actual = received.replace("none", "None"), tiny.SIZES.as_dict()[flag]
    status, printed, errors = finetune(pretrained, compiled.path, tmp_path, **{flag: received})
    assert (status, printed) == (2, "")
    assert str(pretrained) in errors
    assert f"{flag}: received {shown} from --{flag}; the checkpoint has {flag} {actual}; leave out --{flag}" in errors
    assert list(tmp_path.iterdir()) == []


def test_all_sizes_that_disagree_are_reported_at_once_and_those_that_agree_are_not(pretrained, compiled, tmp_path):
    _, _, errors = finetune(pretrained, compiled.path, tmp_path, latent_dim=128, heads=2, transformer_heads=8)
    assert [line.split(":")[0].strip() for line in errors.splitlines()[1:]] == ["latent_dim", "transformer_heads"]


@pytest.mark.parametrize("mode", ["pretrain", "embed"])
def test_other_modes_compare_sizes_too(mode, pretrained, compiled, tmp_path):
    flags = {"mode": mode, "pretrained_ckpt": pretrained, "data_dir": compiled.path, "ff_dim": 512}
    if mode == "embed":
        flags |= {"split": "valid", "output": tmp_path / "out.npz"}
    errors = refused(command(**flags, output_root_dir=tmp_path))
    assert "ff_dim: received 512 from --ff_dim; the checkpoint has ff_dim 48" in errors


def test_a_preset_that_disagrees_with_the_checkpoint_is_an_error(pretrained, compiled, tmp_path):
    errors = refused(finetune(pretrained, compiled.path, tmp_path, preset="small"))
    assert "preset: received 'small' (" in errors
    assert "latent_dim 64" in errors
    assert "latent_dim 32" in errors
    assert "leave out --preset" in errors


def test_a_size_that_was_changed_in_the_config_file_must_agree_too(pretrained, compiled, tmp_path, monkeypatch):
    change_config(monkeypatch, latent_dim=128)
    errors = refused(finetune(pretrained, compiled.path, tmp_path))
    assert (
        "latent_dim: received 128 from finetune_config_optimized.py; the checkpoint has latent_dim 32; restore the "
        "line latent_dim = 256 in finetune_config_optimized.py" in errors
    )


def test_the_shipped_sizes_and_sizes_that_agree_are_no_error(pretrained, compiled, tmp_path, monkeypatch):
    flags = {"mode": "embed", "pretrained_ckpt": pretrained, "data_dir": compiled.path, "split": "valid"}
    assert command(**flags, output=tmp_path / "shipped.npz")[0] == 0  # latent_dim is 256 there, 32 here
    change_config(monkeypatch, latent_dim=32, ff_dim=48)
    assert command(**flags, output=tmp_path / "agree.npz", heads=2)[0] == 0


# ------------------------------------------------------------------------------------------------ run folders


def test_a_run_folder_as_pretrained_ckpt_means_its_best_checkpoint(pretrained, compiled, tmp_path):
    run = tmp_path / "pretrain-1"
    (run / "checkpoints").mkdir(parents=True)
    flags = {"mode": "embed", "pretrained_ckpt": run, "data_dir": compiled.path, "split": "valid"}
    errors = refused(command(**flags, output=tmp_path / "out.npz"))
    assert f"{run}: the folder contains no checkpoints/best.ckpt; pass a run folder or a .ckpt file" in errors
    shutil.copy(pretrained, run / "checkpoints" / "best.ckpt")
    printed = succeeded(command(**flags, output=tmp_path / "out.npz"))
    assert f"Checkpoint: {run / 'checkpoints' / 'best.ckpt'}\n" in printed


def test_finetune_takes_a_run_folder(pretrained, compiled, tmp_path):
    run = tmp_path / "pretrain-1"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(pretrained, run / "checkpoints" / "best.ckpt")
    assert "Best val_auc" in succeeded(finetune(run, compiled.path, tmp_path, max_epochs=1))
