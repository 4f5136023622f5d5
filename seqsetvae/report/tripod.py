"""tripod.html: the items of TRIPOD+AI (Collins et al., BMJ 2024;385:e078378) as far as a run can fill them in.

What no file of the run says is a question for the authors; nothing is invented. The page is plain enough for Word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seqsetvae.cohort.profile import VariableSums
from seqsetvae.evaluation.statistics import RESAMPLES
from seqsetvae.report.flow import flow_of, flow_picture, flow_table
from seqsetvae.report.page import FIGURES, write_html
from seqsetvae.report.parts import Table, metric_name, number, percent, with_interval
from seqsetvae.report.run_files import Run
from seqsetvae.report.style import as_svg, write_files

TRIPOD = "tripod.html"
NOT_RECORDED = "The run does not know: it was not evaluated, or its data are no longer there."
RUN = "Run --mode"  # the beginning of what to do where a run does not know yet
SHRINKAGE, ERROR, SHARE_OF_R2 = 0.9, 0.05, 0.15  # what Riley et al. advise where nothing better is known
Answer = Callable[[Run], str]


# ------------------------------------------------------------------ what a run knows


def _source(run: Run) -> str:
    text = _imported(run, "found")
    return f"Source: {run.cohort.manifest.get('source', 'not recorded')}. {text}" if run.cohort else ""


def _imported(run: Run, key: str) -> str:
    """Sentences that an import kept: found, decided, notes."""
    content = {} if run.cohort is None else run.cohort.manifest.get("import") or {}
    return " ".join(line if line.endswith(".") else f"{line}." for line in content.get(key) or ())


def _eligibility(run: Run) -> str:
    return f"{_imported(run, 'decided')} Stays that were left out: see the flow of stays." if run.cohort else ""


def _preparation(run: Run) -> str:
    values, settings = run.config.get("values") or {}, run.settings
    how = ", ".join(f"{name} {value}" for name, value in values.items() if name != "rare")
    cut = f" Only the last {settings['max_sets']} sets of each stay." if settings.get("max_sets") else ""
    return f"Values: {how}. Window of the training stays: {run.config.get('window', 'not recorded')}.{cut}"


def _outcome(run: Run) -> str:
    return f"{run.label_name} ({run.task}). Events that were used: {run.config.get('window', 'not recorded')}."


def _predictors(run: Run) -> str:
    if run.cohort is None:
        return ""
    unused = f"; not used, or not wholly: {', '.join(run.not_used)}" if run.not_used else ""
    return f"{len(run.cohort.vocabulary):,} variables, each with its times (table below){unused}."


def _size(run: Run) -> str:
    counts = _counts(run, "train")
    if not counts:
        return ""
    text = f"Training split: {counts['labelled']:,} labelled stays, {counts['positives']:,} with the outcome."
    return text + " All that the data had were used; the criteria of Riley et al. are below."


def _missing(run: Run) -> str:
    stays = "A stay has the events that were recorded; no value is imputed, and a variable without events is absent. "
    return stays + "Stays without a label are left out. How often each variable was measured: table below."


def _partition(run: Run) -> str:
    if run.cohort is None:
        return ""
    shares = ", ".join(f"{name} {counts['stays']:,}" for name, counts in run.cohort.manifest["splits"].items())
    chose = "chose the epoch" if run.settings.get("keep", "best") == "best" else "watched the training"
    return f"Stays by split: {shares}. The training split trained the model, the validation split {chose}."


def _handled(run: Run) -> str:
    values = run.config.get("values") or {}
    return f"Transform {values.get('name', 'not recorded')}; what of each variable is not used: 9b."


def _model(run: Run) -> str:
    chosen = ("architecture", "tuning", "loss", "lr", "cls_head_lr", "batch_size", "max_epochs", "seed", "tree_models")
    said = ", ".join(f"{name} {run.settings[name]}" for name in chosen if run.settings.get(name) is not None)
    best = ""
    if run.best is not None:
        how = "the last" if run.settings.get("keep") == "last" else f"chosen by {run.watched}"
        best = f" The checkpoint is that of epoch {run.best['epoch']:.0f}, {how}."
    weights = {name: member["weight"] for name, member in (run.config.get("members") or {}).items()}
    listed = ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
    average = f" Predictions are a weighted mean of log-odds: {listed}." if listed else ""
    return f"{said}.{average}{best} All settings: config.json."


def _measures(run: Run) -> str:
    names = ", ".join(metric_name(name) for name in (run.evaluation or {}).get("figures") or ())
    return f"{names}; 95 % intervals from {RESAMPLES:,} bootstrap samples; curves in report.html." if names else ""


def _updating(run: Run) -> str:
    threshold = (run.evaluation or {}).get("threshold")
    return "Probabilities were calibrated on the validation split (calibration.json)." if threshold is not None else ""


def _calculated(run: Run) -> str:
    return f"By the checkpoint, without changes: predict --ckpt {run.folder.name}."


def _imbalance(run: Run) -> str:
    settings = run.settings
    said = [f"{name} {settings[name]}" for name in ("loss", "class_weight") if settings.get(name) is not None]
    return f"{', '.join(said)}; no stay was drawn more or less often. {_updating(run)}" if said else ""


def _output(run: Run) -> str:
    threshold = (run.evaluation or {}).get("threshold")
    chosen = "" if threshold is None else f" Threshold {threshold:.3g}, chosen on the validation split."
    return f"A probability for each stay.{chosen}" if run.task == "binary" else f"Task {run.task}: see predictions."


def _against_training(run: Run) -> str:
    split = (run.evaluation or {}).get("split")
    return "Evaluated on a test split, which took no part in training." * (split == "test")


def _code(run: Run) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in (run.config.get("versions") or {}).items())
    return (
        f"seqsetvae-finetuning (MIT licence), {versions}; all settings are in config.json, data hash {run.events[:12]}."
    )


def _flow(run: Run) -> str:
    return "Tables below: flow of stays, characteristics by split and outcome." if run.cohort else ""


def _events(run: Run) -> str:
    rows = {} if run.cohort is None else run.cohort.manifest["splits"]
    return "; ".join(
        f"{name}: {row['labelled']:,} stays, {row['positives']:,} with the outcome" for name, row in rows.items()
    )


def _specification(run: Run) -> str:
    trained = (run.summary or {}).get("trained") or {}
    last = list(trained.values())[-1:] or [{}]
    weights = ", ".join(f"{part} {count:,.0f}" for part, count in last[0].items())
    return f"checkpoints/best.ckpt holds the whole model ({weights} trained weights); export writes it for others."


def _performance(run: Run) -> str:
    if run.evaluation is None:
        return ""
    metrics = run.evaluation["figures"].items()
    values = "; ".join(f"{metric_name(name)} {with_interval(metric)}" for name, metric in metrics)
    return f"Split {run.evaluation['split']}: {values}. {run.evaluation.get('verdict', '')}"


def _groups(run: Run) -> str:
    groups = (run.evaluation or {}).get("subgroups") or ()
    said = [f"{len(groups)} subgroups were evaluated; report.html has their metrics."] if groups else []
    for each in run.external:
        metrics = "; ".join(f"{metric_name(name)} {with_interval(each['figures'][name])}" for name in each["primary"])
        said.append(f"{each['name']}, {each['stays']:,.0f} stays: {metrics}.")
        if "sites" in each:
            said += _over(each["sites"]["pooled"], f"sites by {each['sites']['by']}")
    return " ".join([*said, *_over(run.external_pooled, "cohorts")])


def _over(pooled: Mapping[str, Mapping[str, float]], unit: str) -> list[str]:
    """What a meta-analysis found for each metric."""
    return [
        f"{metric_name(name)} over {each['sites']:.0f} {unit}: {with_interval(each)}; expected in one more: "
        f"{number(each['prediction_low'])} to {number(each['prediction_high'])}."
        for name, each in pooled.items()
    ]


def _pooled_how(run: Run) -> str:
    is_pooled = run.external_pooled or any(each.get("sites", {}).get("pooled") for each in run.external)
    how = "Random-effects meta-analysis (REML; intervals of Knapp and Hartung) over sites or cohorts."
    return how * bool(is_pooled)


def _limits(run: Run) -> str:
    return " ".join(each["text"] for each in (run.evaluation or {}).get("findings") or ())


def _poor_input(run: Run) -> str:
    return (
        "Variables may be absent. Values that cannot be read are refused with file and row; variables that the "
        "training data did not have are left out and counted; data that differ from the training data give warnings."
    )


# ------------------------------------------------------------------ the items

ITEMS: list[tuple[str, str, Answer | None, str]] = [  # number, title, what a run knows, what only the authors know
    (
        "1",
        "Title",
        None,
        "Name the study as development or evaluation of a prediction model, with population and outcome.",
    ),
    ("2", "Abstract", None, "Write it by the checklist for abstracts of TRIPOD+AI."),
    ("3a", "Background: healthcare context", None, "Which decision is to be supported, and which models exist?"),
    ("3b", "Background: target population and purpose", None, "For whom, where in care, and for which users?"),
    ("3c", "Background: health inequalities", None, "Which inequalities between groups are known?"),
    ("4", "Objectives", None, "Development, evaluation, or both?"),
    ("5a", "Data sources", _source, "Why these data, and whom do they represent?"),
    ("5b", "Dates", None, "First and last admission, end of follow-up?"),
    ("6a", "Setting", None, "Which hospitals and units, how many, where?"),
    ("6b", "Eligibility", _eligibility, "Who was eligible before the data were extracted?"),
    ("6c", "Treatments", None, "Which treatments were given, and how were they handled?"),
    ("7", "Data preparation", _preparation, ""),
    ("8a", "Outcome: definition and horizon", _outcome, "How was it assessed, and is it the same in all groups?"),
    ("8b", "Outcome: assessors", None, "If assessment needs judgement: who assessed it?"),
    ("8c", "Outcome: blinding", None, "Were assessors blind to the predictors?"),
    ("9a", "Predictors: choice", None, "Why these variables, and were any excluded before?"),
    ("9b", "Predictors: definition", _predictors, ""),
    ("9c", "Predictors: assessors", None, "If assessment needs judgement: who assessed them?"),
    ("10", "Sample size", _size, "Was a size planned, and how?"),
    ("11", "Missing data", _missing, ""),
    ("12a", "Analysis: use of the data", _partition, ""),
    ("12b", "Analysis: handling of predictors", _handled, ""),
    ("12c", "Analysis: model and its building", _model, ""),
    ("12d", "Analysis: heterogeneity", _pooled_how, "Are there several sites or periods, and how were they handled?"),
    ("12e", "Analysis: performance measures", _measures, "Run --mode evaluate."),
    ("12f", "Analysis: model updating", _updating, ""),
    ("12g", "Analysis: calculation of predictions", _calculated, ""),
    ("13", "Class imbalance", _imbalance, ""),
    ("14", "Fairness", None, "What was done about fairness, and why?"),
    ("15", "Model output", _output, ""),
    (
        "16",
        "Training against evaluation",
        _against_training,
        "How do the evaluated stays differ from those of training?",
    ),
    ("17", "Ethical approval", None, "Which committee, and which consent?"),
    ("18a", "Funding", None, "Who paid, and with what part in the study?"),
    ("18b", "Conflicts of interest", None, "Which, of each author?"),
    ("18c", "Protocol", None, "Where is it?"),
    ("18d", "Registration", None, "Where, and under which number?"),
    ("18e", "Data sharing", None, "Can others have the data, and how?"),
    ("18f", "Code sharing", _code, "Where is the code of the study?"),
    ("19", "Patient and public involvement", None, "Who was involved, and how?"),
    ("20a", "Results: flow of participants", _flow, ""),
    ("20b", "Results: characteristics", _flow, "Age, sex and other characteristics that the data do not hold?"),
    ("20c", "Results: development against evaluation", _flow, ""),
    ("21", "Results: participants and events by analysis", _events, ""),
    ("22", "Results: model specification", _specification, ""),
    ("23a", "Results: performance", _performance, "Run --mode evaluate --split test."),
    (
        "23b",
        "Results: heterogeneity",
        _groups,
        "Run --mode evaluate with --subgroups FILE (groups of patients) or --external DIR --by COLUMN (sites).",
    ),
    ("24", "Results: model updating", _updating, ""),
    ("25", "Interpretation", None, "What do the results mean beside earlier models, and for fairness?"),
    ("26", "Limitations", _limits, "Which limits do sample, source and outcome have?"),
    ("27a", "Use: poor or missing input", _poor_input, "Who notices it in care, and what is done?"),
    ("27b", "Use: interaction and expertise", None, "What must users do, and what must they know?"),
    ("27c", "Use: next steps", None, "What is next: validation elsewhere, a trial?"),
]


def checklist(run: Run) -> list[tuple[str, str, str, str]]:
    """(number, title, what the run knows, the question for the authors) of each item."""
    rows = [(at, title, " ".join(knows(run).split()) if knows else "", asks) for at, title, knows, asks in ITEMS]
    return [
        (at, title, known, asks * (not known or not asks.startswith(RUN)) or NOT_RECORDED * (not known))
        for at, title, known, asks in rows
    ]


def write_tripod(run: Run) -> Path:
    """Write tripod.html into the run folder. Raises CannotWriteError."""
    flow = flow_of(run)
    tables = [] if flow is None else [flow_table(flow), riley_table(run), characteristics(run)]
    picture = None if flow is None else flow_picture(flow)
    if picture is not None:
        (run.folder / FIGURES).mkdir(exist_ok=True)
        write_files(picture.figure, as_svg(picture.figure, picture.name), run.folder / FIGURES, picture.name)
    content = {
        "items": checklist(run),
        "flow": picture,
        "tables": [table for table in tables if table is not None],
        "name": run.folder.name,
    }
    write_html(run.folder / TRIPOD, "tripod.html", [run], content)
    return run.folder / TRIPOD


# ------------------------------------------------------------------ tables


def _counts(run: Run, split: str) -> dict[str, int]:
    """Counts of a split, where the cohort's label is the one of the run."""
    splits: dict[str, Any] = {} if run.cohort is None or run.task != "binary" else run.cohort.manifest["splits"]
    return splits.get(split) or {}


