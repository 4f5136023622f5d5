"""Files of finished folds: what is not as it was written there, for the same job, is computed again, never averaged."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqsetvae.cohort import Cohort
from seqsetvae.evaluation import crossvalidation
from seqsetvae.runs import crossvalidation_jobs
from seqsetvae.training.run_folder import RunFolder
from tests.command import argv, call, refused, succeeded

FIRST, SECOND = "partition0-fold0", "partition0-fold1"


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Trainings and baselines are replaced by random log-odds; the list has a name for each that was computed."""
    done: list[str] = []

    def columns(cohort: Cohort, seed: int, *models: str) -> dict[str, np.ndarray]:
        held_out, rng = cohort.split("valid"), np.random.default_rng(seed)
        logits = {model: rng.normal(size=held_out.n_stays) + held_out.label for model in models}
        return {"stay_id": np.array(held_out.stay_id), "label": held_out.label.astype(int)} | logits

    def train(settings: Any, cohort: Cohort) -> tuple[dict[str, np.ndarray], RunFolder]:
        done.append(f"{settings.tuning.tuning}-seed{settings.run.seed}")
        run = settings.run.output_root_dir / f"finetune-{len(done)}"
        run.mkdir(parents=True, exist_ok=True)
        (run / "summary.json").write_text('{"epochs": 1}', encoding="utf-8")
        return columns(cohort, settings.run.seed, "seqsetvae", "trees alone"), RunFolder(run)

    def baselines(settings: Any, fold: Any) -> dict[str, np.ndarray]:
        done.append("baselines")
        found = columns(fold.labelled, 7, "boosted trees", "logistic regression")
        order = found["stay_id"].argsort()
        return {name: values[order] for name, values in found.items()}

    monkeypatch.setattr(crossvalidation_jobs, "train_and_predict", train)
    monkeypatch.setattr(crossvalidation_jobs, "_baselines", baselines)
    monkeypatch.setattr(
        crossvalidation, "bootstrap", partial(crossvalidation.bootstrap, number=20)
    )  # 2,000 take seconds
    return done


@pytest.fixture
def words(pretrained: Path, compiled: Cohort, tmp_path: Path) -> Callable[..., list[str]]:
    flags = {"pretrained_ckpt": pretrained, "data_dir": compiled.path, "output_root_dir": tmp_path, "folds": 2}
    flags |= {"output": tmp_path / "cv", "batch_size": 8, "accelerator": "cpu"}
    return lambda *more, **others: [*argv(mode="crossvalidate", **{**flags, **others}), *more]


def _result(folder: Path) -> Any:
    return json.loads((folder / "crossvalidation.json").read_text(encoding="utf-8"))


def _rows(change: Callable[[list[str]], list[str]]) -> Callable[[Path], Any]:
    def changed(file: Path) -> None:
        file.write_text("\n".join(change(file.read_text(encoding="utf-8").splitlines())) + "\n", encoding="utf-8")

    return changed


def _swapped(header: str) -> str:
    names = header.split(",")
    return ",".join([*names[:2], *names[:1:-1]])


def _of_another_fold(file: Path) -> None:
    """A copy of the other fold, with its record."""
    for suffix in (".csv", ".json"):
        shutil.copyfile(file.with_name(SECOND + suffix), file.with_suffix(suffix))


CHANGES: dict[str, Callable[[Path], Any]] = {
    "lines are cut off": _rows(lambda rows: rows[:-9]),
    "a row is there twice": _rows(lambda rows: [*rows, rows[-1]]),
    "a stay has another id": _rows(lambda rows: [rows[0], "999999," + rows[1].partition(",")[2], *rows[2:]]),
    "two models are swapped": _rows(lambda rows: [_swapped(rows[0]), *rows[1:]]),
    "a log-odds has another last digit": _rows(lambda rows: [*rows[:-1], rows[-1] + "1"]),
    "a byte order mark": lambda file: file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes()),
    "semicolons": lambda file: file.write_bytes(file.read_bytes().replace(b",", b";")),
    "a blank row": _rows(lambda rows: [*rows, ""]),
    "the header alone": _rows(lambda rows: rows[:1]),
    "line ends of Windows": lambda file: file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n")),
    "UTF-16": lambda file: file.write_bytes(file.read_text().encode("utf-16")),
    "nothing": lambda file: file.write_bytes(b""),
    "no record": lambda file: file.with_suffix(".json").unlink(),
    "a record that is no JSON": lambda file: file.with_suffix(".json").write_text("{"),
    "a record of an earlier version": lambda file: file.with_suffix(".json").write_text('{"epochs": 1}'),
    "a copy of another fold": _of_another_fold,
}


