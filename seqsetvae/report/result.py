"""Sections about the metrics of an evaluation, by themselves, beside baselines, by subgroup and by hours of data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from seqsetvae.evaluation.findings import hidden_words, is_constant, less_is_better
from seqsetvae.report import plots
from seqsetvae.report.parts import (
    MODEL,
    Card,
    Picture,
    Section,
    Table,
    as_name,
    duration,
    interval,
    metric_name,
    model_name,
    number,
    percent,
    stacked,
    value_of,
    with_interval,
)
from seqsetvae.report.run_files import Plain, Run, Runs
from seqsetvae.report.style import VERMILLION

MOST_MAIN = 6  # metrics that cards and tables of groups show
FEW = 10  # positives below which a group's marker is hollow


def main_metrics(evaluation: Plain) -> list[str]:
    """The metrics of a task that count most: those that evaluation names, or by which baselines are compared."""
    compared = [
        name for other in (evaluation.get("baselines") or {}).values() for name in other.get("difference") or {}
    ]
    names = dict.fromkeys((*(evaluation.get("primary") or compared), "auroc", "auprc", "brier"))
    return [name for name in names if name in evaluation["figures"]][:MOST_MAIN] or list(evaluation["figures"])[:2]


# ------------------------------------------------------------------ the result


def cards_of(run: Run) -> list[Card]:
    """The metrics that a reader sees first: of the evaluation, or of the best validation where there is none."""
    evaluation = run.evaluation
    if evaluation is None:
        return _cards_of_validation(run)
    cards = []
    for name in main_metrics(evaluation):
        metric, chance = evaluation["figures"][name], _chance(evaluation, name)
        details = [f"95 % interval {interval(metric)}"] if metric.get("low") is not None else []
        details += [] if chance is None else [f"chance {number(chance) if chance != 0.5 else chance}"]
        if value_of(metric) is not None:
            cards.append(Card(metric_name(name), number(value_of(metric)), "; ".join(details)))
    positives = ""
    if "positives" in evaluation:
        positives = f"{evaluation['positives']:,} positive ({percent(evaluation['positives'] / evaluation['stays'])})"
    return [*cards, Card(f"Stays, {evaluation['split']} split", f"{evaluation['stays']:,}", positives)]


def _chance(evaluation: Plain, name: str) -> float | None:
    """What a random ranking reaches."""
    if name == "auprc" and "positives" in evaluation:
        return float(evaluation["positives"]) / max(1, evaluation["stays"])
    return 0.5 if name in ("auroc", "mean AUROC") else None


def _cards_of_validation(run: Run) -> list[Card]:
    best = run.best
    if best is None:
        return []
    names = sorted(run.metrics, key=lambda name: (name != run.watched, not name.startswith("val_")))[:4]
    against_chance = (run.summary or {}).get("against_chance") or ()
    details = {line.split()[0]: line.partition("(")[2].rstrip(")") for line in against_chance}
    when = f"epoch {best['epoch']:.0f} of {run.rows[-1]['epoch']:.0f}"
    return [Card(name, number(best[name]), details.get(name, when)) for name in names if name in best]


def result_section(run: Run) -> Section | None:
    """The metrics beside those of the baselines."""
    evaluation = run.evaluation
    if evaluation is None:
        return None
    over = evaluation.get("resampled", "stays")  # files from before it was recorded
    text = (
        f"{evaluation['checkpoint']} on the {evaluation['split']} split. Intervals are over {over}: they "
        "do not contain what another random seed or another split would change."
    )
    every = _all_metrics(evaluation, over)
    members = evaluation.get("members") or {}
    of_members = {f"{name}, weight {number(member['weight'], 2)}": member for name, member in members.items()}
    tables = [_compared_table(evaluation, over, "members of the average", of_members)] if members else []
    if not evaluation.get("baselines"):
        return Section("metrics", "Metrics", [text], tables=[*tables, every])
    tables.insert(0, _compared_table(evaluation, over, "baselines", evaluation["baselines"]))
    return Section("metrics", "Metrics", [text], list(_baseline_pictures(evaluation)), tables, [every])


def _compared_table(evaluation: Plain, over: str, kind: str, others: Plain) -> Table:
    """This model and others, a row each: the main metrics, and the differences to this model."""
    main = main_metrics(evaluation)
    compared = [name for name in main if any(name in (each.get("difference") or {}) for each in others.values())]
    head = ["model", *map(metric_name, main), *(f"{metric_name(name)} of this model minus theirs" for name in compared)]
    rows = [[MODEL, *(stacked(evaluation["figures"].get(name)) for name in main), *("–" for _ in compared)]]
    for model, each in others.items():
        own = [stacked(each["figures"].get(name)) for name in main]
        rows.append([model_name(model), *own, *(stacked((each.get("difference") or {}).get(n)) for n in compared)])
    return Table(f"This model and the {kind} on the same stays, with 95 % intervals over {over}", head, rows)


def _baseline_pictures(evaluation: Plain) -> Iterator[Picture]:
    """Each main metric that is compared, of this model and of the baselines that look at the stay, and chance."""
    rivals = {name: baseline for name, baseline in evaluation["baselines"].items() if not is_constant(name)}
    for name in main_metrics(evaluation) if rivals else ():
        own = [plots.Row(MODEL, evaluation["figures"][name])]
        others = [(model_name(model), rival["figures"].get(name)) for model, rival in rivals.items()]
        rows = own + [plots.Row(m, each, colour=VERMILLION, marker="s") for m, each in others if each is not None]
        rows = [row for row in rows if value_of(row.metric) is not None]
        if name != "brier" and own[0] in rows:
            chance = _chance(evaluation, name)
            yield Picture(
                f"baselines_{as_name(name)}",
                f"{metric_name(name)} beside the baselines",
                "With 95 % intervals" + ("." if chance is None else "; dotted: chance."),
                f"{metric_name(name)}: " + "; ".join(f"{row.label} {with_interval(row.metric)}" for row in rows) + ".",
                plots.intervals(rows, metric_name(name), dotted=chance),
            )


def _all_metrics(evaluation: Plain, over: str) -> Table:
    """Every metric of the evaluation, and those of the baselines."""
    others = evaluation.get("baselines") or {}
    rows = []
    for name, metric in evaluation["figures"].items():
        theirs = [number(value_of(each["figures"].get(name))) for each in others.values()]
        rows.append([metric_name(name), number(value_of(metric)), interval(metric), _best_value(name), *theirs])
    head = ("metric", "this model", f"95 % interval over {over}", "best value", *map(model_name, others))
    return Table("All metrics", head, rows)


def _best_value(name: str) -> str:
    if (
        less_is_better(name)
        or name.startswith(("Brier", "mean error"))
        or name in ("ece", "calibration_intercept", "mean_difference")
    ):
        return "0"
    return {"auroc": "1; chance 0.5", "auprc": "1; chance: the prevalence", "alarms": "–"}.get(name, "1")


def overview(runs: Runs, findings: Mapping[str, int]) -> Table:
    """A row for each run, with the number of its findings."""
    main = dict.fromkeys(name for run in runs.values() if run.evaluation for name in main_metrics(run.evaluation))
    head = ("run", "split", *map(metric_name, main), "best validation", "epoch", "time", "findings")
    rows = []
    for name, run in runs.items():
        evaluation, best, summary = run.evaluation or {}, run.best, run.summary or {}
        scored = [stacked((evaluation.get("figures") or {}).get(each)) for each in main]
        at = ["–", "–"]
        if best is not None:
            at = [
                f"{run.watched} {number(best[run.watched], 4)}",
                f"{best['epoch']:.0f} of {run.rows[-1]['epoch']:.0f}",
            ]
        time = duration(summary["seconds"]) if "seconds" in summary else "–"
        rows.append([name, evaluation.get("split", "–"), *scored, *at, time, f"{findings[name]}"])
    return Table("Runs", head, rows)


# ------------------------------------------------------------------ groups of stays


GROUP_PICTURES = ("calibration_intercept", "sensitivity", "specificity")  # besides the first main metric


def subgroup_section(run: Run) -> Section | None:
    """Metrics by subgroup, their differences, and whether these are beyond chance."""
    evaluation = run.evaluation or {}
    groups, columns = evaluation.get("subgroups") or [], evaluation.get("subgroup_columns") or []
    if not groups and not columns:
        return None
    text = [
        "Intervals are not adjusted for the number of subgroups: among 20, one is expected to exclude the truth."
    ] * bool(groups)
    text += [f"{hidden_words(column)}." for column in columns if column["hidden"]]
    if not groups:
        return Section("subgroups", "Subgroups", text)
    names = main_metrics(evaluation)
    labels = [f"{group['column']}: {group['group']}" for group in groups]
    table = _groups_table("Subgroups", "subgroup", labels, groups, names)
    every = [
        [label, *(number(value_of(group["figures"].get(name))) for name in evaluation["figures"])]
        for label, group in zip(labels, groups, strict=True)
    ]
    folded = Table("All metrics by subgroup", ("subgroup", *map(metric_name, evaluation["figures"])), every)
    pictures = [_groups_picture(evaluation, groups, name) for name in (names[0], *GROUP_PICTURES)]
    tables = [table, *_difference_tables(groups, columns)]
    drawn = [picture for picture in pictures if picture is not None]
    return Section("subgroups", "Subgroups", text, drawn, tables, [folded])


def _groups_picture(evaluation: Plain, groups: list[Plain], name: str) -> Picture | None:
    """A metric in each group; None where it is defined in none."""
    metric = metric_name(name)
    rows = [
        plots.Row(
            f"{group['column']}: {group['group']}",
            group["figures"][name],
            _count(group),
            hollow=group.get("positives", FEW) < FEW,
        )
        for group in groups
        if value_of(group["figures"].get(name)) is not None
    ]
    if not rows:
        return None
    alt = "; ".join(f"{row.label.replace(': ', ' ', 1)} {with_interval(row.metric)}" for row in rows)
    return Picture(
        "subgroups" if name == main_metrics(evaluation)[0] else f"subgroups_{as_name(name)}",
        f"{metric} by subgroup",
        f"With 95 % intervals and the number of {_heading(groups)}; dashed: all stays."
        + f" A hollow marker stands for fewer than {FEW} positives." * ("positives" in groups[0]),
        f"{metric} by subgroup: {alt}.",
        plots.intervals(rows, metric, dashed=value_of(evaluation["figures"].get(name))),
    )


def _difference_tables(groups: list[Plain], columns: list[Plain]) -> list[Table]:
    """Each group minus the largest of its column, and the tests of whether the groups of a column differ."""
    largest = {column["column"]: column.get("reference") for column in columns}
    compared = [group for group in groups if group.get("difference")]
    metrics = list(dict.fromkeys(name for each in compared for name in each["difference"]))
    rows = [
        [
            f"{each['column']}: {each['group']} minus {largest[each['column']]}",
            *(stacked(each["difference"].get(name)) for name in metrics),
        ]
        for each in compared
    ]
    tests = list(dict.fromkeys(name for column in columns for name in column["tests"]))
    tested = [column for column in columns if column["tests"]]
    results = [[column["column"], *(_p_values(column["tests"].get(name)) for name in tests)] for column in tested]
    caption = "Whether the groups of a column differ: p, and p after Holm's correction for all these tests"
    return [
        *[Table("Differences to the largest group", ("subgroups", *map(metric_name, metrics)), rows)] * bool(rows),
        *[Table(caption, ("column", *map(metric_name, tests)), results)] * bool(results),
    ]


def _p_values(test: Plain | None) -> str:
    if test is None or test.get("p") is None:
        return "–"
    return "\n".join("< 0.001" if p < 0.001 else number(p) for p in (test["p"], test["holm"]))


def landmark_section(run: Run) -> Section | None:
    """Metrics with only the first hours of each stay."""
    evaluation = run.evaluation or {}
    groups = evaluation.get("landmarks") or []
    if not groups:
        return None
    names = main_metrics(evaluation)
    first = metric_name(names[0])
    values = [with_interval(group["figures"].get(names[0])) for group in groups]
    alt = "; ".join(f"{group['hours']:g} h: {first} {value}" for group, value in zip(groups, values, strict=True))
    picture = Picture(
        "landmarks",
        "Metrics by hours of data",
        "What the model reaches with only the first hours of each stay.",
        f"Metrics with the first hours of each stay: {alt}.",
        plots.landmarks(groups, [name for name in names if name != "brier"]),
    )
    table = _groups_table("Landmarks", "hours of data", [f"{group['hours']:g}" for group in groups], groups, names)
    return Section("landmarks", "Early predictions", pictures=[picture], tables=[table])


def _count(group: Plain) -> str:
    return f"{group['positives']:,} of {group['stays']:,}" if "positives" in group else f"{group['stays']:,}"


def _groups_table(caption: str, heading: str, names: list[str], groups: list[Plain], main: list[str]) -> Table:
    rows = []
    for name, group in zip(names, groups, strict=True):
        first, *others = (stacked(group["figures"].get(one)) for one in main)
        rows.append([name, first, _count(group), *others])
    return Table(caption, (heading, metric_name(main[0]), _heading(groups), *map(metric_name, main[1:])), rows)


def _heading(groups: list[Plain]) -> str:
    """The heading of a column of counts."""
    return "positive stays" if "positives" in groups[0] else "stays"
