"""Advice that follows from the figures of the run itself, for any label."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from seqsetvae.training.run_folder import Row
from seqsetvae.training.schedule import VAL_AUC, Watched
from seqsetvae.training.summary import (
    against_chance,
    auroc_standard_error,
    finetuning_advice,
    length_advice,
    loading_advice,
    summarize,
)
from tests.training.helpers import scripted_run


def _rows(*metrics: dict[str, float], steps_per_epoch: int = 100) -> list[Row]:
    return [
        Row(1, epoch, epoch * steps_per_epoch, values, {}, 10.0, 0.0, 1.0)
        for epoch, values in enumerate(metrics, start=1)
    ]


def _auc_rows(*values: float, auprc: float = 0.3) -> list[Row]:
    return _rows(*({"val_auc": value, "val_auprc": auprc} for value in values))


def _labels(positives: int, negatives: int, unlabelled: int = 0) -> Any:
    return SimpleNamespace(label=np.array([1] * positives + [0] * negatives + [-1] * unlabelled, dtype=np.int8))


# ------------------------------------------------------------------------------------------------ fine-tuning


def test_the_standard_error_of_an_auroc():
    """At 0.5 that of the Wilcoxon statistic, sqrt((n + m + 1) / (12 n m)); of one pair that of a coin."""
    assert auroc_standard_error(0.8, 1, 1) == pytest.approx((0.8 * 0.2) ** 0.5, rel=1e-9)
    assert auroc_standard_error(0.5, 30, 170) == pytest.approx((201 / (12 * 30 * 170)) ** 0.5, rel=1e-9)


def test_auprc_above_the_prevalence_is_no_reason_for_a_warning():
    """0.275 is three times a prevalence of 8.8 %."""
    assert finetuning_advice(_auc_rows(0.78, auprc=0.275), VAL_AUC, _labels(88, 912)) == []


def test_an_auc_within_two_standard_errors_of_chance_is_a_warning_with_the_numbers():
    (line,) = finetuning_advice(_auc_rows(0.55, 0.58), VAL_AUC, _labels(20, 180, unlabelled=50))
    assert "0.580 is not clearly above chance: 20 of 200 validation stays are positive" in line
    assert "standard error is 0.068" in line
    assert finetuning_advice(_auc_rows(0.55, 0.58), VAL_AUC, _labels(2000, 18000)) == []  # the same, on more stays


def test_an_auprc_at_the_prevalence_is_a_warning():
    (line,) = finetuning_advice(_auc_rows(0.6, auprc=0.5), VAL_AUC, _labels(500, 500))
    assert "val_auprc 0.500 at the best epoch is not above the prevalence 0.500" in line


def test_a_best_first_epoch_is_reported():
    (line,) = finetuning_advice(_auc_rows(0.8, 0.79, 0.78), VAL_AUC, _labels(100, 900))
    assert line.startswith("val_auc was best after the first of 3 epochs")


def test_the_summary_compares_with_chance():
    assert against_chance(_auc_rows(0.866, auprc=0.632)[0], _labels(38, 142)) == [
        "val_auc 0.866 (standard error 0.039; chance 0.5)",
        "val_auprc 0.632 (chance 0.211, the prevalence)",
    ]


# ------------------------------------------------------------------------------------------------ length of the run


def test_a_best_last_epoch_means_train_longer():
    (line,) = length_advice(_auc_rows(0.6, 0.7, 0.8), VAL_AUC, max_epochs=3)
    assert "The best epoch is the last one (3 of 3)" in line
    assert "--max_epochs" in line
    assert length_advice(_auc_rows(0.6, 0.8, 0.7), VAL_AUC, max_epochs=3) == []
    assert length_advice(_auc_rows(0.6, 0.7, 0.8), VAL_AUC, max_epochs=20) == []  # it was not max_epochs that ended it
    assert length_advice(_rows({"val_loss": 3.0}, {"val_loss": 2.0}), Watched("val_loss", "min"), max_epochs=2)


# ------------------------------------------------------------------------------------------------ what is printed


def test_the_printed_summary_fits_in_80_columns(compiled, tmp_path):
    _, run = scripted_run(compiled, tmp_path, [0.6, 0.7, 0.8], max_epochs=3, unfreeze_after=1)
    summary = summarize(run, "CPU, 1.0 of 1 threads busy on average", 12.3, ["word " * 40])
    lines = str(summary).splitlines()
    assert lines[0].startswith("Best val_auc 0.8000 at epoch 3")
    assert all(len(line) <= 80 or str(run.folder.path) in line for line in lines)
    assert any("standard error" in line for line in lines)
    assert any("The best epoch is the last one (3 of 3)" in line for line in lines)


@pytest.mark.parametrize(("workers", "advice"), [(0, "local disk"), (2, "pass --num_workers 0")])
def test_advice_on_waiting_for_data_names_the_cause(workers, advice):
    (line,) = loading_advice(0.5, workers)
    assert "50% of the time" in line
    assert advice in line
    assert loading_advice(0.05, workers) == loading_advice(None, workers) == []
