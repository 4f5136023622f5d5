"""Faults that users and fuzzing have met, each with the one error that it ends in; docs/faults.md lists them all."""

import os
import shutil
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train_optimized
from seqsetvae.batches.sampler import group_by_length
from seqsetvae.checkpoint.backbone import load_backbone, read_checkpoint
from seqsetvae.checkpoint.file import read_file
from seqsetvae.checkpoint.finetuned import load_finetuned
from seqsetvae.checkpoint.record import read_variables
from seqsetvae.cohort import open_cohort, open_or_compile
from seqsetvae.cohort.command import main as data_command
from seqsetvae.cohort.sources.synthetic import write_synthetic
from seqsetvae.models import ARCHITECTURES
from seqsetvae.models.seqsetvae.sizes import Sizes
from seqsetvae.system.errors import InputError
from tests import tiny
from tests.command import argv, call, change_config, command, finetune, refused, rows_of, succeeded

ROOT = Path(__file__).parents[1]
UNKNOWN = {name: value for name, value in Sizes(input_dim=1).as_dict().items() if name != "input_dim"}


# ------------------------------------------------------------------ checkpoints


def _load_pretrained(path: Path) -> None:
    checkpoint = read_checkpoint(path)
    sizes = checkpoint.infer_sizes(UNKNOWN)
    load_backbone(ARCHITECTURES[checkpoint.architecture].build(sizes), checkpoint)


def _changed(folder: Path, weights: dict[str, Any] | None = None, **hyper_parameters: Any) -> Path:
    """A checkpoint of a tiny backbone with other weights or hyper_parameters."""
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "pretrained")
    content["hyper_parameters"] |= hyper_parameters
    content["state_dict"] = content["state_dict"] | (weights or {})
    torch.save(content, folder / "file.ckpt")
    return folder / "file.ckpt"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("heads", value) for value in (0, -2, "2", [2], float("nan"), 2.0, True, None, 10**30)),
        *(("transformer_dropout", value) for value in (3, -1, "a", float("nan"))),
        *(("levels", value) for value in (10**9, "x", None)),
        *(("transformer_layers", value) for value in (10**9, 0)),
        *(("sizes", value) for value in (None, 3, [1])),
        ("reduced_dim", 10**9),
        ("architecture", [1]),
        ("variable_fingerprints", 3),
        ("variable_fingerprints", {1: 2}),
        *((name, torch.ones(2)) for name in ("architecture", "variable_fingerprints", "reduced_dim", "heads")),
    ],
)
def test_hyper_parameters_out_of_range_are_one_error(tmp_path, name, value):
    with pytest.raises(InputError, match=r"file\.ckpt: "):
        _load_pretrained(_changed(tmp_path, **{name: value}))


TABLE = {"names": ["a", "b"], "mean": [1.0, None], "std": [2.0, None], "width": 2, "vectors": torch.ones(2, 2)}


@pytest.mark.parametrize(
    "change",
    [
        *({"names": names} for names in (3, [], ["a"], ["a", "a"], ["a", 5], ["a", ""])),
        *({"mean": mean} for mean in (None, [1.0], [1.0, 2.0], ["x", None], [float("inf"), None], 3)),
        *({"std": std} for std in ([0.0, None], [-1.0, None], [float("nan"), None])),
        *({"width": width} for width in (0, 3, "2", None, 10**12)),
        *({"vectors": vectors} for vectors in (5, torch.ones(2), torch.ones(3, 2), torch.full((2, 2), torch.nan))),
    ],
    ids=str,
)
def test_a_damaged_table_of_variables_is_one_error(tmp_path, change):
    with pytest.raises(InputError, match="its table of variables is damaged"):
        read_variables(TABLE | change, tmp_path)
    assert read_variables(TABLE, tmp_path) is not None


def test_layers_that_are_stated_and_not_there_are_not_built(tmp_path):
    """200 layers are within the range, and would be 100 times the memory of the file."""
    with pytest.raises(InputError, match="state transformer_layers = 200, but its weights have 2"):
        _load_pretrained(_changed(tmp_path, transformer_layers=200))


@pytest.mark.parametrize("number", ["x", "", "²", "-1", "99999999999"])
def test_a_layer_that_is_no_number_is_not_a_layer(tmp_path, number):
    _load_pretrained(_changed(tmp_path, {f"transformer.layers.{number}": torch.ones(2)}))