def riley(share: float, parameters: int, r2: float | None = None) -> dict[str, int]:
    """Smallest training sizes for a binary outcome (Riley et al., BMJ 2020;368:m441), by criterion.

    Args:
        share: of stays with the outcome.
        parameters: of the candidate predictors.
        r2: expected R² of Cox and Snell; None: 15 % of the largest possible.
    """
    entropy = share * math.log(share) + (1 - share) * math.log(1 - share)
    largest = 1 - math.exp(2 * entropy)
    r2 = SHARE_OF_R2 * largest if r2 is None else r2
    mean_error = (-0.508 + 0.259 * math.log(share) + 0.504 * math.log(parameters) - math.log(ERROR)) / 0.544

    def shrunk(by: float) -> float:
        return parameters / ((by - 1) * math.log(1 - r2 / by))

    sizes = {
        "outcome rate within 0.05": (1.96 / ERROR) ** 2 * share * (1 - share),
        "mean error of at most 0.05 (formula fitted for up to 30 parameters)": math.exp(mean_error),
        "shrinkage of at most 10 %": shrunk(SHRINKAGE),
        "optimism in R² of at most 0.05": shrunk(r2 / (r2 + ERROR * largest)),
    }
    return {name: math.ceil(size) for name, size in sizes.items()}


