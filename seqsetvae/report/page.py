"""report.html of one run or of several: the result and what to distrust first, then all that their files allow."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import seqsetvae.report.predictions as drawn
import seqsetvae.report.result as results
import seqsetvae.report.training as training
from seqsetvae import __version__
from seqsetvae.evaluation.findings import FEW_OF_CLASS, beaten_by, findings_of, verdict
from seqsetvae.report.explanation import explanation_section
from seqsetvae.report.external import external_cards, external_findings, external_section
from seqsetvae.report.parts import Picture, Section
from seqsetvae.report.run_files import Run, Runs
from seqsetvae.report.style import as_svg, for_page, write_files
from seqsetvae.system.environment import program
from seqsetvae.system.errors import LEVELS, NOTE, WARNING, Finding, InputError, counted, named
from seqsetvae.system.files import cannot_write, write_text
from seqsetvae.system.privacy import absolute_paths, as_cell, without_folders

REPORT, FIGURES = "report.html", "figures"
COMMAND = program("train_optimized.py")
TEMPLATES = Path(__file__).with_name("templates")
TITLES = {"finetune": "Fine-tuned model: ", "evaluate": "Evaluation: "}
NAMED = 8  # variables that one line names


def write_page(runs: Sequence[Run], folder: Path) -> Path:
    """report.html in a folder, and its pictures as files in figures/.

    Raises:
        InputError: a run is named twice.
        CannotWriteError: the folder cannot be written to.
    """
    content, figures = content_of(runs), folder / FIGURES
    try:
        figures.mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(figures, error) from None

    def drawing(picture: Picture) -> Markup:
        svg = as_svg(picture.figure, picture.name)
        write_files(picture.figure, svg, figures, picture.name)
        return Markup(for_page(svg, picture.name))  # made by matplotlib, which escapes all text

    style = Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
    write_html(folder / REPORT, "page.html", runs, content, style=style, drawing=drawing)
    return folder / REPORT


def write_html(file: Path, template: str, runs: Sequence[Run], content: Mapping[str, Any], **more: Any) -> None:
    """A template of templates/ with this content about some runs, without their folders. Raises CannotWriteError."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_with_fixed_spaces,
    )
    environment.filters["as_cell"] = as_cell
    html = environment.get_template(template).render(content, version=__version__, **more)
    paths = [str(path) for run in runs for path in (run.folder.absolute(), *absolute_paths(run.config))]
    write_text(file, without_folders(html, [*paths, str(Path.cwd())]))


def _with_fixed_spaces(value: Any) -> Any:
    """Text in which no line ends between a number and its %."""
    return value.replace(" %", "\N{NO-BREAK SPACE}%") if type(value) is str else value


def content_of(runs: Sequence[Run]) -> dict[str, Any]:
    """What the template shows. Raises InputError if a run is there twice."""
    if len(runs) > 1:
        by_name = names_of(runs)
        counts = {name: len(findings_of_run(run)) for name, run in by_name.items()}
        return {
            "title": f"Comparison of {counted(len(runs), 'run')}",
            "name": ", ".join(by_name),
            "result": Section("metrics", "Metrics", tables=[results.overview(by_name, counts)]),
            "findings": findings_of_runs(by_name),
            "sections": _sections(by_name),
        }
    (run,) = runs
    kind = f" ({run.task})" * (run.task != "binary")
    return {
        "title": f"{TITLES[run.mode]}{run.label_name}{kind}" if run.mode in TITLES else f"Run of --mode {run.mode}",
        "name": run.folder.resolve().name,
        "verdict": None if run.evaluation is None else verdict(run.evaluation),
        "cards": results.cards_of(run) if run.evaluation is not None or not run.external else external_cards(run),
        "result": results.result_section(run),
        "findings": findings_of_run(run),
        "sections": _sections({"": run}),
        "missing": missing_parts(run),
        "again": f"{COMMAND} --mode report --runs {shlex.quote(str(run.folder))}",
    }


def _sections(runs: Runs) -> list[Section]:
    """The sections that the files of the runs allow; some are of a single run only, some of several."""
    first, is_one = next(iter(runs.values())), len(runs) == 1
    before = [training.data_section] if is_one and first.mode != "evaluate" else []
    groups = [results.subgroup_section, results.landmark_section]
    of_run = [training.speed_section, training.configuration_section] if first.mode != "evaluate" else []
    after = [external_section, explanation_section, *groups, *of_run] if is_one else []
    several = [] if is_one else [drawn.differences_section, training.settings_section]
    curves = [drawn.discrimination_section, drawn.calibration_section, drawn.numbers_section, drawn.decision_section]
    made: list[Section | None] = [make(first) for make in before]
    made += [make(runs) for make in (*several, training.training_section, *curves)]
    made += [make(first) for make in after]
    return [section for section in made if section is not None]


