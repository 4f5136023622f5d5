"""Checkpoints: every layout loads in full, nothing loads by half without a word, nothing in a file is executed."""

import os
import pickle
import random
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqsetvae.checkpoint.backbone import load_backbone, read_checkpoint, without_wrappers
from seqsetvae.checkpoint.file import read_file
from seqsetvae.checkpoint.finetuned import load_finetuned
from seqsetvae.models.seqsetvae.backbone import Backbone
from seqsetvae.models.seqsetvae.layout import INERT, RUNNING, canonical_name
from seqsetvae.system.errors import InputError
from seqsetvae.training.summary import partial_weights_advice
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
PRETRAINED = ["pretrained", "bare", "module", "compiled", "compiled inside"]
WHOLE = [*PRETRAINED, *(f"fine-tuned legacy{form}" for form in ("", ", bare", ", module"))]


def _write(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def _load(path: Path, **options: Any) -> tuple[Backbone, Any]:
    checkpoint = read_checkpoint(path)
    backbone = Backbone(checkpoint.infer_sizes(SETTINGS))
    return backbone, load_backbone(backbone, checkpoint, **options)


@pytest.mark.parametrize("layout", WHOLE)
@pytest.mark.parametrize("sizes", [{}, {"reduced_dim": None, "levels": 1, "transformer_layers": 3, "m": 7}], ids=str)
def test_every_layout_gives_the_same_backbone(tmp_path, layout, sizes):
    original = tiny.tiny_backbone(**sizes)
    backbone, report = _load(tiny.write_checkpoint(tmp_path / "file.ckpt", original, layout))
    assert backbone.sizes == original.sizes
    for name, value in original.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], value), name
    assert report.is_complete
    assert report.unknown == []
    assert str(report).startswith(f"✅ Loaded {len(original.state_dict())} parameters successfully\n")


def test_what_fine_tuning_does_not_build_is_skipped_and_said(tmp_path):
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
        "set_encoder.decoder_layers.0.pma.ff.weight",
        "set_encoder.out.0.weight",
    ]


PREFIXES = ["", "module.", "_orig_mod.", "model.", "module.model._orig_mod.", "model.backbone."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_the_old_fine_tuning_left_random_is_named_in_every_layout(tmp_path, prefix):
    old = tiny.checkpoint_content(tiny.tiny_backbone(), "fine-tuned legacy, bare")
    for content in ({prefix + key: value for key, value in old.items()}, {"state_dict": old, "epoch": 3}):
        path = _write(tmp_path / "file.ckpt", content)
        backbone, report = _load(path)
        assert report.is_complete
        assert torch.equal(backbone.rel_time_bucket_embed.weight, old["rel_time_bucket_embed.weight"])
        assert report.random_in_file == report.as_plain()["random_in_file"] == ["rel_time_bucket_embed.weight"]
        assert "of these random          1   rel_time_bucket_embed (1)" in str(report)
        (line,) = partial_weights_advice(report)
        assert "rel_time_bucket_embed.weight. Use the original pretrained checkpoint." in line
        with pytest.raises(
            InputError, match=r"evaluate and predict need one .* The old head \(cls_head, .*is not built"
        ):
            load_finetuned(path)


def test_a_file_of_the_old_fine_tuning_is_recognised_without_its_head_too(tmp_path):
    old = tiny.checkpoint_content(tiny.tiny_backbone(), "fine-tuned legacy, bare")
    heads = ("cls_head.", "feature_", "vae_feature_")
    _, report = _load(_write(tmp_path / "file.pt", {key: old[key] for key in old if not key.startswith(heads)}))
    assert report.random_in_file == ["rel_time_bucket_embed.weight"]
    assert report.skipped == []


@pytest.mark.parametrize("layout", PRETRAINED)
def test_nothing_is_said_to_be_random_in_a_pretrained_file(tmp_path, layout):
    _, report = _load(tiny.write_checkpoint(tmp_path / "file.ckpt", tiny.tiny_backbone(), layout))
    assert report.random_in_file == partial_weights_advice(report) == []
    assert "random" not in str(report)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("layout", ["bare", "fine-tuned legacy, bare"])
def test_the_old_optimized_model_is_named_and_its_history_encoder_is_random(tmp_path, prefix, layout):
    content = tiny.checkpoint_content(tiny.tiny_backbone(), layout)
    content["rel_time_bucket_embed.weight"] = torch.ones(32, 32)
    path = _write(tmp_path / "file.ckpt", {prefix + key: value for key, value in content.items()})
    with pytest.raises(InputError, match=r"of the old optimized model \(32 time buckets .*Use the original pretrained"):
        _load(path)
    _, report = _load(path, allow_partial=True)
    assert {name.split(".")[0] for name in report.random_in_file} == {"transformer", "post_transformer_norm"}
    with pytest.raises(InputError, match="of the old optimized model") as raised:
        load_finetuned(path)
    assert ("The old head (cls_head" in str(raised.value)) == (layout != "bare")


@pytest.mark.parametrize("prefix", [*PREFIXES, "setvae.", "setvae.setvae."])
@pytest.mark.parametrize("part", ["gru_cell.weight_ih", "prior_head.0.bias"])
def test_a_checkpoint_of_seqsetvae_poe_is_named(tmp_path, prefix, part):
    whole = tiny.checkpoint_content(tiny.tiny_backbone(), "bare")
    for content in ({prefix + part: torch.ones(3)}, whole | {prefix + part: torch.ones(3)}):
        path = _write(tmp_path / "file.ckpt", {"state_dict": content})
        for read in (_load, load_finetuned):
            with pytest.raises(InputError, match=r"a checkpoint of seqsetvae_poe \(weights gru_cell, prior_head\)"):
                read(path)


def test_a_weight_that_nobody_knows_is_said(tmp_path):
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "bare") | {"surprise.weight": torch.ones(1)}
    assert _load(_write(tmp_path / "file.pt", content))[1].unknown == ["surprise.weight"]


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "backbone.", "model."])
def test_names_are_brought_to_those_of_a_pretrained_checkpoint(prefix):
    assert (
        canonical_name(without_wrappers(f"{prefix}transformer.layers.0.linear1.weight"))
        == "transformer.layers.0.linear1.weight"
    )
    for holder in ("set_encoder.", "setvae.", "setvae.setvae."):
        assert canonical_name(without_wrappers(f"{prefix}{holder}embed.0.bias")) == "set_encoder.embed.0.bias"


