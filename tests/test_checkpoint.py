"""Checkpoints: every layout loads in full, nothing loads by half without a word, nothing in a file is executed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqsetvae.checkpoint import (
    INERT,
    canonical_name,
    infer_sizes,
    load_backbone,
    read_checkpoint,
    read_file,
    sizes_from_settings,
)
from seqsetvae.errors import InputError
from seqsetvae.model.backbone import Backbone, BackboneSizes
from tests import tiny

# As settings give them: those that shapes cannot show are right, the others are those of another model.
SETTINGS: dict[str, Any] = {
    "reduced_dim": 256,
    "latent_dim": 256,
    "levels": 5,
    "heads": 2,
    "m": 16,
    "ff_dim": 512,
    "transformer_heads": 4,
    "transformer_layers": 5,
    "transformer_dropout": 0.1,
}
WHOLE = [
    "pretrained",
    "bare",
    "module",
    "compiled",
    "compiled inside",
    "fine-tuned legacy",
    "fine-tuned legacy, bare",
    "fine-tuned legacy, module",
]


def _write(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def _load(path: Path, **options: Any) -> tuple[Backbone, Any]:
    checkpoint = read_checkpoint(path)
    backbone = Backbone(infer_sizes(checkpoint, SETTINGS))
    return backbone, load_backbone(backbone, checkpoint, **options)


@pytest.mark.parametrize("layout", WHOLE)
@pytest.mark.parametrize("sizes", [{}, {"reduced_dim": None, "levels": 1, "transformer_layers": 3, "m": 7}], ids=str)
def test_every_layout_gives_the_same_backbone(tmp_path: Path, layout: str, sizes: dict[str, Any]) -> None:
    original = tiny.tiny_backbone(**sizes)
    backbone, report = _load(tiny.write_checkpoint(tmp_path / "file.ckpt", original, layout))
    assert backbone.sizes == original.sizes
    for name, value in original.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], value), name
    assert report.is_complete
    assert report.unknown == []
    assert str(report).startswith(f"✅ Loaded {len(original.state_dict())} parameters successfully\n")


def test_what_fine_tuning_does_not_build_is_skipped_and_said(tmp_path: Path) -> None:
    _, report = _load(tiny.write_checkpoint(tmp_path / "file.ckpt", tiny.tiny_backbone(), "fine-tuned legacy"))
    assert sorted(report.skipped) == [
        "cls_head.0.weight",
        "feature_fusion.gate.weight",
        "feature_projection.weight",
        "vae_feature_fusion.fusion_gate.0.weight",
    ]
    table = str(report)
    for row in ("loaded", "skipped on purpose", "missing", "shape mismatch"):
        assert row in table
    _, report = _load(tiny.write_checkpoint(tmp_path / "other.ckpt", tiny.tiny_backbone(), "pretrained"))
    assert sorted(report.skipped) == [
        "decoder.out.weight",
        "set_encoder.decoder_layers.0.ff.0.weight",
        "set_encoder.out.0.weight",
    ]


def test_a_weight_that_nobody_knows_is_said(tmp_path: Path) -> None:
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "bare") | {"surprise.weight": torch.ones(1)}
    assert _load(_write(tmp_path / "file.pt", content))[1].unknown == ["surprise.weight"]


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "backbone.", "model."])
def test_names_are_brought_to_those_of_a_pretrained_checkpoint(prefix: str) -> None:
    assert canonical_name(f"{prefix}transformer.layers.0.linear1.weight") == "transformer.layers.0.linear1.weight"
    for holder in ("set_encoder.", "setvae.", "setvae.setvae."):
        assert canonical_name(f"{prefix}{holder}embed.0.bias") == "set_encoder.embed.0.bias"


def test_a_set_vae_alone_says_what_to_do(tmp_path: Path) -> None:
    path = tiny.write_checkpoint(tmp_path / "setvae.ckpt", tiny.tiny_backbone(), "setvae alone")
    with pytest.raises(InputError, match="SetVAE alone: it has a set encoder and no history encoder") as raised:
        _load(path)
    assert "missing: post_transformer_norm.weight" in str(raised.value)
    assert "--allow_partial_backbone" in str(raised.value)
    assert "Pass a checkpoint of the whole SeqSetVAE" in str(raised.value)


def test_missing_and_misshapen_weights_are_all_listed_with_both_shapes(tmp_path: Path) -> None:
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "bare")
    del content["set_encoder.embed.1.bias"], content["rel_time_bucket_embed.weight"]
    content["transformer.layers.1.linear2.bias"] = torch.ones(7)
    with pytest.raises(InputError) as raised:
        _load(_write(tmp_path / "file.pt", content))
    message = str(raised.value)
    assert "2 backbone weights are missing and 1 have another shape" in message
    for line in (
        "missing: set_encoder.embed.1.bias",
        "missing: rel_time_bucket_embed.weight",
        "shape mismatch: transformer.layers.1.linear2.bias is (7,) in the file, (32,) in the model",
    ):
        assert line in message


@pytest.mark.parametrize(
    "part",
    [
        "transformer.layers.1.",
        "set_encoder.encoder_layers.1.",
        "transformer.",
        "set_encoder.dim_reducer.",
        "set_encoder.mu_logvar.",
    ],
)
def test_a_part_that_is_wholly_missing_is_noticed(tmp_path: Path, part: str) -> None:
    """The hyper-parameters say that it should be there, so it is not taken for a smaller model."""
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "pretrained")
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if not k.startswith(part)}
    with pytest.raises(InputError, match=part.removesuffix(".")):
        _load(_write(tmp_path / "file.ckpt", content))


def test_every_single_weight_is_needed(tmp_path: Path) -> None:
    """Whichever one is renamed, the error names it."""
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "pretrained")
    names = list(tiny.tiny_backbone().state_dict())
    assert len(names) > 60
    for name in set(names) - INERT:
        state = {("other." + key if key == name else key): value for key, value in content["state_dict"].items()}
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            _load(_write(tmp_path / "file.ckpt", content | {"state_dict": state}))


def test_the_inert_scalars_are_not_missed(tmp_path: Path) -> None:
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "pretrained")
    state = {key: value for key, value in content["state_dict"].items() if key not in INERT}
    assert len(state) == len(content["state_dict"]) - 2
    _load(_write(tmp_path / "file.ckpt", content | {"state_dict": state}))


def test_allow_partial_keeps_what_there_is_and_reports_the_rest(tmp_path: Path) -> None:
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "bare")
    del content["post_transformer_norm.weight"]
    content["transformer.layers.1.linear2.bias"] = torch.ones(7)
    backbone, report = _load(_write(tmp_path / "file.pt", content), allow_partial=True)
    assert not report.is_complete
    assert report.missing == ["post_transformer_norm.weight"]
    assert report.as_plain()["shape_mismatch"] == ["transformer.layers.1.linear2.bias"]
    assert torch.equal(backbone.state_dict()["time_tau"], content["time_tau"])
    assert torch.equal(backbone.rel_time_bucket_embed.weight, content["rel_time_bucket_embed.weight"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "bare")
    content["transformer.layers.0.norm1.weight"][3] = value
    with pytest.raises(InputError, match=r"NaN or infinite values in 1 weights: transformer\.layers\.0\.norm1\.weight"):
        read_checkpoint(_write(tmp_path / "file.pt", content))


def test_two_models_in_one_file_are_refused(tmp_path: Path) -> None:
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "bare")
    content["module.time_tau"] = torch.tensor(1.0)
    with pytest.raises(InputError, match="second weight for time_tau"):
        read_checkpoint(_write(tmp_path / "file.pt", content))


def test_hyper_parameters_that_contradict_the_shapes_are_refused(tmp_path: Path) -> None:
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "pretrained")
    content["hyper_parameters"]["latent_dim"] = 64
    with pytest.raises(InputError, match="latent_dim = 64, but its weights have 32"):
        _load(_write(tmp_path / "file.ckpt", content))


# ------------------------------------------------------------------------------------------------------- sizes


def test_sizes_come_from_shapes_and_heads_from_the_settings(tmp_path: Path) -> None:
    path = tiny.write_checkpoint(tmp_path / "file.pt", tiny.tiny_backbone(heads=1), "bare")
    checkpoint = read_checkpoint(path)
    assert infer_sizes(checkpoint, SETTINGS | {"heads": 4}) == BackboneSizes(
        input_dim=12,
        reduced_dim=8,
        latent_dim=32,
        levels=2,
        heads=4,
        m=4,
        ff_dim=48,
        transformer_heads=4,
        transformer_layers=2,
        transformer_dropout=0.1,
    )
    assert sizes_from_settings(checkpoint) == ["heads", "transformer_heads", "transformer_dropout"]


def test_what_the_file_says_of_its_heads_wins_over_the_settings(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(
        tiny.write_checkpoint(tmp_path / "file.ckpt", tiny.tiny_backbone(heads=4), "pretrained")
    )
    assert infer_sizes(checkpoint, SETTINGS | {"heads": 1}).heads == 4
    assert sizes_from_settings(checkpoint) == []


def test_heads_that_do_not_divide_the_width_are_an_error(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(tiny.write_checkpoint(tmp_path / "file.pt", tiny.tiny_backbone(), "bare"))
    with pytest.raises(InputError, match=r"heads = 3 is not a divisor of .* 32; pass --heads"):
        infer_sizes(checkpoint, SETTINGS | {"heads": 3})


def test_numpy_scalars_in_old_hyper_parameters_become_plain_numbers(tmp_path: Path) -> None:
    """So that what we write in turn (JSON and checkpoints) is plain too."""
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "pretrained")
    content["hyper_parameters"] |= {
        "heads": np.int64(2),
        "transformer_dropout": np.float64(0.1),
        "lr": np.float32(1e-4),
        "levels": np.int64(2),
        "edges": np.ones(3),
        "warmup_beta": np.bool_(True),
    }
    backbone, report = _load(_write(tmp_path / "file.ckpt", content))
    assert report.is_complete
    kinds = {name: type(value) for name, value in backbone.sizes.as_dict().items()}
    assert set(kinds.values()) == {int, float}
    assert kinds["transformer_dropout"] is float


# ------------------------------------------------------------------------------------------------------- safety


class _Trap:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("place", ["weights", "hyper_parameters", "plain pickle"])
@pytest.mark.parametrize("variable", [None, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
def test_a_malicious_file_is_refused_and_does_not_run(
    tmp_path: Path, place: str, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable:
        monkeypatch.setenv(variable, "1")
    trap, path = _Trap(tmp_path / "sprung"), tmp_path / "file.ckpt"
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "pretrained")
    if place == "plain pickle":
        path.write_bytes(pickle.dumps(trap, protocol=2))
    elif place == "weights":
        _write(path, content["state_dict"] | {"trap": trap})
    else:
        _write(path, content | {"hyper_parameters": {"trap": trap}})
    with pytest.raises(InputError, match="refused, since it holds more than tensors and plain values") as raised:
        read_checkpoint(path)
    assert not (tmp_path / "sprung").exists()
    assert place == "plain pickle" or "mkdir" in str(raised.value)  # what it wanted to call


def test_a_class_named_in_hyper_parameters_is_not_imported(tmp_path: Path) -> None:
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "pretrained")
    content["hyper_parameters"] |= {"_instantiator": "os.mkdir", "_class_path": str(tmp_path / "sprung")}
    assert _load(_write(tmp_path / "file.ckpt", content))[1].is_complete
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"PK\x03\x04 half a zip"])
def test_a_file_that_is_no_checkpoint_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.ckpt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"file\.ckpt: not a checkpoint that torch can read"):
        read_file(path)


@pytest.mark.parametrize(
    "content",
    [
        torch.ones(3),
        [1, 2],
        {},
        {"epoch": 3},
        {"state_dict": {}},
        {"state_dict": torch.ones(2)},
        {"encoder.weight": torch.ones(2)},
    ],
)
def test_a_file_of_something_else_is_said(tmp_path: Path, content: Any) -> None:
    with pytest.raises(InputError, match=r"file\.pt"):
        _load(_write(tmp_path / "file.pt", content))
