"""The page of a run whose task is not one binary label: its figures beside the baselines, training, data, settings."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from seqsetvae.evaluation.report import training_sections as training
from seqsetvae.evaluation.report.cautions import Caution, cautions_of
from seqsetvae.evaluation.report.content import Card, Missing, Section, Table
from seqsetvae.evaluation.report.read import Run
from seqsetvae.evaluation.report.wording import model_name, number
from seqsetvae.evaluation.verdict import verdict

NOT_AVAILABLE = (
    "Calibration, decision curves, landmarks and the risk over time are available for one binary label only."
)
FIRST = 4  # figures that are shown as cards


def page_content(run: Run, command: str) -> dict[str, Any]:
    """What the template of a run shows; `command` starts the program."""
    evaluation, folder = run.task_evaluation, shlex.quote(str(run.folder))
    sections = (
        training.data_section,
        training.training_section,
        training.speed_section,
        training.configuration_section,
        training.warnings_section,
    )
    split = "test" if run.cohort is not None and "test" in run.cohort.splits else "valid"
    evaluate = f"{command} --mode evaluate --ckpt {folder} --split {split}"
    return {
        "title": f"Fine-tuned model: {run.label_name} ({run.task})",
        "name": run.folder.resolve().name,
        "verdict": None if evaluation is None else verdict(evaluation),
        "cards": _cards(run),
        "cautions": [*_cautions(run), *cautions_of(run)],
        "result": None if evaluation is None else _result(evaluation),
        "sections": [section for make in sections if (section := make(run)) is not None],
        "missing": [] if evaluation else [Missing("The result with intervals, beside baselines", evaluate)],
        "again": f"{command} --mode report --runs {folder}",
    }


def _cards(run: Run) -> list[Card]:
    """The first figures of the evaluation, or of the best validation where there is none."""
    if run.task_evaluation is None:
        best = run.best or {}
        names = [run.watched, *(name for name in run.metrics if name != run.watched)]
        return [Card(name, number(best[name]), f"epoch {best['epoch']:.0f}") for name in names[:FIRST] if name in best]
    content = run.task_evaluation
    cards = [Card(name, _value(each), _interval(each)) for name, each in list(content["figures"].items())[:FIRST]]
    return [*cards, Card(f"Stays, {content['split']} split", f"{content['stays']:,}", "")]


def _cautions(run: Run) -> Iterator[Caution]:
    for text in (run.task_evaluation or {}).get("cautions") or ():
        yield Caution("warning", str(text))
    yield Caution("note", NOT_AVAILABLE)


def _result(content: dict[str, Any]) -> Section:
    """Every figure of the model and of the others."""
    others = content.get("baselines") or {}
    head = ["figure", "this model", "95 % interval", *map(model_name, others)]
    rows = [
        [name, _value(each), _interval(each), *(_value(other["figures"].get(name)) for other in others.values())]
        for name, each in content["figures"].items()
    ]
    tables = [Table("Figures", head, rows)]
    differences = [
        [f"{name}, minus {model_name(other)}", _value(each), _interval(each)]
        for other, of_other in others.items()
        for name, each in of_other["difference"].items()
    ]
    if differences:
        tables.append(Table("Differences on the same stays", ["figure", "difference", "95 % interval"], differences))
    groups = [
        [f"{row['column']} {row['group']}", f"{row['stays']:,}", *map(_value, row["figures"].values())]
        for row in content.get("subgroups") or ()
    ]
    folded = [Table("Subgroups", ["subgroup", "stays", *content["figures"]], groups)] if groups else []
    text = (
        f"{model_name(content['checkpoint'])} on the {content['split']} split. Intervals are over "
        f"{content['resampled']}: they do not contain what another random seed or another split would change."
    )
    return Section("figures", "Figures", [text], (), tables, folded)


def _value(figure: dict[str, Any] | None) -> str:
    return "–" if figure is None or figure["value"] is None else number(figure["value"])


def _interval(figure: dict[str, Any]) -> str:
    if figure["low"] is None or figure["high"] is None:
        return "–"
    return f"{number(figure['low'])} to {number(figure['high'])}"
