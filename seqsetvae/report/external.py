"""The section about other cohorts: what `evaluate --external` wrote into evaluation.json; nothing is computed here."""

from __future__ import annotations

from collections.abc import Iterator

from seqsetvae.evaluation.external import CALIBRATION, coverage_text
from seqsetvae.report import plots
from seqsetvae.report.parts import (
    Card,
    Picture,
    Section,
    Table,
    as_name,
    interval,
    metric_name,
    number,
    percent,
    stacked,
    value_of,
    with_interval,
)
from seqsetvae.report.run_files import Plain, Run
from seqsetvae.report.style import VERMILLION
from seqsetvae.system.errors import Finding

MAIN = ("auroc", "auprc", "brier", "mean_difference", "calibration_intercept", "calibration_slope")
IDEAL = {"mean_difference": 0.0, "calibration_intercept": 0.0, "calibration_slope": 1.0}


def external_section(run: Run) -> Section | None:
    """Each cohort beside the split of the model's own data, if that was evaluated."""
    if not run.external:
        return None
    several = len(run.external) > 1
    pictures, tables, folded = [], [_metrics_table(run)], []
    for at, each in enumerate(run.external):
        end, of = f"_{at + 1}" * several, f" ({each['name']})" * several
        pictures += [*_roc(run, each, end, of), *_before_and_after(each, end, of), *_forests(each, end, of)]
        tables += [_calibration_table(each, of)] if "kinds" in each["recalibration"] else []
        if pooled := (each.get("sites") or {}).get("pooled"):
            tables.append(_pooled_table(pooled, f"Sites of {each['sites']['by']}{of}"))
        folded += [_sites_table(each, of)] if "sites" in each else []
    if run.external_pooled:
        tables.append(_pooled_table(run.external_pooled, "The cohorts"))
    return Section("external", "External evaluation", _text(run.external), pictures, tables, folded)


def external_cards(run: Run) -> list[Card]:
    """The metrics of the first cohort that a reader sees first, where the model's own data were not evaluated."""
    first = run.external[0]
    names = [name for name in (*first["primary"], *IDEAL) if value_of(first["figures"].get(name)) is not None]
    cards = [
        Card(metric_name(name), number(value_of(first["figures"][name])), _ends(first["figures"][name]))
        for name in names
    ]
    return [*cards, Card(f"Stays, {first['name']}", f"{first['stays']:,}", _positives(first))]


def external_findings(run: Run) -> Iterator[Finding]:
    """Findings of each cohort, with its name."""
    for each in run.external:
        for finding in each["findings"]:
            yield Finding(finding["level"], f"{each['name']}: {finding['text']}", finding.get("action") or "")


def _ends(metric: Plain) -> str:
    return f"95 % interval {interval(metric)}"


def _positives(cohort: Plain) -> str:
    if "positives" not in cohort:
        return ""
    return f"{cohort['positives']:,.0f} positive ({percent(cohort['positives'] / cohort['stays'])})"


def _stays(cohort: Plain) -> str:
    return f"{cohort['stays']:,.0f} stays, {_positives(cohort)}"


def _text(cohorts: list[Plain]) -> list[str]:
    text = [
        "All stays of data that are not those of the training. Observed minus predicted and the calibration intercept "
        "(with the slope fixed at 1) say whether risks are too low (above 0) or too high; a slope below 1 says that "
        "they are too far from the mean."
    ]
    for cohort in cohorts:
        text.append(f"{cohort['name']}: {coverage_text(cohort['coverage'])}")
        recalibration = cohort["recalibration"]
        if "kinds" in recalibration:
            saved = "" if recalibration.get("saved") is None else f" It was saved as {recalibration['saved']}."
            text.append(
                f"Calibration was fitted anew on {recalibration['part']} (drawn with seed {recalibration['seed']:.0f}; "
                f"{_stays(recalibration['fitted'])}), and is shown on the others ({_stays(recalibration['reported'])})."
                f" Preferred on the fitted stays: {recalibration['chosen']}.{saved}"
            )
        else:
            text.append(f"{cohort['name']}: calibration was not fitted anew. {recalibration['reason']}")
        sites = cohort.get("sites") or {}
        if sites.get("pooled"):
            text.append(
                "Sites are pooled with random effects (REML, Knapp and Hartung). In the prediction interval the value "
                "of one more such site is expected; of few sites that differ little it is too narrow. Tau is the "
                "standard deviation between sites, of the AUROC that of its log-odds."
            )
        if sites.get("left_out"):
            text.append(f"Sites with too few stays of a class are left out: {', '.join(sites['left_out'])}.")
    return text


def _metrics_table(run: Run) -> Table:
    """The metrics of each cohort, and of the model's own split."""
    columns = {each["name"]: each for each in run.external}
    if run.evaluation is not None:
        columns = {f"own data, {run.evaluation['split']} split": run.evaluation} | columns
    first = next(iter(columns.values()))
    names = [name for name in MAIN if name in first["figures"]] or list(first["figures"])
    rows = [
        [metric_name(name), *(stacked(column["figures"].get(name)) for column in columns.values())] for name in names
    ]
    rows.append(["stays", *(f"{column['stays']:,.0f}\n{_positives(column)}".rstrip() for column in columns.values())])
    return Table("As delivered, with 95 % intervals", ("metric", *columns), rows)


