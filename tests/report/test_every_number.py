"""Every number of report.html is that of evaluation.json or follows from the predictions.

Every cell of every table, the cards, the sentence about the result, and the numbers that describe each figure to
readers who cannot see it. The numbers of evaluation.json itself are compared with scikit-learn in
tests/evaluation/test_statistics.py and test_results.py, what the figures draw in tests/tasks/test_curves.py.
"""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

from seqsetvae.evaluation.groups import Subgroup
from seqsetvae.evaluation.results import evaluation
from seqsetvae.report.page import content_of
from seqsetvae.report.parts import Section, Table
from seqsetvae.report.result import _p_values
from seqsetvae.report.run_files import Run, read_run
from seqsetvae.tasks.binary import Calibration, constant
from seqsetvae.tasks.scores import BINARY_METRICS
from seqsetvae.tasks.spec import one_label
from tests.evaluation.test_results import predictions
from tests.evaluation.test_statistics import sample

RESAMPLES, SEED, STAYS = 20, 5, 390
CALIBRATION = Calibration(
    checkpoint_sha256="", split="valid", stays=90, positives=9, slope=0.8, intercept=-0.1, threshold_logit=-0.3
)
BEST = dict.fromkeys(("brier", "calibration_intercept", "mean_difference", "ece"), "0")
BEST |= {"auroc": "1; chance 0.5", "auprc": "1; chance: the prevalence", "alarms": "–"}
BY_GROUP = ("auroc", "calibration_intercept", "sensitivity", "specificity")
BANDED = replace(CALIBRATION, abstain=0.1, conformal_low=-1.0, conformal_high=0.5, admissions_per_day=12.0)
AT_THRESHOLD = ("sensitivity", "specificity", "ppv", "npv", "nne", "alarms")
LABEL, LOGIT = sample(STAYS)
WOMEN = np.arange(STAYS) % 2 == 0
EARLY = LOGIT * 0.5 + np.random.default_rng(2).normal(size=STAYS)
OTHERS = {
    "prevalence": constant(one_label(), None, LABEL[:, None])["prevalence"][:, 0],
    "boosted trees": LOGIT + np.random.default_rng(1).normal(size=STAYS),
}
GROUPS = {"female": WOMEN, "male": ~WOMEN}


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    """evaluation.json."""
    evaluated = predictions(LABEL, LOGIT, calibration=BANDED)
    return evaluation(
        evaluated,
        "best.ckpt",
        others={name: evaluated.other(logit[:, None]) for name, logit in OTHERS.items()},
        members={"network": evaluated.other(LOGIT[:, None] / 2 + 1), "trees": evaluated.other(-LOGIT[:, None])},
        weights={"network": 0.25, "trees": 0.75},
        subgroups=[Subgroup("sex", name, stays) for name, stays in GROUPS.items()],
        landmarks={6.0: predictions(LABEL, EARLY, calibration=CALIBRATION)},
        resamples=RESAMPLES,
        seed=SEED,
    )


# ------------------------------------------------------------------ report.html


