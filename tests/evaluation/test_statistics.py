"""Every figure equals that of scikit-learn or its definition, and the bootstrap equals a plain loop."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, confusion_matrix, roc_auc_score, roc_curve

from seqsetvae.evaluation.statistics import bootstrap, difference, resamples
from seqsetvae.tasks.binary import constant
from seqsetvae.tasks.decisions import Need, threshold_logit
from seqsetvae.tasks.scores import BINARY_METRICS, ECE_BINS, Scores, platt_scaling
from seqsetvae.tasks.spec import one_label


def sample(n: int = 300, seed: int = 0, *, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(labels, logits) of a model that is better than chance and not well calibrated."""
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.2).astype(np.int64)
    logit = 1.4 * label - 1.2 + rng.normal(size=n) * 1.5
    return label, np.round(logit, 1) if ties else logit


def plain_figures(label: np.ndarray, logit: np.ndarray, threshold: float) -> dict[str, float]:
    """All figures of one sample by scikit-learn and definitions."""
    probability = expit(logit)
    tn, fp, fn, tp = confusion_matrix(label, logit >= threshold).ravel()
    regression = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit[:, None], label)

    def negative_log_likelihood(intercept: np.ndarray) -> float:
        return -float(np.where(label == 1, log_expit(intercept + logit), log_expit(-intercept - logit)).sum())

    observed, predicted = calibration_curve(label, probability, n_bins=ECE_BINS, strategy="uniform")
    counts = np.bincount(np.digitize(probability, np.linspace(0, 1, ECE_BINS + 1)[1:-1], right=True))
    return {
        "auroc": roc_auc_score(label, logit),
        "auprc": average_precision_score(label, logit),
        "brier": brier_score_loss(label, probability),
        "calibration_slope": regression.coef_[0, 0],
        "calibration_intercept": minimize(negative_log_likelihood, [0.0], tol=1e-10).x[0],
        "mean_difference": label.mean() - probability.mean(),
        "ece": (np.abs(observed - predicted) * counts[counts > 0]).sum() / len(label),
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
        "ppv": tp / max(tp + fp, 1),
        "npv": tn / max(tn + fn, 1),
        "nne": (tp + fp) / tp,
        "alarms": 100 * (tp + fp) / len(label),
    }


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_figures_equal_those_of_sklearn_and_their_definitions(seed, ties):
    label, logit = sample(seed=seed, ties=ties)
    found = bootstrap(label, Scores(label, logit, threshold=-0.3).metrics, number=0)
    expected = plain_figures(label, logit, -0.3)
    assert found.keys() == BINARY_METRICS.keys()
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-5 if "calibration" in name else 1e-12), name


@pytest.mark.parametrize("ties", [False, True])
def test_the_bootstrap_equals_a_plain_loop_over_resampled_stays(ties):
    label, logit = sample(120, ties=ties)
    found = bootstrap(label, Scores(label, logit, threshold=-0.3).metrics, number=60, seed=7)
    drawn = [
        plain_figures(label[stays], logit[stays], -0.3)
        for block in resamples(label, 60, 7)
        for stays in (np.repeat(np.arange(len(label)), weights.astype(int)) for weights in block)
    ]
    assert len(drawn) == 60
    for name in BINARY_METRICS:
        low, high = np.quantile([each[name] for each in drawn], [0.025, 0.975])
        assert (found[name].low, found[name].high) == pytest.approx((low, high), abs=1e-5), name


def test_resamples_are_stratified_seeded_and_do_not_depend_on_their_blocks(monkeypatch):
    label, _ = sample(50)
    weights = np.concatenate(list(resamples(label, 30, 1)))
    assert weights.shape == (30, 50)
    assert (weights[:, label == 1].sum(axis=1) == label.sum()).all()
    assert (weights[:, label == 0].sum(axis=1) == (1 - label).sum()).all()
    assert len(np.unique(weights, axis=0)) == 30
    assert np.array_equal(weights, np.concatenate(list(resamples(label, 30, 1))))
    assert not np.array_equal(weights, np.concatenate(list(resamples(label, 30, 2))))


def patients(n: int = 60, seed: int = 0) -> np.ndarray:
    """The patient of each of the stays: of one to three stays each, in random order and with arbitrary numbers."""
    rng = np.random.default_rng(seed)
    return rng.permutation(np.repeat(rng.permutation(n) * 7 + 3, rng.integers(1, 4, n)))