def test_a_fold_whose_file_is_not_as_it_was_written_is_computed_again(words, trained, tmp_path):
    file = tmp_path / "cv" / f"{FIRST}.csv"
    assert call(words())[0] == 0
    result, content = _result(tmp_path / "cv"), file.read_bytes()
    for name, change in CHANGES.items():
        trained.clear()
        change(file)
        damaged = file.read_bytes()
        status, said, errors = call(words())
        assert (status, trained) == (0, ["two_stage-seed42", "baselines"]), name + errors
        assert f"⚠️  {file}: " in said, name
        assert f"Found {file.with_name(SECOND)}.csv" in said, name
        assert file.read_bytes() == content, name
        assert _result(tmp_path / "cv") == result, name
        kept = list(file.parent.glob(f"{FIRST}-*.csv"))
        assert [each.read_bytes() for each in kept] == [damaged] * (damaged != content), name  # nothing is lost
        for each in kept:
            each.unlink()
    trained.clear()
    assert call(words())[0] == 0
    assert trained == []


def test_every_file_of_a_sweep_is_checked(words, trained, tmp_path):
    sweep = words("--tunings", "probe", "full", "--seeds", "2")
    assert call(sweep)[0] == 0
    result, folder = _result(tmp_path / "cv"), tmp_path / "cv"
    trained.clear()
    for suffix in (".csv", ".json"):  # a training of another seed, and one of another way of tuning, with their records
        shutil.copyfile(folder / f"{FIRST}-probe-seed43{suffix}", folder / f"{FIRST}-probe-seed42{suffix}")
        shutil.copyfile(folder / f"{FIRST}-probe-seed43{suffix}", folder / f"{FIRST}-full-seed43{suffix}")
    baselines = folder / f"{SECOND}-baselines.csv"
    baselines.write_bytes(
        baselines.read_bytes().replace(b"boosted trees,logistic regression", b"logistic regression,boosted trees")
    )
    succeeded(call(sweep))
    assert trained == ["probe-seed42", "full-seed43", "baselines"]
    assert _result(folder) == result


def test_a_sweep_trains_every_combination_and_tunings_are_a_case_of_it(words, trained, tmp_path):
    assert call(words("--sweep", "batch_size=4,16", "tuning=probe,full", baselines="none"))[0] == 0
    names = [f"batch_size={size}, {tuning}" for size in (4, 16) for tuning in ("probe", "full")]
    models = _result(tmp_path / "cv")["models"]
    assert [name for name in models if "trees alone" not in name] == names
    assert all("difference_to_first" in models[name] for name in names[1:])
    files = {file.name for file in (tmp_path / "cv").glob("*.csv")}
    assert files == {f"{fold}-{name.replace(', ', '-')}-seed42.csv" for fold in (FIRST, SECOND) for name in names}
    config = json.loads((tmp_path / "cv" / "crossvalidation_settings.json").read_text(encoding="utf-8"))
    assert not {"batch_size", "tuning", "sweep"} & config.keys()
    assert call(words("--tunings", "probe", "full", baselines="none"))[0] == 0
    trained.clear()
    assert call(words("--sweep", "tuning=probe,full", baselines="none"))[0] == 0
    assert trained == []


def test_a_later_call_adds_seeds_and_ways_and_refuses_other_settings(words, trained, pretrained, tmp_path):
    assert call(words("--tunings", "probe", baselines="none"))[0] == 0
    said = succeeded(call(words("--tunings", "full", "probe", seeds=2, baselines="none")))
    assert trained == ["probe-seed42"] * 2 + ["full-seed42", "full-seed43", "probe-seed43"] * 2
    assert said.count("Found ") == 2
    assert [name for name in _result(tmp_path / "cv")["models"] if "trees" not in name] == ["full", "probe"]
    other = tmp_path / "other.ckpt"
    other.write_bytes(pretrained.read_bytes() + b"0")
    for flags in ({"lr": 1e-4, "train_fraction": 0.5}, {"pretrained_ckpt": other}):
        errors = refused(call(words("--tunings", "full", **flags, baselines="none")))
        differ = {line.split(":")[0].strip().removeprefix("content of ") for line in errors.splitlines()[1:]}
        assert differ == flags.keys()