@pytest.fixture(scope="module")
def run(content: dict[str, Any], finished: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run with this evaluation and its predictions."""
    folder = tmp_path_factory.mktemp("numbers") / "run"
    shutil.copytree(finished[0], folder)
    (folder / "evaluation.json").write_text(json.dumps(content))
    calibrated = expit(CALIBRATION.slope * LOGIT + CALIBRATION.intercept)
    columns = zip(range(STAYS), LOGIT, expit(LOGIT), calibrated, LABEL, strict=True)
    lines = [f"{stay},test,{logit},{risk},{own},{label}," for stay, logit, risk, own, label in columns]
    head = "stay_id,split,logit,probability,calibrated_probability,label,reason"
    (folder / "predictions.csv").write_text("\n".join([head, *lines]) + "\n")
    return read_run(folder)


def _sections(run: Run) -> list[Section]:
    content = content_of([run])
    return [content["result"], *content["sections"]]


def _text(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def _interval(figure: dict[str, Any]) -> str:
    return "–" if figure["low"] is None else f"{_text(figure['low'])} to {_text(figure['high'])}"


def _stacked(figure: dict[str, Any]) -> str:
    return _text(figure["value"]) if figure["low"] is None else f"{_text(figure['value'])}\n{_interval(figure)}"


def _bins() -> list[list[str]]:
    """Ten groups of equally many stays by calibrated risk, as scikit-learn makes them."""
    risk = expit(CALIBRATION.slope * LOGIT + CALIBRATION.intercept)
    observed, predicted = calibration_curve(LABEL, risk, n_bins=10, strategy="quantile")
    group = np.searchsorted(np.quantile(risk, np.linspace(0, 1, 11)[1:-1]), risk)
    rows = []
    for n, (share, mean) in enumerate(zip(observed, predicted, strict=True)):
        stays, positives = int((group == n).sum()), int(LABEL[group == n].sum())
        ends = binomtest(positives, stays).proportion_ci(0.95, method="wilson")
        bounds = f"{_text(ends.low)} to {_text(ends.high)}"
        rows.append([_text(mean), _text(share), bounds, str(positives), str(stays)])
    return rows


def _net_benefits() -> list[list[str]]:
    risk, rows = expit(CALIBRATION.slope * LOGIT + CALIBRATION.intercept), []
    for threshold in (0.05, 0.1, 0.2, 0.3, 0.5):
        odds = threshold / (1 - threshold)
        (_, false_positive), (_, true_positive) = confusion_matrix(LABEL, risk >= threshold)
        own, everyone = true_positive - odds * false_positive, LABEL.sum() - odds * (1 - LABEL).sum()
        rows.append([f"{threshold:.1%}".replace("%", " %"), _text(own / STAYS, 4), _text(everyone / STAYS, 4)])
    return rows


def _group_rows(names: list[str], groups: list[dict[str, Any]]) -> list[list[str]]:
    shown = [[_stacked(each["figures"][name]) for name in ("auroc", "auprc", "brier")] for each in groups]
    counts = [f"{each['positives']} of {each['stays']}" for each in groups]
    return [[name, three[0], count, *three[1:]] for name, three, count in zip(names, shown, counts, strict=True)]


def _compared_rows(figures: dict[str, Any], others: dict[str, Any]) -> list[list[str]]:
    rows = [["This model", *(_stacked(figures[name]) for name in ("auroc", "auprc", "brier")), "–", "–"]]
    for name, each in others.items():
        own = [_stacked(each["figures"][key]) for key in ("auroc", "auprc", "brier")]
        rows.append([name.capitalize(), *own, *(_stacked(each["difference"][key]) for key in ("auroc", "auprc"))])
    return rows


BAND = (LOGIT >= -1.0) & (LOGIT <= 0.5)


def _abstained(content: dict[str, Any]) -> list[list[str]]:
    """Values by definition, intervals as in evaluation.json."""
    figures, rows = content["abstention"]["figures"], []
    wrong = np.where(LABEL == 1, LOGIT < -1, LOGIT > 0.5)
    for end, own in (("", LABEL >= 0), (" of label 0", LABEL == 0), (" of label 1", LABEL == 1)):
        values = (BAND[own].mean(), wrong[own & ~BAND].mean(), 1 - wrong[own].mean())
        names = (f"{name}{end}" for name in ("abstained", "error among decided", "coverage"))
        rows.append([_stacked(figures[n] | {"value": v}) for n, v in zip(names, values, strict=True)])
    return rows


def _expected_tables(run: Run, content: dict[str, Any]) -> dict[str, list[list[str]]]:
    """The rows of every table with numbers that are computed, by the beginning of its caption."""
    figures, others = content["figures"], content["baselines"]
    (difference,) = [each["difference"] for each in content["subgroups"] if "difference" in each]
    tn, fp, fn, tp = confusion_matrix(LABEL, CALIBRATION.threshold_logit <= LOGIT).ravel().tolist()
    members = {f"{name}, weight {each['weight']:.2f}": each for name, each in content["members"].items()}
    assert run.cohort is not None
    splits = []
    for name, split in run.cohort.splits.items():
        positives, stays = int((split.label == 1).sum()), len(split.stay_id)
        events, labelled = len(split.value), int((split.label >= 0).sum())
        counts = [f"{n:,}" for n in (stays, labelled, positives)]
        share = f"{positives / labelled:.1%}".replace("%", " %")
        splits.append([name, *counts, share, f"{len(split.minute):,}", f"{events:,}", f"{events / stays:,.0f}"])
    variables = [
        [name, *(f"{value:.4g}".replace("-", "−") for value in pair)]
        for name, *pair in zip(run.cohort.vocabulary, run.cohort.mean, run.cohort.std, strict=True)
    ]
    metrics = list(csv.DictReader((run.folder / "metrics.csv").open()))
    shown = ("train_loss", "val_loss", "val_auc", "val_auprc")
    validations = [[row["epoch"], row["stage"], *(f"{float(row[name]):.4f}" for name in shown)] for row in metrics]
    return {
        "This model and the baselines": _compared_rows(figures, others),
        "This model and the members": _compared_rows(figures, members),
        "All metrics": [
            [_text(figures[name]["value"]), _interval(figures[name]), BEST.get(name, "1")]
            + [_text(each["figures"][name]["value"]) for each in others.values()]
            for name in BINARY_METRICS
        ],
        "Stays by split": splits,
        "Variables": variables,
        "All validations": validations,
        "Calibration by group of stays, calibrated": _bins(),
        "Calls at calibrated probability": [
            ["label 1", f"{tp}\ntrue positive", f"{fn}\nfalse negative"],
            ["label 0", f"{fp}\nfalse positive", f"{tn}\ntrue negative"],
        ],
        "At this threshold": [
            *([_stacked(figures[name])] for name in AT_THRESHOLD),
            [_stacked(content["decision"]["figures"]["alarms a day"])],
        ],
        f"With abstention {BAND.sum()} stays are undecided, {(LOGIT > 0.5).sum()} called": _abstained(content),
        "Differences to the largest group": [[_stacked(difference[name]) for name in BY_GROUP]],
        "Whether the groups of a column differ": [
            [f"{_text(p['p'])}\n{_text(p['holm'])}" for p in content["subgroup_columns"][0]["tests"].values()]
        ],
        "Net benefit": _net_benefits(),
        "Subgroups": _group_rows(["sex: female", "sex: male"], content["subgroups"]),
        "All metrics by subgroup": [
            [f"sex: {name}", *(_text(each["figures"][key]["value"]) for key in BINARY_METRICS)]
            for name, each in zip(GROUPS, content["subgroups"], strict=True)
        ],
        "Landmarks": _group_rows(["6"], content["landmarks"]),
    }


# Copied from config.json and summary.json; the first column names the entry.
COPIED = ("This run", "Settings", "Sizes of the model", "Weights of the checkpoint", "How values are read", "Versions")


def test_every_cell_of_every_table_in_a_report_is_computed_again(run, content):
    tables = [table for section in _sections(run) for table in (*section.tables, *section.folded)]
    expected, seen = _expected_tables(run, content), set()
    for table in tables:
        if table.caption in COPIED:
            continue
        key = max((each for each in expected if table.caption.startswith(each)), key=len)
        seen.add(key)
        for row, cells in zip(table.rows, expected[key], strict=True):
            _assert_same_cells(table, list(row), cells)
    assert seen == set(expected)


def _assert_same_cells(table: Table, row: list[str], cells: list[str]) -> None:
    """The cells of a row; the tables of metrics have the name before them."""
    assert row[len(row) - len(cells) :] == cells, table.caption


def test_copied_tables_hold_what_the_files_hold(run):
    tables = {table.caption: table for section in _sections(run) for table in (*section.tables, *section.folded)}
    config, summary = (json.loads((run.folder / name).read_text()) for name in ("config.json", "summary.json"))
    loaded = {name: len(each) if isinstance(each, list) else each for name, each in config["pretrained"].items()}
    copied = (config["settings"], config["sizes"], loaded, config["values"], config["versions"])
    for caption, content in zip(COPIED[1:], copied, strict=True):
        rows = [[name, str(value)] for name, value in content.items()]
        for (name, shown), (expected, whole) in zip(tables[caption].rows, rows, strict=True):
            assert name == expected
            assert shown == whole or (shown.endswith(" …") and whole.startswith(shown[:-2]))
    speed = dict(tables["This run"].rows)
    assert speed["Device and memory"] == summary["device_use"]
    for stage, parts in summary["trained"].items():
        counts = ", ".join(f"{part} {count:,}" for part, count in parts.items())
        assert speed[f"Trainable parameters, stage {stage}"] == counts


def test_the_cards_and_the_sentence_about_the_result_hold_the_figures(run, content):
    figures, trees = content["figures"], content["baselines"]["boosted trees"]
    shown = content_of([run])
    cards = {card.name: (card.value, card.detail) for card in shown["cards"]}
    share = f"{LABEL.mean():.1%}".replace("%", " %")
    assert cards == {
        "AUROC": (_text(figures["auroc"]["value"]), f"95 % interval {_interval(figures['auroc'])}; chance 0.5"),
        "AUPRC": (
            _text(figures["auprc"]["value"]),
            f"95 % interval {_interval(figures['auprc'])}; chance {_text(LABEL.mean())}",
        ),
        "Brier score": (_text(figures["brier"]["value"]), f"95 % interval {_interval(figures['brier'])}"),
        "Stays, test split": (str(STAYS), f"{LABEL.sum()} positive ({share})"),
    }
    own, other, paired = figures["auroc"], trees["figures"]["auroc"], trees["difference"]["auroc"]
    text = f"AUROC {own['value']:.3f} against {other['value']:.3f}, difference {paired['value']:+.3f} "
    assert f"{text}[{paired['low']:+.3f}, {paired['high']:+.3f}]" in shown["verdict"]


def test_the_numbers_that_describe_figures_are_computed_again(run, content):
    alt = {picture.name: picture.alt for section in _sections(run) for picture in section.pictures}
    auroc, auprc = roc_auc_score(LABEL, LOGIT), average_precision_score(LABEL, LOGIT)
    risk = expit(CALIBRATION.slope * LOGIT + CALIBRATION.intercept)

    def told(figure: dict[str, Any]) -> str:
        return f"{_text(figure['value'])} ({_interval(figure)})"

    expected = {
        "roc": f"AUROC {_text(auroc)}.",
        "precision_recall": f"AUPRC {_text(auprc)}; the prevalence is {_text(LABEL.mean())}.",
        "baselines_auroc": f"Boosted trees {told(content['baselines']['boosted trees']['figures']['auroc'])}",
        "baselines_auprc": f"This model {told(content['figures']['auprc'])}",
        "calibration": "; ".join(f"predicted {row[0]}, observed {row[1]}" for row in _bins()),
        "risk_histogram": f"median is {_text(float(np.median(risk[LABEL == 0])))} among stays of label 0 and "
        f"{_text(float(np.median(risk[LABEL == 1])))} among",
        "decision_curve": "above that of acting on every stay and on none between",
        "subgroups": f"sex female {told(content['subgroups'][0]['figures']['auroc'])}",
        **{
            f"subgroups_{name}": f"sex female {told(content['subgroups'][0]['figures'][name])}" for name in BY_GROUP[1:]
        },
        "landmarks": f"6 h: AUROC {told(content['landmarks'][0]['figures']['auroc'])}.",
        "flow": f"evaluated: test: {STAYS} stays, outcome {LABEL.sum()} (",
    }
    training = {"loss", "val_auc", "val_auprc", "learning_rates"}
    assert alt.keys() == expected.keys() | training
    for name, text in expected.items():
        assert text in alt[name], name
    metrics = list(csv.DictReader((run.folder / "metrics.csv").open()))
    for name in ("val_auc", "val_auprc"):
        first, last = (float(row[name]) for row in (metrics[0], metrics[-1]))
        assert f"{name} from {first:.4g} to {last:.4g}" in alt[name]


def test_a_p_value_is_never_shown_as_zero():
    assert _p_values({"p": 0.0001, "holm": 0.0016}) == "< 0.001\n0.002"
    assert _p_values({"p": None, "holm": None}) == _p_values(None) == "–"


def test_hidden_groups_are_named_without_a_number(run, content):
    sex = content["subgroup_columns"][0] | {
        "hidden": ["female", "male"],
        "shown": False,
        "tests": {},
        "reference": None,
    }
    hidden = replace(run, evaluation=content | {"subgroups": [], "subgroup_columns": [sex]})
    (section,) = [each for each in _sections(hidden) if each.key == "subgroups"]
    assert section.text == [
        "sex: female, male are hidden, because one has fewer than 10 stays, positives or negatives, and would follow "
        "from the others."
    ]
    assert not section.pictures
    assert not section.tables