EMBED = "set_encoder.embed.0.weight"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (lambda weight: weight.to("meta"), "is a meta tensor"),
        (lambda weight: weight.to_sparse(), "is a sparse or quantized tensor"),
        (lambda weight: weight.to(torch.float8_e4m3fn), r"has the type torch\.float8_e4m3fn"),
        (lambda weight: weight.to(torch.complex64), r"has the type torch\.complex64"),
        (lambda weight: torch.ones(1, 1).expand(10**6, 10**5), "the file holds fewer numbers"),
        (lambda weight: weight[0, 0], "is missing|shape"),
        (lambda weight: weight[:0], "but its weights have 0"),
        (lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8), "sparse or quantized"),
    ],
    ids=["meta", "sparse", "float8", "complex", "expanded to 1e11", "a scalar", "empty", "quantized"],
)
@pytest.mark.filterwarnings("ignore:.*quantized:UserWarning", "ignore:TypedStorage:UserWarning")
def test_tensors_that_are_no_weights_are_refused_by_name(tmp_path, kind, message):
    weight = tiny.tiny_backbone().state_dict()[EMBED]
    with pytest.raises(InputError, match=message):
        _load_pretrained(_changed(tmp_path, {EMBED: kind(weight)}))


@pytest.mark.parametrize("before", [b"", b"\x80\x02"], ids=["bytes", "a pickle"])
def test_random_bytes_are_no_checkpoint(tmp_path, before):
    rng = np.random.default_rng(0)
    for _ in range(100):
        (tmp_path / "file.ckpt").write_bytes(before + rng.bytes(300))
        with pytest.raises(InputError, match=r"file\.ckpt: "):
            read_file(tmp_path / "file.ckpt")


def test_a_zip_bomb_is_refused_without_unpacking(tmp_path):
    """64 MB of zeros in 64 kB: torch reads compressed records, though it writes none."""
    path = tiny.write_checkpoint(tmp_path / "whole.ckpt", tiny.tiny_backbone())
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as bomb:
        for record in whole.infolist():
            bomb.writestr(record.filename, whole.read(record))
        with bomb.open("whole/data/bomb", "w", force_zip64=True) as stream:
            for _ in range(64):
                stream.write(bytes(2**20))
    with pytest.raises(InputError, match=r"bomb\.ckpt: refused, since its record .* is compressed"):
        read_file(tmp_path / "bomb.ckpt")


def _refuse_finetuned(folder: Path, content: dict[str, Any], message: str = "") -> None:
    torch.save(content, folder / "file.ckpt")
    with pytest.raises(InputError, match=rf"(?s)file\.ckpt: .*{message}"):
        load_finetuned(folder / "file.ckpt")


@pytest.fixture(scope="module")
def best(finished: tuple[Path, str]) -> dict[str, Any]:
    return torch.load(finished[0] / "checkpoints" / "best.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        *(("sizes", name, 10**9) for name in ("input_dim", "latent_dim", "levels", "transformer_layers", "heads")),
        *(("sizes", "heads", value) for value in (0, -1, "2", float("nan"))),
        *(("sizes", "transformer_dropout", value) for value in (-1, 3)),
        *(("head", name, value) for name in ("hidden", "members") for value in (10**9, 0, "2", None)),
        *(("head", "dropout", value) for value in (-1, 2.0, float("nan"))),
        ("head", "pooling", [2]),
        *((None, "sizes", value) for value in (None, 3, {})),
        *((None, "head", value) for value in (None, {})),
        *((None, "max_sets", value) for value in (0, "x", [])),
        *((None, "label_name", value) for value in (3, "")),
        *((None, "median_hours", value) for value in (0, -1.0, "x", float("nan"), float("inf"), True)),
        *((None, "training_data", value) for value in (3, {}, {"variables": {"a": [1, 2]}})),
    ],
)
def test_a_fine_tuned_checkpoint_that_records_nonsense_is_one_error(best, tmp_path, part, name, value):
    recorded = dict(best["hyper_parameters"])
    if part is None:
        recorded[name] = value
    else:
        recorded[part] = recorded[part] | {name: value}
    _refuse_finetuned(tmp_path, {**best, "hyper_parameters": recorded})


@pytest.mark.parametrize("change", [{"head.net.0.weight": None}, {"head.net.0.weight": torch.ones(2)}, {"more": 3}])
def test_a_fine_tuned_checkpoint_with_other_weights_is_one_error(best, tmp_path, change):
    state = {name: value for name, value in (best["state_dict"] | change).items() if value is not None}
    _refuse_finetuned(tmp_path, {**best, "state_dict": state})


