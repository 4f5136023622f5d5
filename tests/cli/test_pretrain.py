"""`--mode pretrain`: the file it writes has the old layout, fine-tunes, and can be continued."""

from pathlib import Path

import pytest
import torch

from seqsetvae.cohort import Cohort
from seqsetvae.cohort.sources.synthetic import write_synthetic
from seqsetvae.models.seqsetvae.decoder import PretrainingModel
from seqsetvae.models.seqsetvae.sizes import PRESETS
from tests.command import command, run_of, succeeded
from tests.tiny import SIZES

# Names that the old pretraining script reads back.
OLD_HYPER_PARAMETERS = {
    "input_dim", "reduced_dim", "latent_dim", "levels", "heads", "m", "beta", "lr", "ff_dim", "transformer_heads",
    "transformer_layers", "warmup_beta", "max_beta", "beta_warmup_steps", "free_bits", "transformer_dropout",
    "time_num_frequencies",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(compiled: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining run of one epoch with the small preset."""
    root = tmp_path_factory.mktemp("pretrain")
    flags = {"preset": "small", "max_epochs": 1, "output_root_dir": root}
    assert command("pretrain", data_dir=compiled.path, **flags)[0] == 0
    return run_of(root, "pretrain")


def test_the_checkpoint_has_exactly_the_pretrained_layout(run):
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    sizes = type(SIZES)(input_dim=SIZES.input_dim, transformer_dropout=0.1, **PRESETS["small"])
    expected = {name: value.shape for name, value in PretrainingModel(sizes).state_dict().items()}
    assert {name: value.shape for name, value in content["state_dict"].items()} == expected
    assert set(content["hyper_parameters"]) == OLD_HYPER_PARAMETERS


def test_it_fine_tunes_and_continues(run, compiled, tmp_path):
    best = run / "checkpoints" / "best.ckpt"
    common = {"pretrained_ckpt": best, "data_dir": compiled.path, "output_root_dir": tmp_path, "max_epochs": 1}
    assert command("finetune", unfreeze_after="none", **common)[0] == 0
    assert "val_active_units" in succeeded(command("pretrain", **common))
    content = torch.load(next(tmp_path.glob("pretrain-*")) / "checkpoints" / "last.ckpt", weights_only=True)
    before = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["state_dict"].keys() == before["state_dict"].keys()
    assert content["hyper_parameters"]["latent_dim"] == PRESETS["small"]["latent_dim"]  # not that of the settings
    unused = "set_encoder.out.0.weight"
    assert torch.equal(content["state_dict"][unused], before["state_dict"][unused])


def test_heads_that_a_file_does_not_say_are_not_guessed_in_silence(run, compiled, tmp_path):
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    torch.save(content["state_dict"], tmp_path / "bare.ckpt")
    flags = {"max_epochs": 1, "output_root_dir": tmp_path, "transformer_heads": 4, "data_dir": compiled.path}
    printed = succeeded(command("pretrain", pretrained_ckpt=tmp_path / "bare.ckpt", **flags))
    assert "The checkpoint does not state heads = 2, transformer_heads = 4" in printed


def test_the_golden_checkpoint_keeps_its_layout_when_it_is_continued(golden, tmp_path):
    data_dir = write_synthetic(tmp_path / "processed", n_stays=20, seed=0, embedding_width=24)
    before = torch.load(golden / "tiny" / "pretrain.ckpt", weights_only=True)
    flags = {"max_epochs": 1, "output_root_dir": tmp_path, "data_dir": data_dir}
    assert command("pretrain", pretrained_ckpt=golden / "tiny" / "pretrain.ckpt", **flags)[0] == 0
    after = torch.load(next(tmp_path.glob("pretrain-*")) / "checkpoints" / "last.ckpt", weights_only=True)
    shapes = [{name: value.shape for name, value in file["state_dict"].items()} for file in (before, after)]
    assert shapes[0] == shapes[1]
    assert set(before["hyper_parameters"]) == set(after["hyper_parameters"])
    trained = "transformer.layers.0.linear1.weight"
    assert not torch.equal(before["state_dict"][trained], after["state_dict"][trained])