def test_a_set_vae_alone_says_what_to_do(tmp_path):
    path = tiny.write_checkpoint(tmp_path / "setvae.ckpt", tiny.tiny_backbone(), "setvae alone")
    with pytest.raises(InputError, match="SetVAE alone: it has a set encoder and no history encoder") as raised:
        _load(path)
    assert "missing: post_transformer_norm.weight" in str(raised.value)
    assert "--allow_partial_backbone" in str(raised.value)
    assert "Pass a checkpoint of the whole SeqSetVAE" in str(raised.value)


def test_missing_and_misshapen_weights_are_all_listed_with_both_shapes(tmp_path):
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


def test_a_part_that_is_wholly_missing_is_noticed(tmp_path):
    """The hyper-parameters say that it should be there, so it is not taken for a smaller model."""
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "pretrained")
    encoder = [f"set_encoder.{part}" for part in ("encoder_layers.1", "dim_reducer", "mu_logvar")]
    for part in ("transformer.layers.1", "transformer", *encoder):
        state = {name: value for name, value in content["state_dict"].items() if not name.startswith(f"{part}.")}
        with pytest.raises(InputError, match=part):
            _load(_write(tmp_path / "file.ckpt", content | {"state_dict": state}))


def test_every_single_weight_is_needed(tmp_path):
    """Whichever one is renamed, the error names it."""
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "pretrained")
    names = list(tiny.tiny_backbone().state_dict())
    assert len(names) > 60
    for name in set(names) - INERT:
        state = {("other." + key if key == name else key): value for key, value in content["state_dict"].items()}
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            _load(_write(tmp_path / "file.ckpt", content | {"state_dict": state}))


def test_the_inert_scalars_are_not_missed(tmp_path):
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "pretrained")
    state = {key: value for key, value in content["state_dict"].items() if key not in INERT}
    assert len(state) == len(content["state_dict"]) - 2
    _load(_write(tmp_path / "file.ckpt", content | {"state_dict": state}))


def test_allow_partial_keeps_what_there_is_and_reports_the_rest(tmp_path):
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
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "bare")
    content["transformer.layers.0.norm1.weight"][3] = value
    with pytest.raises(InputError, match=r"NaN or infinite values in 1 weights: transformer\.layers\.0\.norm1\.weight"):
        read_checkpoint(_write(tmp_path / "file.pt", content))


