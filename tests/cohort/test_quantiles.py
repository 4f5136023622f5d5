"""The value transforms "quantiles" and "normal_scores": positions among training values, which errors do not move."""

from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from seqsetvae.batches.transform import OUTERMOST, SCALE, NormalScores, Quantiles, read_transform
from seqsetvae.cohort.variables import Variables
from seqsetvae.system.errors import InputError
from tests.command import command, finetune, refused, run_of, succeeded


def _plain(n_variables: int) -> Variables:
    """Without statistics, so that values are read as they are."""
    return Variables(tuple(map(str, range(n_variables))), *np.full((2, n_variables), np.nan))


def _cohort(**values: np.ndarray) -> Any:
    """A cohort whose training split holds these values of each variable."""
    variable = np.concatenate([np.full(len(of), row) for row, of in enumerate(values.values())])
    split = SimpleNamespace(variable=variable, value=np.concatenate(list(values.values())))
    return SimpleNamespace(vocabulary=tuple(values), variables=_plain(len(values)), split=lambda name: split)


def _changed(transform: Quantiles, cohort: Any, name: str, values: list[float]) -> np.ndarray:
    variable = np.full(len(values), cohort.vocabulary.index(name), dtype=np.int32)
    return transform.change(cohort)(variable, np.array(values))


def test_values_become_uniform_whatever_their_distribution():
    rng = np.random.default_rng(0)
    cohort = _cohort(normal=rng.normal(size=5000), tailed=np.exp(2 * rng.normal(size=5000)))
    transform = Quantiles.fit(cohort, value_clip=None, min_count=20)
    for name, row in (("normal", 0), ("tailed", 1)):
        training = cohort.split("train").value[cohort.split("train").variable == row]
        found = _changed(transform, cohort, name, training.tolist())
        assert (found.mean(), found.std()) == pytest.approx((0, 1), abs=0.03)
        assert (np.diff(found[np.argsort(training)]) >= 0).all()  # the order is kept
        middle = found[np.argsort(training)][[1250, 2500, 3750]]
        assert middle == pytest.approx(SCALE * np.array([-0.5, 0, 0.5]), abs=0.02)


def test_normal_scores_are_of_the_same_shares():
    values = np.exp(2 * np.random.default_rng(0).normal(size=5000))
    transform = NormalScores.fit(_cohort(tailed=values), value_clip=None, min_count=20)
    found = _changed(
        transform, _cohort(tailed=values), "tailed", np.quantile(values, [0.0, 0.25, 0.5, 0.75, 1]).tolist()
    )
    most = NormalDist().inv_cdf(1 - OUTERMOST)
    assert found == pytest.approx([-most, -0.674, 0, 0.674, most], abs=0.02)


def test_typing_errors_do_not_move_the_other_values():
    ph = np.random.default_rng(0).normal(7.4, 0.05, 2000)
    mistyped = np.append(ph, [735.0, 0.0])
    for values in (ph, mistyped):
        cohort = _cohort(ph=values)
        found = _changed(Quantiles.fit(cohort, value_clip=None, min_count=20), cohort, "ph", [7.35, 7.4, 7.45])
        assert found == pytest.approx(SCALE * np.array([-0.68, 0, 0.68]), abs=0.06)


def test_equal_values_have_the_position_in_their_middle():
    cohort = _cohort(score=np.array([3.0] * 100 + [15.0] * 300))
    transform = Quantiles.fit(cohort, value_clip=None, min_count=20)
    assert _changed(transform, cohort, "score", [3, 15]) == pytest.approx(
        SCALE * np.array([-0.75, 0.25]), abs=2 * SCALE / 32
    )


def test_rare_constant_and_new_variables_have_the_value_1():
    cohort = _cohort(rare=np.arange(5.0), constant=np.full(50, 7.0), common=np.arange(50.0))
    transform = Quantiles.fit(cohort, value_clip=None, min_count=20).with_unknown(["new"], ["common"])
    later = SimpleNamespace(vocabulary=("new", "rare", "constant", "common"), variables=_plain(4))
    assert [_changed(transform, later, name, [4.0])[0] for name in later.vocabulary[:3]] == [1, 1, 1]
    assert _changed(transform, later, "common", [-9, 99]) == pytest.approx([-SCALE, SCALE])


@pytest.mark.parametrize("kind", [Quantiles, NormalScores])
def test_a_checkpoint_gives_back_the_same_transform(tmp_path, kind):
    cohort = _cohort(a=np.random.default_rng(0).normal(size=100))
    transform = kind.fit(cohort, value_clip=None, min_count=20)
    assert read_transform(transform.as_plain(), tmp_path) == transform
    damaged = {**transform.as_plain(), "quantiles": {"a": [2.0, 1.0]}}
    with pytest.raises(InputError, match="is damaged"):
        read_transform(damaged, tmp_path)


@pytest.mark.parametrize("name", ["quantiles", "normal_scores"])
def test_a_new_model_is_trained_on_quantiles_and_keeps_them(compiled, tmp_path, name):
    flags = {"preset": "small", "max_epochs": 1, "data_dir": compiled.path, "output_root_dir": tmp_path}
    said = succeeded(command("pretrain", value_transform=name, **flags))
    assert f"Values: {name.replace('_', ' ')} of the training values (value_transform)" in said
    checkpoint = run_of(tmp_path, "pretrain")
    said = succeeded(finetune(checkpoint, compiled.path, tmp_path, max_epochs=1))
    assert f"Values: {name.replace('_', ' ')} of the training values (value_transform)" in said
    errors = refused(finetune(checkpoint, compiled.path, tmp_path, value_transform="z_score"))
    assert f"value_transform: received z_score; trained with {name}" in errors
    errors = refused(command("pretrain", value_transform=name, value_clip=5, **flags))
    assert f"value_clip: received 5.0; leave it out with value_transform {name}" in errors
