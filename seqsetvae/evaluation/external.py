"""External validation, whether a model holds on another cohort: an entry of `external` in evaluation.json.

All stays of the cohort are evaluated, whatever their split: coverage of the model's variables, drift, metrics. Of one
binary label also calibration before and after it is fitted anew on some patients, decision curves, and each site.

Legend: n stays, R resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from seqsetvae.cohort import Cohort
from seqsetvae.cohort.profile import Profile
from seqsetvae.cohort.report import event_counts
from seqsetvae.evaluation.drift import without_level
from seqsetvae.evaluation.findings import findings_of
from seqsetvae.evaluation.groups import Subgroup
from seqsetvae.evaluation.heterogeneity import AS_IS, FEWEST_SITES, LOGIT, pooled, standard_errors
from seqsetvae.evaluation.recalibration import ENOUGH, Fitted, recalibrate, too_few
from seqsetvae.evaluation.results import intervals_of, metrics_with_intervals, resampled_unit
from seqsetvae.evaluation.statistics import RESAMPLES, Floats, MetricValues
from seqsetvae.system.errors import NOTE, WARNING, Finding, counted, named
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.scores import Scores, title_of
from seqsetvae.tasks.spec import BINARY, Recalibrated

if TYPE_CHECKING:  # it imports torch
    from seqsetvae.evaluation.predictions import Predictions

Plain = dict[str, Any]

DELIVERED = "as delivered"
PARTS = ("fitted", "reported")
CALIBRATION = ("mean_difference", "calibration_intercept", "calibration_slope", "brier", "ece")
OF_SITES = {"auroc": LOGIT, "mean_difference": AS_IS, "calibration_intercept": AS_IS, "calibration_slope": AS_IS}
FEWEST_OF_SITE = 10  # stays of each class that a site needs
COVERED = (
    0.9  # share of the model's variables, of its training events or of the events here below which a warning says so
)
NAMED = 12  # variables or sites that a line names


@dataclass(frozen=True, eq=False, kw_only=True)
class ExternalCohort:
    """Predictions of a model for a cohort that is not that of its training, and what is known of the cohort."""

    name: str
    data: str  # the hash of the cohort
    predictions: Predictions  # labelled stays of all splits, with the calibration that is delivered
    checkpoint_sha256: str
    coverage: Plain
    drift: Sequence[str]
    notes: Sequence[str]  # what could not be compared, which stays were left out
    by: str | None = None  # the column of the sites
    sites: Sequence[Subgroup] = ()


# ------------------------------------------------------------------ coverage


def coverage_of(cohort: Cohort, known: Sequence[str] | None, profile: Profile | None) -> Plain:
    """Which of the variables of a model occur in a cohort, and what share of its events the model can read.

    Args:
        cohort: as the model reads it.
        known: the variables that the model was trained on; None: its checkpoint does not say.
        profile: of the training stays; None: its checkpoint does not say.
    """
    events_here = Counter(dict(zip(cohort.vocabulary, event_counts(cohort).tolist(), strict=True)))
    for left_out in cohort.manifest["report"].get("unknown_variables", {}).values():
        events_here.update(left_out)
    names = events_here.keys() if known is None else set(known)
    training = Counter[str]()
    for name in names if profile is None else profile.variables:
        training[without_level(name)] += 0 if profile is None else profile.variables[name][0]
    there = {without_level(name) for name, events in events_here.items() if events and name in names}
    missing = [name for name, _ in training.most_common() if name not in there]
    counts = {
        "variables": len(training) - len(missing),
        "of_variables": len(training),
        "missing": missing,
        "events": events_here.total(),
        "events_read": sum(events for name, events in events_here.items() if name in names),
    }
    if profile is not None:
        lost = sum(training[name] for name in missing)
        counts["share_of_training_events"] = 1 - lost / max(training.total(), 1)
    return counts


def coverage_text(counts: Plain) -> str:
    """The coverage in one or two sentences."""
    share, missing = counts.get("share_of_training_events"), counts["missing"]
    of_training = "" if share is None else f", which had {share:.1%} of its training events"
    read = f"{counts['events_read'] / max(counts['events'], 1):.1%} of the {counts['events']:,} events here"
    of_model = f"{counts['variables']:,} of the {counted(counts['of_variables'], 'variable')} of the model"
    text = f"{of_model} occur here{of_training}; it can read {read}."
    return f"{text} Not here: {named(missing, NAMED)}." if missing else text


def _coverage_findings(counts: Plain) -> list[Finding]:
    shares = (
        counts["variables"] / max(counts["of_variables"], 1),
        counts["events_read"] / max(counts["events"], 1),
        counts.get("share_of_training_events", 1.0),
    )
    action = "Map other names and units with --variable_map of data.py, or train a model on the variables there are."
    return [Finding(WARNING, f"Low coverage: {coverage_text(counts)}", action)] * (min(shares) < COVERED)


# ------------------------------------------------------------------ one cohort


def external(
    cohort: ExternalCohort, *, fraction: float, name: str, seed: int, resamples: int = RESAMPLES
) -> tuple[Plain, Fitted | None]:
    """(the entry of a cohort in `external` of evaluation.json, what was fitted anew on it).

    Args:
        cohort: the cohort and its predictions.
        fraction: of the patients that calibration is fitted anew on; 0: it is not.
        name: of that calibration.
        seed: of the patients, and of the bootstrap.
        resamples: of the bootstrap.
    """
    predictions, spec = cohort.predictions, cohort.predictions.spec
    task = TASKS[spec.task]
    content: Plain = {
        "name": cohort.name,
        "stays": len(predictions),
        **task.counts(predictions.target),
        **resampled_unit(predictions.subject, len(predictions)),
        "primary": list(task.primary(spec)),
        "coverage": cohort.coverage,
        "drift": list(cohort.drift),
        "figures": metrics_with_intervals(predictions, resamples, seed),
        "curves": task.curves(spec, predictions.output, predictions.target, predictions.calibration),
    }
    if predictions.calibration is not None:
        content["calibration"] = str(predictions.calibration)
    fitted = None
    if spec.task == BINARY:
        refitted = refit_calibration(cohort, fraction, name, seed)
        fitted = None if isinstance(refitted, str) else refitted.fitted
        content["recalibration"] = _recalibration(refitted, seed, resamples)
        if cohort.by is not None:
            content["sites"] = _sites(cohort, resamples, seed)
    else:
        reason = f"Not for --task {spec.task}: recalibration, decision curves and sites are of one binary label."
        content["recalibration"] = {"reason": reason}
    content["findings"] = [each.as_plain() for each in _findings(cohort, content)]
    return content, fitted


def _scores(predictions: Predictions, calibration: Any) -> Scores:
    logit = predictions.output[:, 0]
    risk = None if calibration is None else calibration.calibrated(logit)
    return Scores(predictions.target[:, 0].astype(np.int64), logit, calibrated_logit=risk)


# ------------------------------------------------------------------ calibration fitted anew


@dataclass(frozen=True, eq=False)
class Refitted:
    """Calibrations that were fitted on a part of a cohort, to be reported on the rest."""

    words: str  # what the part is
    part: Predictions
    rest: Predictions
    fitted: Fitted


def refit_calibration(cohort: ExternalCohort, fraction: float, name: str, seed: int) -> Refitted | str:
    """Fit calibration on some patients, drawn by the seed; or why it cannot be."""
    predictions, before = cohort.predictions, cohort.predictions.calibration
    if not fraction:
        return "Not asked for (--recalibrate_fraction 0)."
    if before is not None and before.recalibrated is not None and before.recalibrated.data == cohort.data:
        return f"The calibration {before.recalibrated.name!r} was fitted on patients of this cohort."
    recalibrated = Recalibrated(name, "", cohort.data, fraction, seed)
    chosen = recalibrated.fitted_on(predictions.stay_id if predictions.subject is None else predictions.subject)
    part, rest = predictions.rows(chosen), predictions.rows(~chosen)
    words = f"{fraction:.0%} of the patients of {cohort.name}"
    for stays, what in ((part, "to fit it on"), (rest, "to report it on")):
        if reason := too_few(stays.target, what):
            return f"With {words} (seed {seed}), {reason}."
    fitted = recalibrate(part, cohort.checkpoint_sha256, words, recalibrated)
    return f"Fitted on {words}: {fitted}." if isinstance(fitted, str) else Refitted(words, part, rest, fitted)


def _recalibration(refitted: Refitted | str, seed: int, resamples: int) -> Plain:
    """Calibration of the stays that it was not fitted on, before and after; or why there is none."""
    if isinstance(refitted, str):
        return {"reason": refitted}
    counts, fitted = TASKS[BINARY].counts, refitted.fitted
    kinds = {DELIVERED: refitted.rest.calibration} | fitted.kinds
    return {
        "part": refitted.words,
        "seed": seed,
        "fitted": {"stays": len(refitted.part), **counts(refitted.part.target)},
        "reported": {"stays": len(refitted.rest), **counts(refitted.rest.target)},
        "chosen": fitted.chosen,
        "p_slope": fitted.p_slope,
        "kinds": [_kind(refitted.rest, kind, each, resamples, seed) for kind, each in kinds.items()],
    }


def _kind(rest: Predictions, kind: str, calibration: Any, resamples: int, seed: int) -> Plain:
    """Metrics and curves of one calibration, and the difference of its Brier score to the delivered one, paired."""
    scores, delivered = _scores(rest, calibration), _scores(rest, rest.calibration)

    def metrics(weights: Floats) -> MetricValues:
        values = scores.metrics(weights, CALIBRATION)
        before = values["brier"] if kind == DELIVERED else delivered.metrics(weights, ["brier"])["brier"]
        return values | {"brier_difference": values["brier"] - before}

    (curve,) = TASKS[BINARY].curves(rest.spec, rest.output, rest.target, calibration)
    formula = {} if calibration is None else {name: getattr(calibration, name) for name in ("slope", "intercept")}
    return {
        "kind": kind,
        **formula,
        "figures": intervals_of(rest, metrics, resamples, seed),
        "calibration": list(curve["calibration"].values())[-1],
        "net_benefit": curve["net_benefit"],
    }


# ------------------------------------------------------------------ sites


def _sites(cohort: ExternalCohort, resamples: int, seed: int) -> Plain:
    """Metrics of each site with enough stays of both classes, and pooled over sites."""
    rows, left_out = [], []
    for site in cohort.sites:
        stays = cohort.predictions.rows(site.stays)
        positives = int((stays.target[:, 0] == 1).sum())
        if min(positives, len(stays) - positives) < FEWEST_OF_SITE:
            left_out.append(site.group)
            continue
        scores = _scores(stays, stays.calibration)

        def metrics(weights: Floats, scores: Scores = scores) -> MetricValues:
            return scores.metrics(weights, OF_SITES)

        counts = {"stays": len(stays), **TASKS[BINARY].counts(stays.target)}
        rows.append({"name": site.group, **counts, "figures": intervals_of(stays, metrics, resamples, seed)})
    return {"by": cohort.by, "rows": rows, "left_out": left_out, "pooled": heterogeneity(rows)}


def heterogeneity(rows: Sequence[Mapping[str, Any]]) -> Plain:
    """Each metric pooled over the sites, or cohorts, that have an interval of it, where there are enough of them."""
    by_metric = {}
    for name, scale in OF_SITES.items():
        known = [row["figures"][name] for row in rows if row["figures"].get(name, {}).get("low") is not None]
        value, low, high = (np.array([each[key] for each in known], float) for key in ("value", "low", "high"))
        with np.errstate(divide="ignore", invalid="ignore"):
            error, at = standard_errors(scale.to(low), scale.to(high)), scale.to(value)
        usable = np.isfinite(error) & (error > 0) & np.isfinite(at)
        if usable.sum() >= FEWEST_SITES:
            of_sites = pooled(at[usable], error[usable])
            plain = {key: scale.back(each) for key, each in vars(of_sites).items() if key != "tau"}
            by_metric[name] = plain | {"tau": of_sites.tau, "sites": int(usable.sum())}
    return by_metric


# ------------------------------------------------------------------ what a reader must know


def _findings(cohort: ExternalCohort, content: Plain) -> list[Finding]:
    findings = [*_coverage_findings(cohort.coverage), *(Finding(WARNING, text) for text in cohort.drift)]
    findings += [Finding(NOTE, text) for text in cohort.notes]
    if "positives" in content:
        fewer = min(content["positives"], content["stays"] - content["positives"])
        text = (
            f"Only {fewer:,} of {content['stays']:,} stays are of one class: with fewer than {ENOUGH} the calibration "
        )
        findings += [Finding(WARNING, f"{text}of a model is uncertain.", "Evaluate more stays.")] * (fewer < ENOUGH)
    findings += [*_in_the_large(content["figures"]), *findings_of(content)]
    sites = content.get("sites")
    if sites is not None and sites["left_out"]:
        left_out = counted(len(sites["left_out"]), "site")
        text = f"{left_out} of {sites['by']} left out, with fewer than {FEWEST_OF_SITE} stays of a class: "
        findings.append(Finding(NOTE, f"{text}{named(sites['left_out'], NAMED)}."))
    if sites is not None and not sites["pooled"]:
        text = f"Sites of {sites['by']} are not pooled: {len(sites['rows'])} have stays enough, and {FEWEST_SITES} are "
        findings.append(Finding(NOTE, f"{text}needed."))
    if "reason" in content["recalibration"]:
        findings.append(Finding(NOTE, f"Calibration was not fitted anew: {content['recalibration']['reason']}"))
    return findings


def _in_the_large(metrics: Plain) -> list[Finding]:
    """Calibration in the large: risks that are too low or too high on average."""
    intercept, difference = metrics.get("calibration_intercept", {}), metrics.get("mean_difference", {})
    if intercept.get("low") is None or intercept["low"] <= 0 <= intercept["high"]:
        return []
    way = "low" if intercept["value"] > 0 else "high"
    return [
        Finding(
            WARNING,
            f"Predicted risks are too {way} here: observed minus predicted {difference['value']:+.3f}, intercept "
            f"{intercept['value']:+.2f} ({intercept['low']:.2f} to {intercept['high']:.2f}).",
            "Fit the calibration anew (--save_calibration NAME) before probabilities are used here.",
        )
    ]


# ------------------------------------------------------------------ what is printed


def external_text(content: Plain) -> str:
    """A block about one cohort."""
    positives = (
        "" if "positives" not in content else f", {content['positives']:,} positive ({content['prevalence']:.1%})"
    )
    lines = [f"External evaluation: {content['name']}", f"  {content['stays']:,} stays{positives}"]
    lines += [f"  Coverage: {coverage_text(content['coverage'])}"]
    lines += [f"  {_row(name, metric)}" for name, metric in content["figures"].items()]
    recalibration = content["recalibration"]
    if "kinds" in recalibration:
        parts = (recalibration[key] for key in PARTS)
        fitted, reported = (f"{part['stays']:,} stays ({part['positives']:,} positive)" for part in parts)
        lines += [
            f"  Calibration fitted anew on {recalibration['part']}, drawn with seed {recalibration['seed']}: {fitted}",
            f"  and reported on the others: {reported}; preferred: {recalibration['chosen']}",
        ]
        for kind in recalibration["kinds"]:
            lines += [f"    {kind['kind']}", *(f"      {_row(name, kind['figures'][name])}" for name in CALIBRATION)]
    for sites in [content["sites"]] if "sites" in content else []:
        lines += sites_text(f"by {sites['by']}", sites["rows"], sites["pooled"])
    return "\n".join(lines)


def sites_text(title: str, rows: Sequence[Mapping[str, Any]], of_all: Plain) -> list[str]:
    """Metrics of each site, or cohort, and pooled over them."""
    lines = [f"  {title}: value (95 % interval)"]
    for row in rows:
        lines.append(f"    {row['name']}: {row['stays']:,} stays, {row['positives']:,} positive")
        lines += [f"      {_row(name, row['figures'][name])}" for name in OF_SITES]
    for name, each in of_all.items():
        ends = f"{each['prediction_low']:.3f} to {each['prediction_high']:.3f}"
        lines.append(
            f"    {_row(name, each)}   over {each['sites']} sites; tau {each['tau']:.3f}; one more site: {ends}"
        )
    return lines


def _row(name: str, metric: Mapping[str, Any]) -> str:
    value, low, high = (metric.get(key) for key in ("value", "low", "high"))
    ends = "" if low is None or high is None else f"   {low:.3f} to {high:.3f}"
    return f"{title_of(name):<26}{'-' if value is None else f'{value:.4f}':>9}{ends}"