def riley_table(run: Run) -> Table | None:
    """The criteria for one parameter a variable; None where the outcome is not binary or has one value."""
    counts = _counts(run, "train")
    if run.cohort is None or not counts or not 0 < counts["positives"] < counts["labelled"]:
        return None
    variables = len(run.cohort.vocabulary)
    sizes = riley(counts["positives"] / counts["labelled"], variables)
    rows = [[name, f"{size:,}", "yes" if counts["labelled"] >= size else "no"] for name, size in sizes.items()]
    caption = (
        f"Sample size by the criteria of Riley et al., for regression with one parameter for each of {variables:,} "
        f"variables and an R² of 15 % of the largest possible; there are {counts['labelled']:,} training stays. "
        "Networks and trees have more parameters and may need more."
    )
    return Table(caption, ("criterion", "stays needed", "met"), rows)


def characteristics(run: Run) -> Table:
    """Each variable by split and outcome: share of the stays that have it, and the mean of the means of stays."""
    assert run.cohort is not None, "the caller asks"
    groups = list(_groups_of_stays(run))
    columns = []
    for _, split, chosen in groups:
        sums = VariableSums(len(run.cohort.vocabulary))
        sums.add(split, chosen)
        share = sums.stays / max(int(chosen.sum()), 1)
        mean = np.divide(sums.total, sums.stays, out=np.full_like(sums.total, np.nan), where=sums.stays > 0)
        columns.append(
            [f"{percent(a)}; {number(None if np.isnan(b) else float(b), 2)}" for a, b in zip(share, mean, strict=True)]
        )
    rows = [[name, *cells] for name, *cells in zip(run.cohort.vocabulary, *columns, strict=True)]
    heads = [f"{name} ({int(chosen.sum()):,} stays)" for name, _, chosen in groups]
    return Table(
        "Characteristics: share of the stays with a value; mean of the stays' means", ("variable", *heads), rows
    )


def _groups_of_stays(run: Run) -> Iterator[tuple[str, Any, Any]]:
    assert run.cohort is not None, "the caller asks"
    for name, split in run.cohort.splits.items():
        if run.task != "binary":
            yield name, split, np.ones(split.n_stays, bool)
        else:
            yield from ((f"{name}, outcome {value}", split, split.label == value) for value in (0, 1))
