"""value_clip and min_count: new models get them, a checkpoint records them, and all modes repeat them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from seqsetvae.batches.loading import CohortDataModule
from seqsetvae.batches.transform import VALUE_TRANSFORM, ValueTransform, ZScore, read_transform
from seqsetvae.cohort import Cohort
from seqsetvae.cohort.export import write_stay
from seqsetvae.cohort.sources.synthetic import write_synthetic
from seqsetvae.system.errors import InputError
from seqsetvae.training.feature_cache import FeatureFolder
from tests.command import command, finetune, refused, run_of, succeeded
from tests.tiny import compile_with_side_files
from tests.training.helpers import CPU, fine_tuner

CLIP, MIN_COUNT = 10.0, 20  # of the config file


def add_rows(folder: Path, split: str, stay: int, rows: list[tuple[str, float]]) -> None:
    """Add rows at the end of one stay of a patient_ehr folder."""
    file = folder / split / f"{stay}.0.parquet"
    table = pq.read_table(file).to_pydict()
    for name, value in rows:
        table["variable"].append(name)
        table["value"].append(value)
        table["minute"].append(table["minute"][-1])
        table["set_index"].append(table["set_index"][-1])
    write_stay(file.parent, stay, pa.table(table))


def wild_layout(out: Path, heart_rate: float = 80 + 10 * 25_000, ferritin: float = 3000) -> Path:
    """A synthetic cohort in which one heart rate is mistyped, ferritin occurs twice and x9 has no statistics."""
    folder = write_synthetic(out, n_stays=100, seed=3)
    stats = out / "stats.csv"
    lines = [line for line in stats.read_text().splitlines() if not line.startswith("heart rate")]
    stats.write_text("\n".join([*lines, "heart rate,80,10", "ferritin,300,100"]) + "\n")
    add_rows(folder, "train", 900_001, [("heart rate", heart_rate), ("ferritin", ferritin)])
    add_rows(folder, "valid", 900_061, [("ferritin", ferritin)])
    for stay in range(900_002, 900_042):
        add_rows(folder, "train", stay, [("x9", 50.0)])
    return folder


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    root = tmp_path_factory.mktemp("wild")
    return compile_with_side_files(wild_layout(root / "processed"), root / "cohort")


@pytest.fixture(scope="module")
def new_checkpoint(wild: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that was pretrained on the wild cohort with the settings of the config file."""
    root = tmp_path_factory.mktemp("pretrained")
    flags = {"preset": "small", "max_epochs": 1, "min_count": MIN_COUNT}
    said = succeeded(command("pretrain", data_dir=wild.path, output_root_dir=root, **flags))
    assert "Values: z-scores clipped at ±10 (value_clip); " in said
    assert "variables with fewer than 20 training values get the value 1: 'ferritin' (min_count)" in said
    return next(root.glob("pretrain-*")) / "checkpoints" / "best.ckpt"


def values_of(cohort: Cohort, change: ValueTransform, split: str) -> dict[tuple[int, str], np.ndarray]:
    """The sorted values of each variable in each stay, as a loader hands them over in batches of one stay."""
    data = CohortDataModule(cohort, batch_size=1, max_events=10**6, labelled=False, dtype=np.float64, transform=change)
    found = {}
    for batch in data.loader(split):
        for v in batch.variable.unique().tolist():
            key = (int(batch.stay_id[0]), cohort.vocabulary[v])
            found[key] = np.sort(batch.value[batch.variable == v].numpy())
    return found


# ------------------------------------------------------------------------------------------------ what it does


def test_values_are_clipped_and_rare_variables_are_present(wild):
    plain = values_of(wild, ZScore(), "train")
    changed = values_of(wild, ZScore.fit(wild, value_clip=CLIP, min_count=MIN_COUNT), "train")
    assert plain[900_001, "heart rate"][-1] == 25_000
    assert plain[900_001, "ferritin"].tolist() == [27.0]
    assert changed[900_001, "heart rate"][-1] == 10
    assert changed[900_001, "ferritin"].tolist() == [1.0]
    assert changed[900_002, "x9"].tolist() == [50.0]  # a raw value: standard deviations cannot limit it
    assert plain.keys() == changed.keys()
    different = {key for key in plain if not np.array_equal(plain[key], changed[key])}
    assert different == {(900_001, "heart rate"), (900_001, "ferritin")}


def test_without_settings_values_are_plain_z_scores(wild):
    assert ZScore.fit(wild, value_clip=None, min_count=0) == ZScore()
    variable, value = wild.split("train").variable, wild.split("train").value
    mean, std = wild.mean[variable], wild.std[variable]
    known = ~np.isnan(mean)
    found = ZScore().change(wild)(variable, value)
    assert np.array_equal(found[known], ((value - mean) / std)[known])
    assert np.array_equal(found[~known], value[~known])
    assert 0 < known.sum() < len(known)


def test_variables_are_counted_in_the_training_split_alone(wild, monkeypatch):
    monkeypatch.setattr("seqsetvae.cohort.format.EVENTS_PER_BLOCK", 1000)
    assert ZScore.fit(wild, value_clip=None, min_count=1).rare == ()
    assert ZScore.fit(wild, value_clip=None, min_count=2).rare == ("ferritin",)  # the other one is a validation stay's
    assert ZScore.fit(wild, value_clip=None, min_count=41).rare == ("ferritin", "x9")


