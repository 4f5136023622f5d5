"""The baselines: the summaries are those of their definition, and evaluation shows the models beside the checkpoint."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from seqsetvae.batches.loading import CohortDataModule
from seqsetvae.cohort import Cohort
from seqsetvae.evaluation.baselines import OF_EACH_VARIABLE, baseline_outputs, summary_table
from seqsetvae.tasks import fitting
from seqsetvae.tasks.fitting import boosted_trees, logistic_regression
from seqsetvae.tasks.spec import one_label
from tests.command import command, succeeded

BASELINES = ("boosted trees", "logistic regression")
pytest.importorskip("lightgbm", reason="the baselines need lightgbm")


@pytest.fixture
def data(compiled: Cohort) -> CohortDataModule:
    return CohortDataModule(compiled, batch_size=16, max_events=10**6, labelled=False)


def test_the_table_holds_twelve_summaries_of_each_variable(compiled, data):
    ids, table = summary_table(data, "valid")
    split = compiled.split("valid")
    assert ids.tolist() == sorted(split.stay_id[split.label >= 0].tolist())
    stay = int(np.flatnonzero(split.stay_id == ids[0])[0])
    first, end = split.stay_offset[stay], split.stay_offset[stay + 1]
    hour = (split.minute[first:end] - split.minute[first]) / 60
    hours = np.repeat(hour, np.diff(split.set_offset[first : end + 1]))
    events = slice(split.set_offset[first], split.set_offset[end])
    variable = int(split.variable[events][0])
    own = split.variable[events] == variable
    value, when = compiled.variables.z_scores(split.variable[events], split.value[events])[own], hours[own]
    late = value[when > hour[-1] - 12]
    last = [late.mean(), late.min(), late.max()] if len(late) else [np.nan] * 3
    expected = [len(value), value.mean(), value.std(), value.min(), value.max(), value[0], value[-1]]
    width = len(OF_EACH_VARIABLE)
    found = table[0, variable * width : (variable + 1) * width]
    np.testing.assert_allclose(found, [*expected, when[0], when[-1], *last], rtol=1e-5, atol=1e-5)
    absent = sorted({*range(len(compiled.vocabulary))} - {*split.variable[events].tolist()})
    assert all(np.isnan(table[0, each * width : (each + 1) * width]).all() for each in absent)


@pytest.mark.parametrize("fit", [boosted_trees, logistic_regression])
def test_the_models_find_a_planted_signal_and_cope_with_missing_values(fit):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(600, 10)).astype(np.float32)
    label = (table[:, 3] + 0.5 * rng.normal(size=600) > 0.8).astype(int)
    table[rng.random(table.shape) < 0.1] = np.nan
    table[:, 7] = np.nan
    parts = [(table[rows], label[rows]) for rows in (slice(0, 300), slice(300, 450), slice(450, 600))]
    assert roc_auc_score(parts[2][1], fit(*parts[:2])(parts[2][0])) > 0.75


def test_log_odds_come_by_ascending_stay_id(data, monkeypatch):
    monkeypatch.setattr(fitting, "MOST_ROUNDS", 5)
    ids, found = baseline_outputs(one_label(data.cohort.label_name), data, "test")
    assert ids.tolist() == sorted(ids.tolist())
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(BASELINES, (len(ids), 1))


def test_evaluation_shows_the_baselines_with_paired_differences(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "MOST_ROUNDS", 5)
    run, _ = finished
    printed = succeeded(command("evaluate", ckpt=run, split="test", output=tmp_path, baselines="all"))
    found = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert set(found["baselines"]) == {"prevalence", *BASELINES}
    for name, entry in found["baselines"].items():
        own, other = found["figures"]["auroc"]["value"], entry["figures"]["auroc"]["value"]
        assert entry["difference"]["auroc"]["value"] == pytest.approx(own - other)
        assert name in printed


def test_baselines_on_the_split_that_chose_them_are_marked(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "MOST_ROUNDS", 5)
    _, printed, _ = command("evaluate", ckpt=finished[0], split="valid", output=tmp_path, baselines="all")
    assert "The baselines were stopped or chosen on the validation split" in " ".join(printed.split())