def test_two_models_in_one_file_are_refused(tmp_path):
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "bare")
    content["module.time_tau"] = torch.tensor(1.0)
    with pytest.raises(InputError, match="second weight for time_tau"):
        read_checkpoint(_write(tmp_path / "file.pt", content))


def test_hyper_parameters_that_contradict_the_shapes_are_refused(tmp_path):
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "pretrained")
    content["hyper_parameters"]["latent_dim"] = 64
    with pytest.raises(InputError, match="latent_dim = 64, but its weights have 32"):
        _load(_write(tmp_path / "file.ckpt", content))


# ------------------------------------------------------------------------------------------------------- sizes


def test_sizes_come_from_shapes_and_heads_from_the_settings(tmp_path):
    path = tiny.write_checkpoint(tmp_path / "file.pt", tiny.tiny_backbone(heads=1), "bare")
    checkpoint = read_checkpoint(path)
    assert checkpoint.infer_sizes(SETTINGS | {"heads": 4}) == replace(tiny.SIZES, heads=4)
    assert checkpoint.not_stated == ["heads", "transformer_heads", "transformer_dropout"]


def test_what_the_file_says_of_its_heads_wins_over_the_settings(tmp_path):
    checkpoint = read_checkpoint(
        tiny.write_checkpoint(tmp_path / "file.ckpt", tiny.tiny_backbone(heads=4), "pretrained")
    )
    assert checkpoint.infer_sizes(SETTINGS | {"heads": 1}).heads == 4
    assert checkpoint.not_stated == []


def test_running_statistics_are_those_of_the_file_or_begin_at_zero(tmp_path):
    """An old file may get them, and one that has them is read with them."""
    asked = {**tiny.SIZES.as_dict(), "running_statistics": True}
    old = read_checkpoint(tiny.write_checkpoint(tmp_path / "old.ckpt", tiny.tiny_backbone()))
    backbone = Backbone(old.infer_sizes(asked))
    assert load_backbone(backbone, old).is_complete
    assert not backbone.get_parameter(RUNNING).any()
    assert not old.infer_sizes(tiny.SIZES.as_dict()).running_statistics
    trained = tiny.tiny_backbone(running_statistics=True)
    new = read_checkpoint(tiny.write_checkpoint(tmp_path / "new.ckpt", trained))
    again = Backbone(new.infer_sizes(tiny.SIZES.as_dict()))
    assert load_backbone(again, new).is_complete
    assert torch.equal(again.get_parameter(RUNNING), trained.get_parameter(RUNNING))


def test_heads_that_do_not_divide_the_width_are_an_error(tmp_path):
    checkpoint = read_checkpoint(tiny.write_checkpoint(tmp_path / "file.pt", tiny.tiny_backbone(), "bare"))
    with pytest.raises(InputError, match=r"heads = 3 is not a divisor of .* 32; pass --heads"):
        checkpoint.infer_sizes(SETTINGS | {"heads": 3})


def test_numpy_scalars_in_old_hyper_parameters_become_plain_numbers(tmp_path):
    """So that what we write in turn (JSON and checkpoints) is plain too."""
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "pretrained")
    content["hyper_parameters"] |= {"heads": np.int64(2), "levels": np.int64(2), "lr": np.float32(1e-4)}
    content["hyper_parameters"] |= {"transformer_dropout": np.float64(0.1), "edges": np.ones(3), "x": np.bool_(True)}
    backbone, report = _load(_write(tmp_path / "file.ckpt", content))
    assert report.is_complete
    kinds = {name: type(value) for name, value in backbone.sizes.as_dict().items()}
    assert set(kinds.values()) == {int, float}
    assert kinds["transformer_dropout"] is float


# ------------------------------------------------------------------------------------------------------- damage