def test_variables_that_training_did_not_have_are_rare():
    change = ZScore(10.0, 5, ("b",))
    assert change.with_unknown(["a", "b", "new"], known=["a", "b"]).rare == ("b", "new")
    assert ZScore(10.0).with_unknown(["new"], known=[]).rare == ()  # min_count is off


# ------------------------------------------------------------------------------------------------ checkpoints


def test_a_new_pretrained_checkpoint_records_it(new_checkpoint):
    content = torch.load(new_checkpoint, weights_only=True)
    assert content[VALUE_TRANSFORM] == {"name": "z_score", "clip": CLIP, "min_count": MIN_COUNT, "rare": ["ferritin"]}


def test_fine_tuning_evaluating_and_embedding_use_that_of_the_checkpoint(new_checkpoint, wild, tmp_path):
    said = succeeded(finetune(new_checkpoint, wild.path, tmp_path, max_epochs=1, unfreeze_after="none"))
    run = run_of(tmp_path)
    expected = {"name": "z_score", "clip": CLIP, "min_count": MIN_COUNT, "rare": ["ferritin"]}
    assert json.loads((run / "config.json").read_text(encoding="utf-8"))["values"] == expected
    saved = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["hyper_parameters"]
    assert saved[VALUE_TRANSFORM] == expected
    line = "Values: z-scores clipped at ±10"
    assert line in said
    assert line in command("evaluate", ckpt=run, split="valid")[1]


def test_states_do_not_depend_on_how_wild_a_value_is(new_checkpoint, wild, tmp_path):
    tame = wild_layout(tmp_path / "tame", heart_rate=180.0, ferritin=400.0)  # both are z-scores of at most 10
    found = []
    for name, data in (("wild", wild.path), ("tame", tame)):
        output = tmp_path / f"{name}.npz"
        succeeded(
            command(
                "embed",
                pretrained_ckpt=new_checkpoint,
                data_dir=data,
                split="train",
                output=output,
                output_root_dir=tmp_path,
            )
        )
        found.append(dict(np.load(output)))
    for name, states in found[0].items():
        np.testing.assert_array_equal(states, found[1][name])


def test_a_checkpoint_without_it_means_plain_z_scores(pretrained, compiled, tmp_path):
    said = succeeded(finetune(pretrained, compiled.path, tmp_path, max_epochs=1, unfreeze_after="none"))
    assert "Values: plain z-scores" in said
    values = json.loads((run_of(tmp_path) / "config.json").read_text(encoding="utf-8"))["values"]
    assert values == {"name": "z_score", "clip": None, "min_count": 0, "rare": []}


@pytest.mark.parametrize("mode", ["finetune", "pretrain"])
def test_a_flag_that_contradicts_the_checkpoint_is_an_error(mode, pretrained, compiled, tmp_path):
    flags = {"mode": mode, "pretrained_ckpt": pretrained, "data_dir": compiled.path, "output_root_dir": tmp_path}
    errors = refused(command(**flags, value_clip=5, min_count=0))
    assert "value_clip: received 5.0; trained with None. Leave out --value_clip." in errors
    assert "min_count" not in errors  # 0 is the checkpoint's
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_record_is_an_error(tmp_path):
    good = {"clip": 10.0, "min_count": 20, "rare": ["a"]}
    assert read_transform(good, tmp_path) == ZScore(10.0, 20, ("a",))
    assert read_transform(ZScore(10.0, 20, ("a",)).as_plain(), tmp_path).rare == ("a",)
    for bad in (3, {}, {**good, "clip": -1.0}, {**good, "clip": float("nan")}, {**good, "min_count": None},
                {**good, "rare": [3]}):  # fmt: skip
        with pytest.raises(InputError, match=r"value_transform .* is damaged"):
            read_transform(bad, tmp_path)


def test_a_record_without_a_name_is_the_z_score_and_another_name_is_an_error(tmp_path):
    assert read_transform(None, tmp_path) == ZScore()  # checkpoints from before there were transforms
    record = ZScore(10.0, 20, ("a",)).as_plain()
    assert record.pop("name") == "z_score"
    assert read_transform(record, tmp_path) == ZScore(10.0, 20, ("a",))
    with pytest.raises(InputError, match=r"transform 'ranks', which this version does not know; it knows z_score"):
        read_transform({"name": "ranks"}, tmp_path)
    with pytest.raises(InputError, match="which this version does not know"):
        read_transform({**record, "name": ["z_score"]}, tmp_path)


def test_features_of_other_values_are_other_features(compiled, tmp_path):
    paths = set()
    for change in (ZScore(), ZScore(10.0), ZScore(5.0), ZScore(5.0, 20, ("age",))):
        data = CohortDataModule(compiled, batch_size=16, max_events=10**6, transform=change)
        paths.add(FeatureFolder.locate(tmp_path, fine_tuner(compiled), data, "train", CPU).path)
    assert len(paths) == 4
