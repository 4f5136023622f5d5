"""Boosted trees: every other model has random thresholds, and a model read back predicts the same."""

import re
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from seqsetvae.models import trees
from seqsetvae.models.trees import BoostedTrees, checked_text, lightgbm
from seqsetvae.system.errors import InputError

pytest.importorskip("lightgbm", reason="boosted trees need lightgbm")


def _noise(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """A table and labels that have nothing to do with it."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 30)).astype(np.float32), (rng.random(n) < 0.3).astype(int)


def test_every_other_model_has_random_thresholds_and_twice_as_many_trees(monkeypatch):
    monkeypatch.setattr(trees, "ROUNDS", 5)
    train, asked = trees._train, []

    def trained(table: np.ndarray, label: np.ndarray, seed: int, kind: trees.Kind, *rest: Any) -> Any:
        asked.append((seed, round(kind.rounds * trees.ROUNDS), "extra_trees" in kind.parameters))
        return train(table, label, seed, kind, *rest)

    monkeypatch.setattr(trees, "_train", trained)
    assert len(BoostedTrees.fit(*_noise(), models=3).models) == 3
    assert asked == [(0, 5, False), (1, 10, True), (2, 5, False)]


def test_models_read_back_predict_the_same(monkeypatch):
    monkeypatch.setattr(trees, "ROUNDS", 20)
    table, label = _noise()
    table[::3, 5] = np.nan
    grown = BoostedTrees.fit(table, label, models=2)
    assert np.array_equal(BoostedTrees(grown.models).outputs(table)[:, 0], grown.outputs(table)[:, 0])
    one, two = (BoostedTrees([model]).outputs(table)[:, 0] for model in grown.models)
    assert not np.array_equal(one, two)  # another seed
    np.testing.assert_allclose(grown.outputs(table)[:, 0], (one + two) / 2)


def test_contributions_add_up_to_the_log_odds_and_are_those_of_the_text_that_lightgbm_wrote(text):
    """Shapley values need the counts of the training stays, which the checked text keeps."""
    import lightgbm

    table = _noise()[0]
    table[::2, 3] = np.nan
    grown = BoostedTrees([text])
    contributions, base = grown.contributions(table)
    np.testing.assert_allclose(contributions.sum(axis=1) + base, grown.outputs(table)[:, 0], atol=1e-12)
    expected = lightgbm.Booster(model_str=text).predict(table, pred_contrib=True)
    assert np.array_equal(np.column_stack([contributions, np.full(len(table), base)]), expected)
    assert base != 0
    used = {int(column) for line in re.findall("split_feature=(.*)", text) for column in line.split()}
    assert set(np.flatnonzero(np.abs(contributions).max(axis=0))) == used


def test_a_damaged_model_is_one_clear_error():
    with pytest.raises(InputError, match="the boosted trees of the checkpoint are damaged"):
        BoostedTrees(["no model"])


@pytest.fixture(scope="module")
def text() -> str:
    """A model of trees with several leaves, on a table of 30 columns."""
    table, label = _noise()
    table[::3, 5] = np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "ROUNDS", 20)
        return BoostedTrees.fit(table, label, models=1).models[0]


def test_what_lightgbm_reads_predicts_the_same(text):
    import lightgbm

    table, (written, columns) = _noise()[0], checked_text(text)
    table[::2, 3] = np.nan
    one, other = (lightgbm.Booster(model_str=model).predict(table, raw_score=True) for model in (text, written))
    assert np.array_equal(one, other)
    assert columns == 30
    assert "parameters:" not in written


def test_trees_of_one_leaf_have_no_contribution(monkeypatch):
    monkeypatch.setattr(trees, "ROUNDS", 2)
    table = np.zeros((50, 3), dtype=np.float32)  # nothing to split
    contributions, base = BoostedTrees.fit(table, np.arange(50) % 2, models=1).contributions(table)
    assert not contributions.any()
    assert base == 0


DAMAGE = {  # where LightGBM itself ends the process, reads other memory, or never ends
    "more leaves than there are": (r"num_leaves=(\d+)", "num_leaves=900000000", "tree 0: "),
    "a leaf fewer": (r"leaf_value=\S+ ", "leaf_value=", "leaf_value is '"),
    "a column that is not there": (r"split_feature=\d+", "split_feature=30", "none of the 30 columns"),
    "a negative column": (r"split_feature=\d+", "split_feature=-1", "none of the 30 columns"),
    "a circle": (r"left_child=-?\d+", "left_child=0", "its nodes form a circle"),
    "a leaf that is not there": (r"left_child=-?\d+", "left_child=-99", "its nodes form no tree"),
    "a split by category": (r"decision_type=\d+", "decision_type=1", "a decision_type is not that of a number"),
    "categories": (r"num_cat=0", "num_cat=5", "num_cat is '5'"),
    "linear models": (r"is_linear=0", "is_linear=1", "is_linear is '1'"),
    "a leaf that is no number": (r"leaf_value=\S+ ", "leaf_value=nan ", "allowed: finite numbers"),
    "counts that do not add up": (r"internal_count=\d+", "internal_count=1", "its counts of stays do not add up"),
    "a leaf without stays": (r"leaf_count=\d+", "leaf_count=0", "its counts of stays do not add up"),
    "a line twice": (r"num_cat=0", "num_cat=0\nnum_cat=0", "a line that occurs twice"),
    "an unknown line": (r"num_cat=0", "num_cat=0\ncat_boundaries=1", "missing or unknown: 'cat_boundaries'"),
    "a tree fewer": (r"\nTree=19\n", "\n", "trees are missing"),
    "other numbers of trees": (r"\nTree=3\n", "\nTree=5\n", "tree 3: it has the number 5"),
    "another objective": (r"objective=binary sigmoid:1", "objective=multiclass num_class:3", "objective is 'multi"),
    "no end": ("end of trees", "end", "trees are missing"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_text_does_not_reach_lightgbm(text, damage, monkeypatch):
    pattern, replacement, said = DAMAGE[damage]
    damaged = re.sub(pattern, replacement, text, count=1)
    assert damaged != text
    monkeypatch.setattr(trees, "lightgbm", lambda: SimpleNamespace(basic=_Basic))
    with pytest.raises(InputError, match=re.escape(said)):
        BoostedTrees([damaged])


class _Basic:
    """In the place of LightGBM, which has no Booster here."""

    LightGBMError = ValueError


@pytest.mark.parametrize("models", [[], None, "tree", [None]])
def test_no_list_of_texts_is_one_clear_error(models):
    with pytest.raises(InputError, match="the boosted trees of the checkpoint are damaged"):
        BoostedTrees(models)  # type: ignore[arg-type]


def test_trees_of_another_table_are_one_clear_error(text):
    with pytest.raises(InputError, match=r"they split \[30\] columns, and its table has 29"):
        BoostedTrees([text]).outputs(np.zeros((3, 29)))


def test_a_library_that_cannot_be_imported_is_no_fault_of_a_checkpoint(tmp_path, monkeypatch):
    """LightGBM reads its docstrings, which `python -OO` takes away, and needs OpenMP."""
    for cause in ("None.partition", "raise OSError('libgomp.so.1: cannot open shared object file')"):
        (tmp_path / "lightgbm.py").write_text(cause, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "lightgbm", raising=False)
        with pytest.raises(InputError, match=r"lightgbm cannot be imported .*no python -OO.*libgomp1"):
            lightgbm()


def test_trees_of_few_stays_have_smaller_leaves_and_try_more_of_few_columns():
    assert trees.of_size(6392, 1400, 70) == {"min_data_in_leaf": 20, "min_data_in_bin": 3, "feature_fraction": 0.05}
    assert trees.of_size(420, 210, 70) == {"min_data_in_leaf": 1, "min_data_in_bin": 1, "feature_fraction": 70 / 210}
    assert trees.of_size(4, 3, 70)["feature_fraction"] == 1


def test_trees_find_a_fact_of_seven_stays():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(420, 100)).astype(np.float32)
    label = np.arange(420) % 60 == 0
    table[:, 0] = np.where(label, 1, np.nan)
    fresh = rng.normal(size=(50, 100)).astype(np.float32)
    fresh[:, 0] = np.where(np.arange(50) % 10 == 0, 1, np.nan)
    found = BoostedTrees.fit(table, label.astype(float), 2).outputs(fresh)[:, 0]
    assert found[::10].min() > np.delete(found, np.s_[::10]).max()
