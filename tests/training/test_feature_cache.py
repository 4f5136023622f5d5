"""Stage 1 computes the features of the frozen backbone once, for this run and later ones, with the same results."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import seqsetvae
from model_optimized import SeqSetVAEFineTuner
from seqsetvae.batches.batch import Batch, PooledBatch
from seqsetvae.batches.loading import CohortDataModule
from seqsetvae.cohort import Cohort
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import file_sha256
from seqsetvae.training import feature_cache
from seqsetvae.training.feature_cache import MANIFEST, POOLED, CachedFeatures, FeatureFolder, cached_features, code_hash
from seqsetvae.training.stages import Run, StageLoaders
from tests.training.helpers import CPU, features_of, fine_tuner, make_run


def _stage_1(cohort: Cohort, folder: Path, cached: bool) -> Run:
    torch.manual_seed(7)
    module = fine_tuner(cohort)
    run = make_run(module, cohort, folder)
    features = features_of(module, run) if cached else None
    torch.manual_seed(8)  # the head's dropout
    run.fit(1, 4, warm_up=False, features=features)
    return run


def _features(cohort: Cohort, folder: Path) -> CachedFeatures:
    """Features of a tiny backbone for a cohort, cached in folder/features."""
    module = fine_tuner(cohort)
    return features_of(module, make_run(module, cohort, folder))


def _cached_folders(folder: Path) -> set[Path]:
    return set((folder / "features").glob("*"))


def _train_folder(cohort: Cohort, folder: Path) -> Path:
    data = CohortDataModule(cohort, batch_size=16, max_events=10**6)
    return FeatureFolder.locate(folder / "features", fine_tuner(cohort), data, "train", CPU).path


# ------------------------------------------------------------------------------------------------ the same metrics


def test_metrics_equal_those_of_a_backbone_that_runs_in_every_epoch(compiled, tmp_path):
    fresh, found = (_stage_1(compiled, tmp_path, cached=True) for _ in range(2))
    plain = _stage_1(compiled, tmp_path, cached=False)
    assert [len(run.state.passes) for run in (fresh, found, plain)] == [2, 0, 0]
    assert len(fresh.state.rows) == 4
    for one, again, theirs in zip(fresh.state.rows, found.state.rows, plain.state.rows, strict=True):
        assert one.metrics == again.metrics  # to the bit
        assert one.metrics["val_auc"] == theirs.metrics["val_auc"]  # to the bit
        assert one.metrics == pytest.approx(theirs.metrics, abs=1e-6)
        assert one.step == theirs.step
    assert fresh.state.rows[0].waiting is None
    assert plain.state.rows[0].waiting is not None


def test_every_batch_holds_the_pooled_states_of_its_stays(compiled, tmp_path):
    """In validation the batches are those in which they were computed, and equal to the last bit."""
    module = fine_tuner(compiled).eval()
    run = make_run(module, compiled, tmp_path)
    cached = StageLoaders(run.data, 1, features_of(module, run).rows)
    for pooled, batch in zip(cached.train_dataloader(), run.data.train_dataloader(), strict=True):
        assert torch.equal(pooled.stay_id, batch.stay_id)
        assert torch.equal(pooled.label, batch.label)
        assert torch.allclose(pooled.pooled, module.pooled(batch), atol=1e-5)
    for pooled, batch in zip(cached.val_dataloader(), run.data.val_dataloader(), strict=True):
        assert torch.equal(pooled.pooled, module.pooled(batch))


def test_padding_of_another_process_has_features_and_no_label(compiled, tmp_path):
    rows = _features(compiled, tmp_path).rows["valid"]
    padding, whole = rows[np.array([~4])], rows[np.array([4])]
    assert padding.label.tolist() == [-1]
    assert torch.equal(padding.pooled, whole.pooled)
    assert torch.equal(padding.stay_id, whole.stay_id)


def test_features_in_16_bits_reach_the_head_unchanged(compiled, tmp_path):
    module = fine_tuner(compiled).eval()
    run = make_run(module, compiled, tmp_path)
    features = cached_features(module, run.data, replace(CPU, autocast=torch.bfloat16), tmp_path / "features")
    for pooled, batch in zip(
        StageLoaders(run.data, 1, features.rows).val_dataloader(), run.data.val_dataloader(), strict=True
    ):
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(module(pooled), module(batch))


def test_features_of_a_backbone_that_trains_are_refused(compiled, tmp_path):
    module: SeqSetVAEFineTuner = fine_tuner(compiled)
    module.unfreeze_backbone()
    with pytest.raises(AssertionError, match="stale"):
        features_of(module, make_run(module, compiled, tmp_path))


# ------------------------------------------------------------------------------------------------ the cache


def test_the_next_run_uses_the_cache_without_a_forward_pass(compiled, tmp_path, capsys):
    first = _features(compiled, tmp_path)
    module = fine_tuner(compiled, dropout=0.5)  # another head on the same backbone
    module.pooled = lambda batch: pytest.fail("there was another forward pass")
    run = make_run(module, compiled, tmp_path)
    run.data.seed = 1
    capsys.readouterr()
    again = features_of(module, run)
    assert [reading.stays for reading in first.passes] == [60, 20]
    assert again.passes == ()
    for split in ("train", "valid"):
        assert np.array_equal(again.rows[split].pooled, first.rows[split].pooled)
    printed = capsys.readouterr().out
    for text in ("Cached features of the frozen backbone: 60 train stays, from ", "backbone: 20 valid stays, from "):
        assert text in printed


def test_the_manifest_records_all_dependencies_and_no_labels(compiled, tmp_path):
    _features(compiled, tmp_path)
    assert len(_cached_folders(tmp_path)) == 2  # one a split
    for folder in _cached_folders(tmp_path):
        assert {file.name for file in folder.iterdir()} == {POOLED, MANIFEST}
    manifest = json.loads((_train_folder(compiled, tmp_path) / MANIFEST).read_text(encoding="utf-8"))
    assert "Safe to delete" in manifest["about"]
    assert manifest["made_from"]["data"]["cohort"] == compiled.content_hash
    assert manifest["made_from"]["pooling"] == "last_mean"
    assert manifest["made_from"]["code"]["torch"] == torch.__version__


@torch.no_grad()
def _change_a_weight(module: SeqSetVAEFineTuner, data: CohortDataModule) -> None:
    weight = module.backbone.post_transformer_norm.bias
    weight[0] = weight[0].nextafter(torch.tensor(9.0))  # by its last bit


def _double(module: SeqSetVAEFineTuner, data: CohortDataModule) -> None:
    module.double()
    data.dtype = np.float64


def _set(what: str, name: str, value: object) -> Callable[[SeqSetVAEFineTuner, CohortDataModule], None]:
    return lambda module, data: setattr({"module": module, "data": data}[what], name, value)


CHANGES: dict[str, Callable[[SeqSetVAEFineTuner, CohortDataModule], object]] = {
    "a weight": _change_a_weight,
    "the heads": lambda module, data: setattr(module.backbone, "sizes", replace(module.backbone.sizes, heads=1)),
    "an embedding": lambda module, data: module.embeddings[0].neg_(),
    "the pooling": _set("module", "pooling", "mean"),
    "double precision": _double,
    "values in double precision": _set("data", "dtype", np.float64),
    "max_sets": _set("data", "max_sets", 3),
    "unlabelled stays too": _set("data", "labelled", False),
    "the batch size": _set("data", "batch_size", 8),
    "events in a batch": _set("data", "max_events", 100),
    "padded sets": _set("data", "padded_classes", True),
    "the cohort": lambda module, data: setattr(
        data, "cohort", replace(data.cohort, manifest={**data.cohort.manifest, "label_name": "another"})
    ),
}


def _path(cohort: Cohort, change: Callable[[Any, Any], object], split: str = "train", **arithmetic: Any) -> Path:
    module, data = fine_tuner(cohort), CohortDataModule(cohort, batch_size=16, max_events=10**6)
    change(module, data)
    return FeatureFolder.locate(Path("root"), module, data, split, replace(CPU, **arithmetic)).path


def _nothing(module: SeqSetVAEFineTuner, data: CohortDataModule) -> None: ...


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_what_the_features_depend_on_is_another_key(change, compiled):
    assert _path(compiled, _nothing) == _path(compiled, _nothing)
    assert _path(compiled, CHANGES[change]) != _path(compiled, _nothing)


def test_another_split_or_precision_is_another_key(compiled, monkeypatch):
    paths = [
        _path(compiled, _nothing),
        _path(compiled, _nothing, split="valid"),
        _path(compiled, _nothing, autocast=torch.bfloat16),
        _path(compiled, _nothing, autocast=torch.float16),
        _path(compiled, _nothing, compiled=True),
    ]
    for name, value in (("get_num_threads", lambda: 77), ("get_float32_matmul_precision", lambda: "medium")):
        with monkeypatch.context() as patch:
            patch.setattr(torch, name, value)
            paths.append(_path(compiled, _nothing))
    monkeypatch.setattr(torch, "__version__", "9.0")
    paths.append(_path(compiled, _nothing))
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize(
    "file",
    ["ragged.py", "set_encoder.py", "head.py", "batch.py", "loading.py", "model_optimized.py", "feature_cache.py"],
)
def test_an_edited_source_file_is_another_key(file, compiled, monkeypatch):
    before, path = code_hash(), _path(compiled, _nothing)
    monkeypatch.setattr(feature_cache, "file_sha256", lambda path: "edited" if path.name == file else file_sha256(path))
    assert code_hash() != before
    assert _path(compiled, _nothing) != path


def test_a_new_or_edited_file_in_any_folder_of_the_package_changes_the_code_hash(tmp_path, monkeypatch):
    """Else code in a new folder would leave stale features valid."""
    package = tmp_path / "seqsetvae"
    shutil.copytree(Path(seqsetvae.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(seqsetvae.__file__).parents[1] / "model_optimized.py", tmp_path)
    monkeypatch.setattr(seqsetvae, "__file__", str(package / "__init__.py"))
    hashes = [code_hash()]
    for content in ("", "# edited"):
        (package / "architectures" / "new" / "deeper").mkdir(parents=True, exist_ok=True)
        (package / "architectures" / "new" / "deeper" / "layers.py").write_text(content, encoding="utf-8")
        hashes.append(code_hash())
    (tmp_path / "model_optimized.py").write_text("# edited", encoding="utf-8")
    hashes.append(code_hash())
    assert len(set(hashes)) == 4


@pytest.mark.parametrize(("name", "value"), [("seed", 5), ("num_workers", 2), ("pin_memory", True)])
def test_settings_that_change_no_feature_keep_the_key(name, value, compiled):
    assert _path(compiled, _set("data", name, value)) == _path(compiled, _nothing)


def test_large_features_are_memory_mapped_and_give_the_same_batches(compiled, tmp_path, monkeypatch):
    small = _features(compiled, tmp_path)
    monkeypatch.setattr(feature_cache, "IN_MEMORY", 0)
    large = _features(compiled, tmp_path)
    data = CohortDataModule(compiled, batch_size=16, max_events=10**6)
    assert isinstance(large.rows["train"].pooled.base, np.memmap)
    assert not isinstance(small.rows["train"].pooled.base, np.memmap)
    batches: list[tuple[PooledBatch, PooledBatch]] = list(
        zip(*(StageLoaders(data, 1, features.rows).train_dataloader() for features in (small, large)), strict=True)
    )
    for one, other in batches:
        assert torch.equal(one.pooled, other.pooled)
        assert torch.equal(one.stay_id, other.stay_id)


# ------------------------------------------------------------------------------------------------ failures


class Disturbed:
    """Stands in for `module.pooled`: does something else at the third batch."""

    def __init__(self, module: SeqSetVAEFineTuner, then: Callable[[torch.Tensor], object]) -> None:
        self.pooled, self.then, self.batches = module.pooled, then, 0

    def __call__(self, batch: Batch) -> torch.Tensor:
        self.batches += 1
        pooled = self.pooled(batch)
        if self.batches == 3:
            self.then(pooled)
        return pooled


def _disturbed_features(cohort: Cohort, folder: Path, then: Callable[[torch.Tensor], object]) -> CachedFeatures:
    module = fine_tuner(cohort)
    module.pooled = Disturbed(module, then)
    return features_of(module, make_run(module, cohort, folder))


def test_an_interrupted_pass_leaves_nothing(compiled, tmp_path):
    def interrupt(pooled: torch.Tensor) -> None:
        (partial,) = _cached_folders(tmp_path)
        assert partial.name.startswith(".")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _disturbed_features(compiled, tmp_path, interrupt)
    assert _cached_folders(tmp_path) == set()
    assert len(_features(compiled, tmp_path).passes) == 2


def test_features_that_are_not_finite_end_the_run_and_are_not_cached(compiled, tmp_path):
    def spoil(pooled: torch.Tensor) -> None:
        pooled[1, 5] = float("inf")

    with pytest.raises(FloatingPointError, match=r"NaN or infinite for stay 9\d+ of the train split.*check"):
        _disturbed_features(compiled, tmp_path, spoil)
    assert _cached_folders(tmp_path) == set()


def test_of_two_runs_that_compute_the_same_features_both_use_the_first(compiled, tmp_path, capsys):
    slower = _disturbed_features(compiled, tmp_path, lambda pooled: _features(compiled, tmp_path))
    assert (
        f"Another run has computed the same features: {_train_folder(compiled, tmp_path)} is used"
        in capsys.readouterr().out
    )
    assert len(_cached_folders(tmp_path)) == 2
    assert [reading.stays for reading in slower.passes] == [60]  # train, in vain; valid was there by then
    assert np.array_equal(slower.rows["train"].pooled, _features(compiled, tmp_path).rows["train"].pooled)


def _flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / POOLED).read_bytes())
    content[-7] ^= 1
    (folder / POOLED).write_bytes(content)


def _other_shape(folder: Path) -> None:
    """A whole file, with its checksum, of fewer stays."""
    np.save(folder / POOLED, np.load(folder / POOLED)[:-1])
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    manifest["checksum"] = file_sha256(folder / POOLED)
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut off": lambda folder: os.truncate(folder / POOLED, 1000),
    "another bit": _flip_a_bit,
    "another shape": _other_shape,
    "no array": lambda folder: (folder / POOLED).unlink(),
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "half a manifest": lambda folder: os.truncate(folder / MANIFEST, 100),
    "a manifest of something else": lambda folder: (folder / MANIFEST).write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_features_are_detected_and_computed_again(damage, compiled, tmp_path, capsys):
    before = _features(compiled, tmp_path)
    folder = _train_folder(compiled, tmp_path)
    DAMAGE[damage](folder)
    after = _features(compiled, tmp_path)
    assert f"{folder}: the cached features of the frozen backbone are damaged" in capsys.readouterr().out
    assert [reading.stays for reading in after.passes] == [60]  # the validation split's were whole
    assert np.array_equal(after.rows["train"].pooled, before.rows["train"].pooled)
    assert len(_cached_folders(tmp_path)) == 2
    assert _features(compiled, tmp_path).passes == ()


def test_a_full_disk_is_an_error_before_the_first_row(compiled, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        InputError, match=r"features: cannot store 0 MiB of features \(No space left on device\)\. Free"
    ):
        _features(compiled, tmp_path)
    assert _cached_folders(tmp_path) == set()