def test_a_resample_has_all_stays_of_each_patient_that_is_drawn():
    subject = patients()
    label = (np.random.default_rng(1).random(len(subject)) < 0.3).astype(np.int64)
    weights = np.concatenate(list(resamples(label, 40, 1, subject)))
    assert weights.shape == (40, len(subject))
    numbers, first = np.unique(subject, return_index=True)
    for number in numbers:  # the stays of a patient are drawn together
        assert (np.ptp(weights[:, subject == number], axis=1) == 0).all()
    has_positive = np.array([label[subject == number].any() for number in numbers])
    of_patients = weights[:, first]
    assert (of_patients[:, has_positive].sum(axis=1) == has_positive.sum()).all()
    assert (of_patients[:, ~has_positive].sum(axis=1) == (~has_positive).sum()).all()
    assert abs(weights[:, label == 1].sum(axis=1).mean() / label.sum() - 1) < 0.1


def test_where_each_stay_is_its_own_patient_stays_are_resampled():
    """Whatever the numbers of the patients are, and their order."""
    label, logit = sample(100)
    subject = np.random.default_rng(0).permutation(100) * 3
    of_stays, of_patients = (np.concatenate(list(resamples(label, 30, 1, each))) for each in (None, subject))
    assert np.array_equal(of_stays, of_patients)
    one, other = Scores(label, logit, subject=subject), Scores(label, -logit, subject=subject)
    assert difference(one, other, 30) == difference(Scores(label, logit), Scores(label, -logit), 30)


def test_stays_that_occur_twice_do_not_narrow_an_interval_over_patients():
    label, logit = sample(200)
    twice, subject = np.tile(label, 2), np.tile(np.arange(200), 2)
    scores = Scores(twice, np.tile(logit, 2))
    once = bootstrap(label, Scores(label, logit).ranking, 500)["auroc"]
    over_stays = bootstrap(twice, scores.ranking, 500)["auroc"]
    over_patients = bootstrap(twice, scores.ranking, 500, subject=subject)["auroc"]
    assert once.low is not None
    assert over_stays.low is not None
    assert over_patients.low == pytest.approx(once.low, abs=1e-12)
    assert over_stays.low > once.low + 0.005


def test_a_resample_with_one_class_alone_has_no_ranking():
    """Both patients have a positive stay, and one of them no negative, so a quarter of the resamples has none."""
    label, subject = np.array([1, 0, 0, 1, 1]), np.array([1, 1, 1, 2, 2])
    scores = Scores(label, np.array([0.5, 1.0, -1.0, 2.0, 0.0]), subject=subject)
    drawn = np.concatenate(list(resamples(label, 400, 0, subject)))
    alone = drawn[:, label == 0].sum(axis=1) == 0
    assert 0.1 < alone.mean() < 0.4
    assert np.array_equal(np.isnan(scores.ranking(drawn)["auroc"]), alone)
    assert bootstrap(label, scores.ranking, 400, subject=subject)["auroc"].low is None  # too many are not defined


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    """The AUROC of two normal distributions one standard deviation apart is Phi(1 / sqrt 2) = 0.7602."""
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        label = np.repeat([0, 1], [150, 50])
        scores = Scores(label, rng.normal(size=200) + label)
        interval = bootstrap(label, scores.ranking, number=200, seed=seed)["auroc"]
        assert interval.low is not None
        assert interval.high is not None
        held += interval.low <= 0.7602 <= interval.high
    assert 0.90 <= held / 200 <= 0.98


def test_the_difference_of_two_models_is_paired():
    """Two models that make nearly the same errors differ much less than their intervals suggest."""
    label, logit = sample(400)
    one, other = Scores(label, logit), Scores(label, logit + np.random.default_rng(1).normal(size=400) * 0.05)
    found = difference(one, other, 200)
    for name, score in (("auroc", roc_auc_score), ("auprc", average_precision_score)):  # by a plain loop
        drawn = [np.repeat(np.arange(400), row.astype(int)) for block in resamples(label, 200, 0) for row in block]
        plain = [score(label[rows], one.logit[rows]) - score(label[rows], other.logit[rows]) for rows in drawn]
        assert (found[name].low, found[name].high) == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])), abs=1e-9)
    alone = bootstrap(label, one.ranking, 200)
    value = roc_auc_score(label, one.logit) - roc_auc_score(label, other.logit)
    assert found["auroc"].value == pytest.approx(value, abs=1e-12)
    assert found["auroc"].high - found["auroc"].low < 0.2 * (alone["auroc"].high - alone["auroc"].low)  # type: ignore[operator]
    assert difference(one, one, 50)["auroc"].as_plain() == {"value": 0, "low": 0, "high": 0}