def _places(path: Path, part: str) -> list[range]:
    """Where the bytes of a part of a zip container are."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if part == "anywhere":
            return [range(path.stat().st_size)]
        if part == "directory":
            return [range(archive.start_dir, path.stat().st_size)]
        if part == "headers":
            return [range(record.header_offset, record.header_offset + 30) for record in records]
        pickled = next(record for record in records if record.filename.endswith("data.pkl"))
        return [range(pickled.header_offset, records[records.index(pickled) + 1].header_offset)]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("part", ["anywhere", "directory", "headers", "pickle"])
def test_flipped_bits_are_noticed(tmp_path, part):
    """At 120 random places, flip 1 or 20 bits: the file is refused with one clear error, or nothing in it changed."""
    path, damaged = tiny.write_checkpoint(tmp_path / "whole.ckpt", tiny.tiny_backbone()), tmp_path / "damaged.ckpt"
    content, whole, places = path.read_bytes(), read_file(path), _places(path, part)
    rng, refused = random.Random(0), 0
    for trial in range(120):
        changed = bytearray(content)
        for _ in range((1, 20)[trial % 2]):
            changed[rng.choice(rng.choice(places))] ^= 1 << rng.randrange(8)
        damaged.write_bytes(changed)
        try:
            assert _equal(read_file(damaged), whole)
        except InputError:
            refused += 1
    assert refused >= 60  # every one with 20 bits, and more


def test_a_flipped_bit_in_a_weight_is_said_with_what_to_do(tmp_path):
    path = tiny.write_checkpoint(tmp_path / "file.ckpt", tiny.tiny_backbone())
    with zipfile.ZipFile(path) as archive:
        record = archive.getinfo("file/data/0")
    content = bytearray(path.read_bytes())
    lengths = struct.unpack("<HH", content[record.header_offset + 26 : record.header_offset + 30])  # name and padding
    content[record.header_offset + 30 + sum(lengths)] ^= 1  # the lowest bit of the first number
    path.write_bytes(content)
    message = r"file\.ckpt: the checksum of its record file/data/0 does not match\. The file is damaged.*copy it again"
    with pytest.raises(InputError, match=message):
        read_checkpoint(path)


def test_a_container_whose_first_byte_is_damaged_is_not_called_unsafe(tmp_path):
    path = tiny.write_checkpoint(tmp_path / "file.ckpt", tiny.tiny_backbone())
    path.write_bytes(b"Q" + path.read_bytes()[1:])
    with pytest.raises(InputError, match=r"record file/data\.pkl does not match.*The file is damaged"):
        read_file(path)


def test_a_file_without_checksums_is_read(tmp_path):
    """Bare pickles from before torch 1.6, and containers that torch was told to save without."""
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "pretrained")
    torch.save(content, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(content, tmp_path / "without.ckpt")
    finally:
        torch.serialization.set_crc32_options(True)
    for name in ("old.ckpt", "without.ckpt"):
        assert _equal(read_file(tmp_path / name), content)


@pytest.mark.parametrize("error", [TypeError, IndexError, AttributeError, MemoryError, RecursionError])
def test_whatever_torch_raises_for_a_file_is_one_error(tmp_path, error, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise error("something inside torch")

    monkeypatch.setattr(torch, "load", fail)
    path = tiny.write_checkpoint(tmp_path / "file.ckpt", tiny.tiny_backbone())
    with pytest.raises(InputError, match=rf"not a checkpoint that torch can read \({error.__name__}: something inside"):
        read_file(path)


# ------------------------------------------------------------------------------------------------------- safety


class _Trap:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("place", ["weights", "hyper_parameters", "plain pickle"])
@pytest.mark.parametrize("variable", [None, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
def test_a_malicious_file_is_refused_and_does_not_run(tmp_path, place, variable, monkeypatch):
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


def test_a_class_named_in_hyper_parameters_is_not_imported(tmp_path):
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "pretrained")
    content["hyper_parameters"] |= {"_instantiator": "os.mkdir", "_class_path": str(tmp_path / "sprung")}
    assert _load(_write(tmp_path / "file.ckpt", content))[1].is_complete
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"PK\x03\x04 half a zip"])
def test_a_file_that_is_no_checkpoint_is_said(tmp_path, content):
    path = tmp_path / "file.ckpt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"file\.ckpt: not a checkpoint that torch can read"):
        read_file(path)


def test_a_file_of_something_else_is_said(tmp_path):
    states = ({}, {"epoch": 3}, {"state_dict": {}}, {"state_dict": torch.ones(2)}, {"encoder.weight": torch.ones(2)})
    for content in (torch.ones(3), [1, 2], *states):
        with pytest.raises(InputError, match=r"file\.pt"):
            _load(_write(tmp_path / "file.pt", content))