@pytest.mark.parametrize(
    "part", ["head.net.0.weight", "backbone.transformer.layers.0.norm1.weight", "backbone.time_tau"]
)
def test_weights_that_are_whole_numbers_are_refused_by_name(best, tmp_path, part):
    """torch would convert them without a word: what was rounded is lost."""
    state = best["state_dict"] | {part: best["state_dict"][part].to(torch.int64)}
    _refuse_finetuned(tmp_path, {**best, "state_dict": state}, rf"{part} \(int64 instead of float32\)")
    if "norm1" in part:
        backbone = tiny.tiny_backbone()
        with pytest.raises(InputError, match=r"norm1.weight \(int64 instead of float32\)"):
            load_backbone(backbone, read_checkpoint(tmp_path / "file.ckpt"))


# ------------------------------------------------------------------ settings

HUGE = str(10**25)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        *((name, HUGE, "which is above 2147483647") for name in ("batch_size", "max_sets", "max_epochs")),
        ("gradient_accumulation_steps", HUGE, "which is above 2147483647"),
        ("lr", "1e300", "which is above 1e+30"),
        ("class_weight", "1e300", "which is above 1e+30"),
        ("head_hidden", 10**9, "at most 65536"),
        ("head_members", 10**9, "at most 1024"),
        ("num_workers", 2000, "at most 256"),
    ],
)
def test_settings_that_no_machine_can_hold_are_refused(pretrained, compiled, tmp_path, name, value, reason):
    errors = refused(finetune(pretrained, compiled.path, tmp_path, **{name: value}))
    assert f"{name}: received" in errors
    assert reason in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"levels": 10**9}, "levels: received '1000000000'; allowed: an integer of at least 0 and at most 64"),
        ({"free_bits": "1e300"}, "free_bits: received '1e300', which is above 1e+30"),
        (
            {"latent_dim": 65536, "ff_dim": 65536, "transformer_layers": 256},
            "the model has about 6,7",  # trillion weights: each size alone is allowed
        ),
    ],
)
def test_a_new_model_that_no_machine_can_hold_is_refused(compiled, tmp_path, flags, reason):
    assert reason in refused(command("pretrain", data_dir=compiled.path, output_root_dir=tmp_path, **flags))


def test_the_largest_batch_size_is_one_batch():
    ones = np.ones(5, dtype=np.int64)
    assert len(group_by_length(np.arange(5), ones, ones, 2**31 - 1, 2**31 - 1).start) == 1


# ------------------------------------------------------------------ files and streams


def test_a_pipe_among_the_files_is_refused_instead_of_waiting_for_it(tmp_path):
    write_synthetic(tmp_path / "data", n_stays=20, seed=0)
    os.mkfifo(tmp_path / "data" / "patient_ehr" / "train" / "77.parquet")
    with pytest.raises(InputError, match=r"77\.parquet: neither a file nor a folder, but a pipe"):
        open_or_compile(tmp_path / "data", cache_root=tmp_path / "cache", progress=False)


def test_a_pipe_as_a_checkpoint_is_refused(tmp_path):
    os.mkfifo(tmp_path / "file.ckpt")
    with pytest.raises(InputError, match=r"file\.ckpt: neither a file nor a folder, but a pipe"):
        read_file(tmp_path / "file.ckpt")