@pytest.mark.parametrize(
    ("sweep", "problem"),
    [
        (["--tunings", "probe", "probe"], "tunings: received probe probe; name each way of tuning once"),
        (["--tunings", "probe", "adapter"], "one of two_stage, probe, full, last_layers, layer_decay, lora"),
        (
            ["--tunings", "lora", "--unfreeze_after=2", "--max_epochs=2"],
            "less than max_epochs (= 2) with --tuning lora",
        ),
        (["--folds=0"], "folds: received '0'; allowed: an integer of at least 1"),
        (["lr"], "sweep: received 'lr'; allowed as lr: a number above 0"),
        (["lr=fast"], "sweep: received 'lr=fast'; allowed as lr: a number above 0"),
        (["lr=1e-4,0.0001"], "name each setting and each value once"),
        (["lr=1e-4", "lr=1e-5"], "name each setting and each value once"),
        (["--tunings", "probe", "--sweep", "tuning=full"], "name each setting and each value once"),
        (["data_dir=a,b"], "allowed: NAME=VALUE,VALUE with a setting of fine-tuning other than those"),
        (
            ["architecture=variable_summaries"],
            "allowed: NAME=VALUE,VALUE with a setting of fine-tuning other than those",
        ),
        (["seed=1,2"], "allowed: NAME=VALUE,VALUE with a setting of fine-tuning other than those"),
        (["min_lr=1e-6,1"], "min_lr: received 1; allowed: at most lr"),
        (["es_patience=3,9"], "es_patience: received 3; allowed: more than lr_patience"),
        (["tuning=probe,full", "unfreeze_after=0,1"], "--tuning probe sets it to None; leave out one of the two"),
    ],
)
def test_wrong_sweeps_are_refused_before_any_work(words, trained, tmp_path, sweep, problem):
    assert problem in refused(call(words(*(sweep if sweep[0].startswith("--") else ["--sweep", *sweep]))))
    assert not list(tmp_path.iterdir())


def test_folds_of_other_settings_or_data_are_not_used_even_if_nothing_else_says_so(words, trained, tmp_path):
    assert call(words())[0] == 0
    trained.clear()
    (tmp_path / "cv" / "crossvalidation_settings.json").unlink()
    said = succeeded(call(words(lr="1e-4")))
    assert said.count("it is of other settings (lr)") == 2
    assert trained == ["two_stage-seed42", "baselines"] * 2
    (tmp_path / "cv" / "crossvalidation_settings.json").unlink()
    _, said, _ = call(words(lr="1e-4", partition_seed=1, folds=3))  # other stays under other names: nothing is found
    assert "Found" not in said


def test_damaged_settings_are_an_error_and_can_be_deleted(words, trained, tmp_path):
    assert call(words())[0] == 0
    settings = tmp_path / "cv" / "crossvalidation_settings.json"
    settings.write_text(settings.read_text(encoding="utf-8")[:50], encoding="utf-8")
    trained.clear()
    assert "Delete it: each fold has a record of its own settings." in refused(call(words()))
    settings.unlink()
    assert call(words())[0] == 0
    assert trained == []


def test_folds_of_a_setting_that_is_gone_are_one_error_unless_it_had_no_effect(words, trained, tmp_path):
    settings = tmp_path / "cv" / "crossvalidation_settings.json"
    assert call(words())[0] == 0
    trained.clear()
    for weight in (0.0, 0.6):
        recorded = json.loads(settings.read_text(encoding="utf-8")) | {"distillation": weight}
        settings.write_text(json.dumps(recorded), encoding="utf-8")
        status, _, errors = call(words())
        assert status == (2 if weight else 0), errors
        assert ("the last version with it is 0.1.0" in errors) == bool(weight)
    assert trained == []


def test_a_folder_in_the_place_of_a_file_is_one_error(words, trained, tmp_path):
    (tmp_path / "cv" / f"{FIRST}.csv").mkdir(parents=True)
    assert "a folder in the place of the predictions of a fold. Remove it." in refused(call(words()))
    assert trained == []