def test_the_prevalence_as_a_model_is_chance_with_the_brier_score_of_its_variance():
    label, _ = sample(500)
    share = label.mean()
    found = bootstrap(
        label, Scores(label, constant(one_label(), None, label[:, None])["prevalence"][:, 0]).metrics, number=20
    )
    assert (found["auroc"].value, found["auprc"].value) == (0.5, pytest.approx(share))
    assert found["brier"].value == pytest.approx(brier_score_loss(label, np.full(500, share)))
    assert found["brier"].value == pytest.approx(share * (1 - share))
    assert found["calibration_intercept"].value == pytest.approx(0, abs=1e-9)
    assert found["calibration_slope"].value is None  # every logit is the same


def test_figures_that_are_not_defined_have_no_value():
    label = np.array([0, 0, 1, 1])
    separated = np.array([-2.0, -1.0, 1.0, 2.0])
    found = bootstrap(label, Scores(label, separated, threshold=9.0).metrics, number=20)
    assert found["calibration_slope"].value is None  # infinite
    assert found["ppv"].value is None  # no stay is classified as positive
    assert found["sensitivity"].value == 0
    assert bootstrap(label, Scores(label, separated).metrics, number=20)["npv"].value is None  # no threshold
    assert found["auroc"].as_plain() == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_a_figure_that_many_resamples_do_not_define_has_no_interval():
    label = np.array([0] * 30 + [1] * 3)
    logit = np.concatenate([np.linspace(-2, 1, 30), [1.5, 0.5, -1.0]])
    ppv = bootstrap(label, Scores(label, logit, threshold=1.2).metrics, number=200)["ppv"]
    assert ppv.value == 1.0
    assert (ppv.low, ppv.high) == (None, None)


def test_calibration_is_that_of_the_calibrated_probabilities():
    label, logit = sample(500)
    slope, intercept = platt_scaling(label, logit) or (0, 0)
    found = bootstrap(label, Scores(label, logit, -0.3, slope * logit + intercept).metrics, number=0)
    plain = bootstrap(label, Scores(label, logit, -0.3).metrics, number=0)
    assert found["calibration_slope"].value == pytest.approx(1, abs=0.02)
    assert found["calibration_intercept"].value == pytest.approx(0, abs=0.02)
    for name in ("auroc", "auprc", "sensitivity", "ppv"):  # these follow the logit itself
        assert found[name] == plain[name]


def test_platt_scaling_equals_a_logistic_regression_on_platts_targets():
    label, logit = sample(400)
    n_positive, n_negative = label.sum(), (1 - label).sum()
    target = np.where(label == 1, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    twice = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.tile(logit, 2)[:, None], np.repeat([1, 0], len(label)), sample_weight=np.concatenate([target, 1 - target])
    )
    assert platt_scaling(label, logit) == pytest.approx((twice.coef_[0, 0], twice.intercept_[0]), abs=1e-4)


def test_platt_scaling_is_finite_for_separated_classes_and_none_for_reversed_ones():
    label, logit = np.array([0, 0, 0, 1, 1]), np.array([-3.0, -2.0, -1.0, 1.0, 2.0])
    slope, intercept = platt_scaling(label, logit) or (np.nan, np.nan)
    assert 0 < slope < 100
    assert np.isfinite(intercept)
    assert platt_scaling(label, -logit) is None
    assert platt_scaling(label, np.zeros(5)) is None


def test_the_threshold_has_the_highest_youden_index():
    label, logit = sample(200, ties=True)
    threshold = threshold_logit(Need(), label, logit, None)

    def youden(candidate: float) -> float:
        flagged = logit >= candidate
        return flagged[label == 1].mean() - flagged[label == 0].mean()

    false_positive_rate, true_positive_rate, _ = roc_curve(label, logit)
    assert threshold in logit
    assert youden(threshold) == pytest.approx((true_positive_rate - false_positive_rate).max())
    assert youden(threshold) == pytest.approx(max(map(youden, logit)))


def test_there_is_no_threshold_if_none_is_better_than_chance():
    label = np.array([0, 0, 1, 1])
    assert threshold_logit(Need(), label, np.zeros(4), None) is None
    assert threshold_logit(Need(), label, np.array([2.0, 1.0, -1.0, -2.0]), None) is None