def test_a_pipe_among_the_files_of_physionet_is_refused(tmp_path, capsys):
    (tmp_path / "set-a").mkdir()
    (tmp_path / "Outcomes-a.txt").write_text("RecordID,In-hospital_death\n1,0\n", encoding="utf-8")
    os.mkfifo(tmp_path / "set-a" / "1.txt")
    assert data_command(["physionet2012", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "1.txt: neither a file nor a folder, but a pipe" in capsys.readouterr().err


def test_an_outcome_that_is_no_number_is_one_error(tmp_path, capsys):
    (tmp_path / "set-a").mkdir()
    (tmp_path / "Outcomes-a.txt").write_text("RecordID,Length_of_stay\n1,x\n", encoding="utf-8")
    assert data_command(["physionet2012", str(tmp_path), str(tmp_path / "out"), "--stay_over_days", "3"]) == 2
    assert (
        "Outcomes-a.txt, row 0 (counted from 0), column Length_of_stay: 'x' is not a label" in capsys.readouterr().err
    )


def test_a_folder_whose_name_is_no_text_can_be_read(compiled, tmp_path):
    """On Linux a name may be any bytes."""
    odd = tmp_path / os.fsdecode(b"Stra\xdfe")
    write_synthetic(tmp_path / "data", n_stays=30, seed=0)
    (tmp_path / "data").rename(odd)
    cohort = open_or_compile(odd, cache_root=odd / "cache", progress=False)
    assert os.fsencode(cohort.manifest["source"]).count(b"Stra\xdfe") == 1
    assert data_command(["check", str(odd)]) == 0


def test_a_run_folder_whose_name_is_no_text_is_refused(pretrained, compiled, tmp_path):
    assert "allowed: a path in UTF-8" in refused(finetune(pretrained, compiled.path, tmp_path / os.fsdecode(b"\xff")))


def test_any_byte_of_a_header_of_an_array_may_be_wrong(compiled, tmp_path):
    """numpy parses a header with the tokenizer of Python, which has errors of its own."""
    array = compiled.path / "valid" / "label.npy"
    content = array.read_bytes()
    shutil.copytree(compiled.path, tmp_path / "cohort")
    for place in range(0, 128, 2):
        for change in (1, 0x80):
            damaged = bytearray(content)
            damaged[place] ^= change
            (tmp_path / "cohort" / "valid" / "label.npy").write_bytes(damaged)
            with pytest.raises(InputError, match=r"label\.npy: damaged"):
                open_cohort(tmp_path / "cohort")


def test_modification_times_and_the_clock_decide_nothing(tmp_path):
    """Files from the future, or a clock that was set back, do not make data look old or new."""
    write_synthetic(tmp_path / "data", n_stays=20, seed=0)
    first = open_or_compile(tmp_path / "data", cache_root=tmp_path / "cache", progress=False)
    for moment in (0, 4e9):
        for file in (tmp_path / "data").rglob("*.*"):
            os.utime(file, (moment, moment))
        again = open_or_compile(tmp_path / "data", cache_root=tmp_path / "cache", progress=False)
        assert again.path == first.path


def test_a_run_under_a_clock_that_was_set_back_is_the_same_run(pretrained, compiled, finished, tmp_path, monkeypatch):
    """In 1970, and standing still: no name, order, checksum or pause is made of the time of day."""
    then, formatted = time.gmtime(10), time.strftime
    monkeypatch.setattr(time, "time", lambda: 10.0)
    monkeypatch.setattr(time, "strftime", lambda form, moment=then: formatted(form, moment))
    for _ in range(2):
        succeeded(finetune(pretrained, compiled.path, tmp_path))
    runs = sorted(path.name for path in tmp_path.glob("finetune-*"))
    assert runs == ["finetune-19700101-000010", "finetune-19700101-000010-2"]
    assert rows_of(tmp_path / runs[0]) == rows_of(tmp_path / runs[1]) == rows_of(finished[0])


@pytest.mark.parametrize("words", [["train_optimized.py", "--help"], ["data.py", "--help"]])
def test_output_that_nobody_reads_is_no_error(words):
    """As with `| head -0`: the pipe is closed before anything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_goes_on_when_nobody_reads_its_output(pretrained, compiled, tmp_path, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    words = argv(mode="finetune", pretrained_ckpt=pretrained, data_dir=compiled.path, output_root_dir=tmp_path)
    with suppress(BrokenPipeError), os.fdopen(writer, "w") as nobody:  # what is left is written when it is closed
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, nobody)
        assert train_optimized.main([*words, *argv(accelerator="cpu", max_epochs=1, unfreeze_after=0)]) == 0
    (log,) = tmp_path.glob("finetune-*/train.log")
    assert "Calibration fitted" in log.read_text(encoding="utf-8")


def test_a_flag_that_is_no_utf_8_is_one_error():
    assert "batch_size: received" in refused(call(["--mode", "finetune", "--batch_size", os.fsdecode(b"\xff")]))


@pytest.mark.parametrize("value", [[1], {}, None, 3, float("nan")])
def test_a_config_line_that_selects_no_module_is_one_error(monkeypatch, value):
    change_config(monkeypatch, architecture=value)
    assert "architecture: received" in refused(call(["--mode", "pretrain", "--data_dir", "."]))
