"""One run as a page: the result and what to distrust first, then all sections that its files allow."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from seqsetvae import __version__
from seqsetvae.evaluation.report import result_sections as results
from seqsetvae.evaluation.report import training_sections as training
from seqsetvae.evaluation.report.cautions import cautions_of, verdict
from seqsetvae.evaluation.report.content import Card, Missing, Picture, Section
from seqsetvae.evaluation.report.evaluation_file import Estimate, Evaluation
from seqsetvae.evaluation.report.read import Run
from seqsetvae.evaluation.report.style import as_svg, for_page, write_files
from seqsetvae.evaluation.report.task_page import page_content
from seqsetvae.evaluation.report.wording import figure_name, interval, number, percent
from seqsetvae.files import cannot_write, write_text
from seqsetvae.privacy import absolute_paths, as_cell, without_folders

REPORT, FIGURES = "report.html", "figures"
COMMAND = "python train_optimized.py"
TEMPLATES = Path(__file__).with_name("templates")
SECTIONS: Sequence[Callable[[Run], Section | None]] = (
    training.data_section,
    training.training_section,
    results.discrimination_section,
    results.calibration_section,
    results.decision_section,
    results.subgroup_section,
    results.landmark_section,
    results.one_stay_section,
    training.speed_section,
    training.configuration_section,
    training.warnings_section,
)


def write_run_page(run: Run) -> Path:
    """report.html and figures/ in the run folder. Raises CannotWriteError."""
    if run.task != "binary":
        return write_page("run.html", page_content(run, COMMAND), run.folder, [run])
    evaluation = run.evaluation
    content = {
        "title": f"Fine-tuned model: {run.label_name}" if run.mode == "finetune" else f"Run of --mode {run.mode}",
        "name": run.folder.resolve().name,
        "verdict": None if evaluation is None else verdict(evaluation),
        "cards": cards_of(run),
        "cautions": cautions_of(run),
        "result": result_section(evaluation),
        "sections": [section for make in SECTIONS if (section := make(run)) is not None],
        "missing": missing_parts(run),
        "again": f"{COMMAND} --mode report --runs {shlex.quote(str(run.folder))}",
    }
    return write_page("run.html", content, run.folder, [run])


def write_page(template: str, content: dict[str, Any], folder: Path, runs: Iterable[Run]) -> Path:
    """A page about runs from a template, as report.html in `folder`, and its pictures as files in figures/.

    Raises:
        CannotWriteError: the folder cannot be written to.
    """
    figures = folder / FIGURES
    try:
        figures.mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(figures, error) from None

    def drawing(picture: Picture) -> Markup:
        svg = as_svg(picture.figure, picture.name)
        write_files(picture.figure, svg, figures, picture.name)
        return Markup(for_page(svg, picture.name))  # made by matplotlib, which escapes all text

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_with_fixed_spaces,
    )
    environment.filters["as_cell"] = as_cell
    style = Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
    html = environment.get_template(template).render(content, style=style, drawing=drawing, version=__version__)
    paths = [str(path) for run in runs for path in (run.folder.absolute(), *absolute_paths(run.config))]
    write_text(folder / REPORT, without_folders(html, [*paths, str(Path.cwd())]))
    return folder / REPORT


def _with_fixed_spaces(value: Any) -> Any:
    """Text in which no line ends between a number and its %."""
    return value.replace(" %", "\N{NO-BREAK SPACE}%") if type(value) is str else value


def result_section(evaluation: Evaluation | None) -> Section | None:
    """The figures beside those of the baselines."""
    if evaluation is None:
        return None
    text = (
        f"{evaluation.checkpoint} on the {evaluation.split} split. Intervals are over {evaluation.resampled}: they do "
        "not contain what another random seed or another split would change."
    )
    tables = [results.baselines_table(evaluation)] if evaluation.baselines else [results.figures_table(evaluation)]
    folded = [results.figures_table(evaluation)] if evaluation.baselines else []
    return Section("figures", "Figures", [text], results.baseline_pictures(evaluation), tables, folded)


def cards_of(run: Run) -> list[Card]:
    """The figures that a reader sees first: of the evaluation, or of the best validation where there is none."""
    if run.evaluation is None:
        return _cards_of_validation(run)
    evaluation, chance = run.evaluation, {"auroc": "chance 0.5", "auprc": f"chance {number(run.evaluation.prevalence)}"}
    shown = {name: each for name, each in evaluation.figures.items() if name in ("auroc", "auprc", "brier")}
    cards = [
        Card(figure_name(name), number(each.value), _detail(each, chance.get(name))) for name, each in shown.items()
    ]
    positives = f"{evaluation.positives:,} positive ({percent(evaluation.prevalence)})"
    return [*cards, Card(f"Stays, {evaluation.split} split", f"{evaluation.stays:,}", positives)]


def _detail(estimate: Estimate, chance: str | None) -> str:
    parts = [f"95 % interval {interval(estimate)}"] if estimate.low is not None else []
    return "; ".join(parts + ([chance] if chance else []))


def _cards_of_validation(run: Run) -> list[Card]:
    best = run.best
    if best is None:
        return []
    names = sorted(run.metrics, key=lambda name: (name != run.watched, not name.startswith("val_")))[:4]
    against_chance = (run.summary or {}).get("against_chance") or ()
    details = {line.split()[0]: line.partition("(")[2].rstrip(")") for line in against_chance}
    when = f"epoch {best['epoch']:.0f} of {run.rows[-1]['epoch']:.0f}"
    return [Card(name, number(best[name]), details.get(name, when)) for name in names if name in best]


def missing_parts(run: Run) -> list[Missing]:
    """What the report could also show, each with the command that writes it."""
    if run.mode != "finetune":
        return []
    folder, evaluation = shlex.quote(str(run.folder)), run.evaluation
    evaluate = f"{COMMAND} --mode evaluate --ckpt {folder} --split {_split_to_evaluate(run)}"
    details = {
        "subgroups": evaluation and evaluation.subgroups,
        "early predictions": evaluation and evaluation.landmarks,
    }
    lacking = " and ".join(name for name, found in details.items() if not found)
    parts = [
        (evaluation is None, "the result with intervals, beside baselines", evaluate),
        (run.stays is None, "curves, calibration and decisions, from the predictions", evaluate),
        (bool(lacking), lacking, f"{evaluate} --subgroups STAYS.csv --landmarks 6 12 24 48"),
        (
            run.every_set is None,
            "the risk of one stay over time, from every_set.csv",
            f"{COMMAND} --mode predict --ckpt {folder} --every_set --output {folder}/every_set.csv",
        ),
    ]
    return [Missing(what[:1].upper() + what[1:], command) for lacks, what, command in parts if lacks]


def _split_to_evaluate(run: Run) -> str:
    """The split of the evaluation, otherwise test where the data have one."""
    if run.evaluation is not None:
        return run.evaluation.split
    return "test" if run.cohort is not None and "test" in run.cohort.splits else "valid"