def names_of(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs by the last part of their path that tells them apart. Raises InputError if a run is there twice."""
    folders = [run.folder.resolve() for run in runs]
    if len(set(folders)) < len(folders):
        raise InputError("runs: a comparison needs two or more different run folders, and each of them once")
    shared = Path(os.path.commonpath(folders))
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [folder.relative_to(shared).as_posix() for folder in folders]
    return dict(zip(names, runs, strict=True))


def missing_parts(run: Run) -> dict[str, str]:
    """What the report could also show, each with the command that writes it."""
    if run.mode != "finetune":
        return {}
    folder, evaluation = shlex.quote(str(run.folder)), run.evaluation or {}
    has_test = run.cohort is not None and "test" in run.cohort.splits
    split = evaluation.get("split") or ("test" if has_test else "valid")
    evaluate = f"{COMMAND} --mode evaluate --ckpt {folder} --split {split}"
    details = {"subgroups": evaluation.get("subgroups"), "early predictions": evaluation.get("landmarks")}
    has_score = run.task in ("binary", "regression") and "," not in run.label_name  # else none can be explained
    details |= {"why, with some stays over time": evaluation.get("explanation")} if has_score else {}
    again = f"{evaluate} --subgroups STAYS.csv --landmarks 6 12 24 48" + " --explain" * has_score
    lacking = " and ".join(name for name, is_there in details.items() if not is_there)
    parts = {
        "The result with intervals, beside baselines": evaluate * (not evaluation),
        "Curves, calibration and decisions, from the evaluation": evaluate * ("curves" not in evaluation),
        lacking[:1].upper() + lacking[1:]: again * bool(lacking),
    }
    return {what: command for what, command in parts.items() if command}


# ------------------------------------------------------------------ findings


def findings_of_run(run: Run) -> list[Finding]:
    """What to distrust, the most serious first, each text once."""
    findings = [*_result_findings(run), *external_findings(run)]
    findings += [*_training_findings(run), *_data_findings(run)] if run.mode != "evaluate" else []
    said = {finding.text.lower().partition(":")[0] for finding in findings}  # advice says again what began as a warning
    findings += [Finding(WARNING, line) for line in run.warnings if line.lower().partition(":")[0] not in said]
    unique = {finding.text: finding for finding in findings}
    return sorted(unique.values(), key=lambda each: LEVELS.index(each.level))


def _result_findings(run: Run) -> list[Finding]:
    """The findings that the evaluation wrote; for one of an earlier version, what follows from its metrics."""
    if run.evaluation is None:
        return []
    if "findings" not in run.evaluation:
        return findings_of(run.evaluation)
    findings = run.evaluation["findings"]
    return [Finding(each["level"], each["text"], each.get("action") or "") for each in findings]


def _training_findings(run: Run) -> Iterator[Finding]:
    if run.summary is not None:  # its advice names a random or partial backbone too
        yield from (Finding(WARNING, line) for line in run.summary.get("advice") or ())
    else:
        text = "The run has not finished: there is no summary.json."
        yield Finding(WARNING, text, "train.log says why; resume it with --resume.")
    if run.mode == "finetune" and run.evaluation is None:
        text = "Only the validation split was scored, by the same values that chose the checkpoint, so "
        text += f"{run.watched} is optimistic, and there is no interval and no baseline."
        yield Finding(WARNING, text, "Run --mode evaluate.")


def _data_findings(run: Run) -> Iterator[Finding]:
    if run.task == "binary" and run.evaluation is None and run.cohort is not None:  # it counts its one binary label
        positives = run.cohort.manifest["splits"].get("valid", {}).get("positives", FEW_OF_CLASS)
        if positives < FEW_OF_CLASS:
            text = f"Few positives: {counted(positives, 'positive stay')} in the validation split (fewer than "
            yield Finding(WARNING, f"{text}{FEW_OF_CLASS}), so its metrics are uncertain.")
    if run.not_used:
        listing = named([repr(name) for name in run.not_used], NAMED)
        text = f"The model does not use, or not wholly: {counted(len(run.not_used), 'variable')}, {listing}"
        yield Finding(NOTE, f"{text}. The section Data says why.")
    yield from (Finding(NOTE, f"Data: {line}.") for line in run.recorded.get("notices") or ())


def findings_of_runs(runs: Runs) -> list[Finding]:
    """Why metrics of these runs may not be comparable."""
    evaluations = {name: run.evaluation for name, run in runs.items() if run.evaluation is not None}
    warnings = [f"{name}: {worse}" for name, result in evaluations.items() if (worse := beaten_by(result)) is not None]
    differing: dict[str, set[str]] = {
        "data": {run.events for run in runs.values()},
        "task": {run.task for run in runs.values()},
        "label": {run.label_name for run in runs.values()},
        "split of the evaluation": {result["split"] for result in evaluations.values()},
    }
    for what, values in differing.items():
        if len(values) > 1:
            warnings.append(f"The runs differ in their {what}, so their metrics are not comparable.")
    lines = {name: [each.line() for each in _result_findings(run) if each.level != NOTE] for name, run in runs.items()}
    for text in dict.fromkeys(text for of_run in lines.values() for text in of_run):
        names = [name for name, of_run in lines.items() if text in of_run]
        warnings.append(f"{'All runs' if len(names) == len(runs) else ', '.join(names)}: {text}")
    without = [name for name in runs if name not in evaluations]
    watched = " or ".join(dict.fromkeys(runs[name].watched for name in without))
    optimistic = f"{watched} chose the checkpoint and is optimistic."
    lists = {
        f"Without an evaluation, and so without intervals: {{}}. {optimistic}": without,
        "Evaluated by an earlier version, and so without curves: {}. Run --mode evaluate again.": [
            name for name, result in evaluations.items() if "curves" not in result
        ],
        "Not finished: {}.": [name for name, run in runs.items() if run.summary is None],
    }
    warnings += [text.format(", ".join(names)) for text, names in lists.items() if names]
    text = "Intervals that overlap do not show that two runs are equal: on the same stays the paired difference counts."
    if len({run.settings.get("seed") for run in runs.values()}) == 1:
        text += " All runs have the same seed, so the metrics do not show how much a seed changes."
    action = "" if all(run.task == "binary" for run in runs.values()) else "--mode evaluate --ckpt A B computes it."
    return [*(Finding(WARNING, warning) for warning in warnings), Finding(NOTE, text, action)]
