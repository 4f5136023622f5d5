"""Metrics by group: differences, tests over patients, and what is hidden of small groups."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from seqsetvae.evaluation.findings import findings_of, hidden_words
from seqsetvae.evaluation.groups import Subgroup, by_group, hidden, one_of_each
from seqsetvae.tasks.interaction import auroc_p, holm
from tests.evaluation.test_results import CALIBRATION, predictions
from tests.evaluation.test_statistics import sample

LABEL, LOGIT = sample(600)


def _columns(**columns: list[str]) -> list[Subgroup]:
    return [
        Subgroup(name, group, np.array(values) == group)
        for name, values in columns.items()
        for group in sorted(set(values))
    ]


def _found(groups: list[Subgroup], smallest: int = 10, label: Any = LABEL, logit: Any = LOGIT, **options: Any) -> Any:
    return by_group(predictions(label, logit, calibration=CALIBRATION, **options), groups, smallest, 100, 0)


def test_each_group_is_compared_with_the_largest():
    names = ["a"] * 100 + ["b"] * 300 + ["c"] * 200
    content = _found(_columns(unit=names))
    (column,) = content["subgroup_columns"]
    assert (column["reference"], column["hidden"]) == ("b", [])
    rows = {each["group"]: each for each in content["subgroups"]}
    assert "difference" not in rows["b"]
    for name in "ac":
        difference = rows[name]["difference"]
        assert difference.keys() == {"auroc", "calibration_intercept", "sensitivity", "specificity"}
        own, other = (np.array(names) == each for each in (name, "b"))
        expected = roc_auc_score(LABEL[own], LOGIT[own]) - roc_auc_score(LABEL[other], LOGIT[other])
        assert difference["auroc"]["value"] == pytest.approx(expected)
        assert difference["auroc"]["low"] < expected < difference["auroc"]["high"]
        for metric, interval in difference.items():
            values = [rows[each]["figures"][metric]["value"] for each in (name, "b")]
            assert interval["value"] == pytest.approx(values[0] - values[1])
    assert column["tests"].keys() == {"auroc", "calibration", "sensitivity", "specificity"}


def test_a_difference_between_groups_that_share_patients_has_the_interval_of_whole_patients():
    """Two stays of each patient, one in each group, with the same scores: the difference is 0 in every resample."""
    label, logit = np.repeat(LABEL, 2), np.repeat(LOGIT, 2)
    groups = _columns(half=["first", "second"] * 600)
    (_, other) = _found(groups, label=label, logit=logit, subject=np.repeat(np.arange(600), 2))["subgroups"]
    assert set(other["difference"]["auroc"].values()) == {0.0}
    (_, apart) = _found(groups, label=label, logit=logit)["subgroups"]
    assert apart["difference"]["auroc"]["low"] < 0 < apart["difference"]["auroc"]["high"]


def test_tests_are_over_one_stay_of_each_patient():
    subject = np.repeat(np.arange(200), 3)
    chosen = one_of_each(subject, 600, 0)
    assert subject[chosen].tolist() == list(range(200))
    assert len({tuple(one_of_each(subject, 600, seed) % 3) for seed in range(3)}) == 3  # drawn, not the first
    names = np.array(["a", "b"])[np.arange(600) % 2]
    (column,) = _found(_columns(unit=names.tolist()), subject=subject)["subgroup_columns"]
    expected = auroc_p(LABEL[chosen], LOGIT[chosen], (names[chosen] == "b").astype(int))
    assert column["tests"]["auroc"]["p"] == pytest.approx(expected)


def test_p_values_are_corrected_for_all_tests_and_a_small_one_is_a_finding():
    sex = np.array(["f", "m"])[np.arange(600) % 2]
    logit = np.where((sex == "m") & (LABEL == 1), LOGIT - 3, LOGIT)
    groups = _columns(sex=sex.tolist(), half=["a"] * 300 + ["b"] * 300)
    content = _found(groups, logit=logit)
    tests = {(c["column"], name): p for c in content["subgroup_columns"] for name, p in c["tests"].items()}
    assert [p["holm"] for p in tests.values()] == pytest.approx(holm([p["p"] for p in tests.values()]))
    assert len(tests) == 8
    found = [
        each.text
        for each in findings_of(content | {"figures": {}, "stays": 600})
        if "Not the same in all groups" in each.text
    ]
    assert len(found) == sum(p["holm"] < 0.05 for p in tests.values()) > 0
    assert any(text.startswith("Not the same in all groups of sex: AUROC (p = ") for text in found)
    assert all("Holm's correction for 8 tests" in text for text in found)


# ------------------------------------------------------------------ hidden groups


def _hidden(columns: dict[str, list[str]], smallest: int = 10) -> dict[str, set[str]]:
    groups = _columns(**columns)
    counts = np.array([[each.stays.sum()] for each in groups])
    found: dict[str, set[str]] = {name: set() for name in columns}
    for each, is_hidden in zip(groups, hidden(groups, counts, smallest), strict=True):
        found[each.column] |= {each.group} if is_hidden else set()
    return found


def _names(**sizes: int) -> list[str]:
    return [name for name, size in sizes.items() for _ in range(size)]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"a": 50, "b": 50}, set()),
        ({"a": 10, "b": 90}, set()),
        ({"a": 9, "b": 40, "c": 51}, {"a", "b"}),  # else it is what is missing of all stays
        ({"a": 9, "b": 91}, {"a", "b"}),
        ({"a": 6, "b": 6, "c": 88}, {"a", "b"}),  # together 12
        ({"a": 3, "b": 4, "c": 20, "d": 73}, {"a", "b", "c"}),  # together only 7
    ],
)
def test_a_small_group_is_hidden_with_the_smallest_that_would_give_it_away(sizes, expected):
    assert _hidden({"unit": _names(**sizes)})["unit"] == expected
    assert _hidden({"unit": _names(**sizes)}, smallest=0)["unit"] == set()


def test_no_other_column_gives_a_hidden_group_away():
    """The second column has b by itself; the third a and b together, which may be shown; the fourth nothing of them."""
    first = _names(a=5, b=40, c=55)
    second = ["b" if each == "b" else "rest" for each in first]
    third = ["c" if each == "c" else "a or b" for each in first]
    fourth = ["x", "y"] * 50
    found = _hidden({"first": first, "third": third, "fourth": fourth})
    assert found == {"first": {"a", "b"}, "third": set(), "fourth": set()}
    found = _hidden({"first": first, "second": second, "fourth": fourth})
    assert found == {"first": {"a", "b", "c"}, "second": {"b", "rest"}, "fourth": set()}


@pytest.mark.parametrize("seed", range(20))
def test_no_hidden_group_is_a_sum_of_what_is_shown(seed):
    """Random columns, some of them coarser versions of others: nothing hidden can be solved for."""
    rng = np.random.default_rng(seed)
    fine = rng.integers(0, 6, 120) * (rng.random(120) < 0.7)
    columns = {"fine": fine, "coarse": fine // 2, "other": rng.integers(0, 3, 120), "odd": fine % 2}
    groups = _columns(**{name: [f"{each}" for each in values] for name, values in columns.items()})
    is_hidden = hidden(groups, np.array([[each.stays.sum()] for each in groups]), 10)
    assert not any(each.stays.sum() < 10 for each, no in zip(groups, is_hidden, strict=True) if not no)
    shown = [each.stays for each, no in zip(groups, is_hidden, strict=True) if not no]
    known = np.array([*shown, np.ones(120)], dtype=float)
    rank = np.linalg.matrix_rank(known)
    for each, no in zip(groups, is_hidden, strict=True):
        assert not no or np.linalg.matrix_rank(np.vstack([known, each.stays])) == rank + 1


@pytest.mark.parametrize("few", [1, 0])
def test_few_positives_and_few_negatives_hide_a_group_too(few):
    """30 stays of the group "a", of which 5 are of the one class."""
    label = np.where(np.arange(600) < 5, few, 1 - few)
    label[30:] = np.arange(570) % 2
    content = _found(_columns(unit=["a"] * 30 + ["b"] * 270 + ["c"] * 300), label=label)
    assert [(each["group"], each["stays"]) for each in content["subgroups"]] == [("c", 300), ("a or b", 300)]
    assert content["subgroup_columns"][0]["hidden"] == ["a", "b"]
    assert content["subgroup_columns"][0]["reference"] == "c"
    assert content["subgroup_columns"][0]["tests"]["auroc"]["p"] is not None
    assert "unit: a, b are shown together" in hidden_words(content["subgroup_columns"][0])


def test_where_everything_is_small_nothing_is_shown():
    content = _found(_columns(sex=["f", "m"] * 10), label=LABEL[:20], logit=LOGIT[:20])
    assert content["subgroups"] == []
    (column,) = content["subgroup_columns"]
    assert (column["hidden"], column["shown"], column["reference"], column["tests"]) == (["f", "m"], False, None, {})
    assert hidden_words(column).startswith("sex: f, m are hidden, because one has fewer than 10 stays, positives or")
    assert "positives" not in str(content)


def test_small_groups_that_are_shown_have_no_number_that_is_not_defined():
    """A single stay, a group of one class, and groups that many resamples miss."""
    names = ["one"] + ["two"] * 2 + ["three"] * 3 + ["rest"] * 594
    label = np.where(np.array(names) == "two", 0, LABEL)
    content = _found(_columns(unit=names), smallest=0, label=label)
    assert [each["group"] for each in content["subgroups"]] == ["one", "rest", "three", "two"]
    one = content["subgroups"][0]["figures"]
    assert {each["value"] for each in one.values()} == {None}
    assert content["subgroup_columns"][0]["tests"]["calibration"]["p"] is None


def test_groups_of_another_task_are_compared_by_its_main_metrics_without_tests():
    from seqsetvae.tasks.spec import Spec

    spec = Spec("regression", ("days",), 1, mean=(0.0,), std=(1.0,))
    evaluated = replace(predictions(LABEL, LOGIT), spec=spec)
    content = by_group(evaluated, _columns(unit=["a"] * 200 + ["b"] * 400), 10, 50, 0)
    assert content["subgroups"][0]["difference"].keys() == {"R² of days", "MAE of days"} | set()
    assert content["subgroup_columns"][0]["tests"] == {}
