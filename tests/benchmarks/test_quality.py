"""The rows of the table of prediction quality: one cross-validation each, joined stay by stay."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import finetune_config_optimized as config
import train_optimized
from benchmarks import quality
from seqsetvae.cli import MODES
from seqsetvae.cli.command_line import resolve
from seqsetvae.evaluation.crossvalidation import as_csv, read_columns, results
from seqsetvae.system.errors import InputError


def _finish(folder: Path, fold: int, **models: float) -> None:
    """Predictions of a fold in an order of the row's own: the label plus noise of this size."""
    rng = np.random.default_rng(fold)
    label = (np.arange(60) % 4 == 0).astype(int)
    order = rng.permutation(60)
    columns = {"stay_id": order, "label": label[order]}
    columns |= {name: (label + noise * rng.normal(size=60))[order] for name, noise in models.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"partition0-fold{fold}.csv").write_bytes(as_csv(columns))


def test_rows_are_joined_by_stay_and_keep_their_names(tmp_path):
    first, other = quality.folder(tmp_path, "variable_summaries"), quality.folder(tmp_path, "SeqSetVAE, old")
    for fold in (0, 1):
        _finish(first, fold, **{"variable_summaries": 0.1, "network alone": 0.5, "boosted trees": 0.3})
    _finish(other, 0, seqsetvae=0.0)
    (table,) = quality.joined(tmp_path)  # the fold that both have
    assert set(table) == {"stay_id", "label", "variable_summaries", "network alone", "boosted trees", "SeqSetVAE, old"}
    assert table["stay_id"].tolist() == list(range(60))
    assert table["SeqSetVAE, old"].tolist() == table["label"].tolist()


def test_rows_of_other_stays_are_refused(tmp_path):
    _finish(quality.folder(tmp_path, "variable_summaries"), 0, variable_summaries=0.1)
    _finish(quality.folder(tmp_path, "frozen"), 0, frozen=0.1)
    other = quality.folder(tmp_path, "frozen") / "partition0-fold0.csv"
    columns = read_columns(other)
    other.write_bytes(as_csv(columns | {"stay_id": columns["stay_id"] + 1}))
    with pytest.raises(InputError, match=r"frozen.*stays or labels are not those of the other rows"):
        quality.joined(tmp_path)


def test_chosen_rows_are_run_and_all_finished_ones_are_shown(tmp_path, monkeypatch, capsys):
    calls = []

    def crossvalidate(words: list[str]) -> int:
        calls.append(words)
        _finish(Path(words[words.index("--output") + 1]), 0, seqsetvae=0.5)
        return 0

    monkeypatch.setattr(train_optimized, "main", crossvalidate)
    command = ["quality", "--data_dir", "p12", "--output", str(tmp_path), "--only", "SeqSetVAE, old", "--seed", "7"]
    monkeypatch.setattr(sys, "argv", [*command, "--", "--partition_seed", "1"])
    assert quality.main() == 0
    (words,) = calls
    assert words[words.index("--seed") + 1] == "7"
    assert words[words.index("--partition_seed") + 1] == "1"
    assert "SeqSetVAE, old" in capsys.readouterr().out


@pytest.mark.parametrize("row", quality.ROWS)
def test_every_row_is_a_call_without_mistakes(row, tmp_path):
    pytest.importorskip("lightgbm", reason="boosted trees need lightgbm")
    words = ["--mode", "crossvalidate", *quality.ROWS[row].split(), "--data_dir", str(tmp_path)]
    assert resolve(config, words, MODES).mode is MODES["crossvalidate"]


def test_the_table_of_sets_says_what_the_average_is_below():
    rng = np.random.default_rng(0)
    label = (np.arange(300) % 4 == 0).astype(int)
    columns = {"stay_id": np.arange(300), "label": label}
    noises = {"variable_summaries": 1.0, "network alone": 3.0, "trees alone": 1.0, "boosted trees": 0.2}
    columns |= {name: label + noise * rng.normal(size=300) for name, noise in noises.items()}
    columns["trees alone"] = columns["variable_summaries"]
    lines, below = quality.of_set("a set", results([columns], "variable_summaries"))
    names = [line.split(" | ")[0] for line in lines]
    assert names[0] == "| **a set** (300 predictions, 75 positive, 1 folds): average"
    assert names[1:] == ["| its network", "| its trees", "| baseline: boosted trees"]
    assert lines[2].count("0.0000") == 6
    assert lines[3].count("**") == 4
    assert [each.split(" (")[0] for each in below] == ["a set, baseline: boosted trees"] * 2


@pytest.mark.parametrize("name", quality.SETS)
def test_every_set_is_imported_by_a_command_of_the_docs(name, tmp_path, monkeypatch):
    src, of_set, others = quality.SETS[name]
    calls: list[list[str]] = []
    monkeypatch.setattr(quality, "import_data", lambda words: calls.append(words) or 0)
    files = [src, *others.values()]
    for file in files:
        (tmp_path / of_set).mkdir(exist_ok=True)
        (tmp_path / of_set / file).touch()
    out = tmp_path / "out"
    assert quality.imported(name, tmp_path, out) == out
    ((verb, source, target, *flags),) = calls
    assert (verb, source, target) == ("table", str(tmp_path / of_set / src), str(out))
    assert flags[-4:] == ["--fractions", "0.8", "0.2", "0"]
    assert all(other in {*flags, *(Path(word).name for word in flags)} for other in others.values())


def test_a_set_without_its_folder_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["quality", "--output", str(tmp_path), "--only", "eICU demo, death"])
    with pytest.raises(SystemExit):
        quality.main()
    assert "sets need --foreign" in capsys.readouterr().err