def _roc(run: Run, cohort: Plain, end: str, outcome: str) -> list[Picture]:
    """ROC curves of the cohort and of the model's own split, of one outcome."""
    own = [] if run.evaluation is None else [c for c in run.evaluation.get("curves") or () if "outcome" in c][:1]
    curves = {cohort["name"]: next((c for c in cohort["curves"] if "outcome" in c), None)}
    if curves[cohort["name"]] is None:
        return []
    if own and run.evaluation is not None:
        curves = {f"{run.evaluation['split']} split": own[0]} | curves
    told = "; ".join(f"{name} AUROC {number(curve['auroc'])}" for name, curve in curves.items() if curve)
    drawn = plots.roc({name if len(curves) > 1 else "": curve for name, curve in curves.items() if curve})
    return [Picture(f"external_roc{end}", f"ROC{outcome}", "", f"ROC curve: {told}.", drawn)]


def _before_and_after(cohort: Plain, end: str, outcome: str) -> list[Picture]:
    """Calibration and net benefit of the risks as delivered and fitted anew."""
    kinds = cohort["recalibration"].get("kinds") or []
    if not kinds:
        return []
    told = "; ".join(
        f"{kind['kind']}: slope {number(value_of(kind['figures']['calibration_slope']), 2)}, observed minus predicted "
        f"{number(value_of(kind['figures']['mean_difference']))}"
        for kind in kinds
    )
    caption = "Groups of about equally many of the stays that it was not fitted on."
    drawn = plots.number_groups({kind["kind"]: kind["calibration"] for kind in kinds})
    benefit = plots.decision_curve({kind["kind"]: kind["net_benefit"] for kind in kinds})
    best, treated = _most_benefit(kinds), "Net benefit for each stay (Vickers and Elkin, 2006), of the same stays."
    return [
        Picture(f"external_calibration{end}", f"Calibration before and after{outcome}", caption, f"{told}.", drawn),
        Picture(f"external_benefit{end}", f"Decision curves before and after{outcome}", treated, best, benefit),
    ]


def _most_benefit(kinds: list[Plain]) -> str:
    """At how many thresholds each kind has the highest net benefit, in words."""
    every = [kind["net_benefit"]["model"] for kind in kinds]
    wins = [sum(own == max(at) for own, at in zip(each, zip(*every, strict=True), strict=True)) for each in every]
    told = (f"{kind['kind']} at {won} of {len(every[0])} thresholds" for kind, won in zip(kinds, wins, strict=True))
    return f"Highest net benefit: {', '.join(told)}."


def _calibration_table(cohort: Plain, outcome: str) -> Table:
    """Metrics of calibration as delivered and fitted anew."""
    kinds = cohort["recalibration"]["kinds"]
    rows = []
    for kind in kinds:
        formula = "–" if kind.get("slope") is None else f"{number(kind['slope'])} × logit + {number(kind['intercept'])}"
        change = "–" if kind is kinds[0] else stacked(kind["figures"]["brier_difference"])
        rows.append([kind["kind"], formula, *(stacked(kind["figures"][name]) for name in CALIBRATION), change])
    head = ("calibration", "log-odds", *map(metric_name, CALIBRATION), "Brier score minus as delivered")
    return Table(f"Calibration before and after{outcome}, with 95 % intervals", head, rows)


def _forests(cohort: Plain, end: str, outcome: str) -> list[Picture]:
    """A row for each site and one for their mean, of each metric."""
    sites = cohort.get("sites") or {}
    pictures = []
    for name in ("auroc", *IDEAL) if sites.get("rows") else ():
        rows = [
            plots.Row(row["name"], row["figures"][name], f"{row['positives']:,.0f} of {row['stays']:,.0f}")
            for row in sites["rows"]
            if value_of(row["figures"].get(name)) is not None
        ]
        mean = sites["pooled"].get(name)
        if mean is not None:
            whole = {"value": mean["value"], "low": mean["prediction_low"], "high": mean["prediction_high"]}
            rows += [plots.Row("pooled", mean, colour=VERMILLION, marker="D")]
            rows += [plots.Row("one more site", whole, "prediction interval", VERMILLION, "D", hollow=True)]
        told = "; ".join(f"{row.label} {with_interval(row.metric)}" for row in rows)
        title = f"{metric_name(name)} by {sites['by']}{outcome}"
        drawn = plots.intervals(rows, metric_name(name), dotted=IDEAL.get(name, 0.5))
        caption = "With 95 % intervals and positive stays; dotted: " + ("ideal." if name in IDEAL else "chance.")
        pictures.append(Picture(f"sites_{as_name(name)}{end}", title, caption, f"{title}: {told}.", drawn))
    return pictures


def _sites_table(cohort: Plain, outcome: str) -> Table:
    names = ("auroc", *IDEAL)
    rows = [
        [
            row["name"],
            f"{row['positives']:,.0f} of {row['stays']:,.0f}",
            *(stacked(row["figures"].get(n)) for n in names),
        ]
        for row in cohort["sites"]["rows"]
    ]
    head = ("site", "positive stays", *map(metric_name, names))
    return Table(f"Sites of {cohort['sites']['by']}{outcome}", head, rows)


def _pooled_table(pooled: Plain, unit: str) -> Table:
    rows = [
        [
            metric_name(name),
            stacked(each),
            number(each["tau"]),
            interval({"low": each["prediction_low"], "high": each["prediction_high"]}),
            f"{each['sites']:.0f}",
        ]
        for name, each in pooled.items()
    ]
    head = ("metric", "mean, with 95 % interval", "tau", "95 % prediction interval", "number")
    return Table(f"{unit}, pooled", head, rows)
