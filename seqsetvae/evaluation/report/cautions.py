"""What a reader of a report should distrust, and the result in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from seqsetvae.evaluation.report.evaluation_file import Baseline, Evaluation
from seqsetvae.evaluation.report.numbers import brier, roc
from seqsetvae.evaluation.report.read import Run
from seqsetvae.evaluation.report.tables import ScoredStays
from seqsetvae.evaluation.report.wording import counted, model_name, number, with_interval
from seqsetvae.evaluation.verdict import TRAINED_ON

FEW_POSITIVES = 50  # below this an AUROC interval is about 0.15 wide
WIDE = 0.1  # width of an AUROC interval that hides any difference that models of one data set usually have
NAMED = 8  # variables that one line names
BEGINNING = 40  # characters by which a line of train.log is recognized
SAME = 1e-6  # difference between two computations of one figure that rounding explains


@dataclass(frozen=True)
class Caution:
    """One reason for caution: a warning if it can change what the result means, otherwise a note."""

    kind: str  # "warning" or "note"
    text: str


def cautions_of(run: Run) -> list[Caution]:
    """All reasons for caution, warnings first, each text once."""
    evaluation, found = run.evaluation, []
    if evaluation is not None:
        found += [*_of_evaluation(evaluation), *_of_files(run, evaluation)]
    found += [*_of_run(run), *_of_data(run)]
    found += [Caution("note", line) for line in run.warnings if not _is_known(line, found)]
    unique = {each.text: each for each in found}
    return sorted(unique.values(), key=lambda each: each.kind != "warning")


def _is_known(line: str, found: list[Caution]) -> bool:
    """Whether a line of train.log repeats a caution: they begin alike, up to a colon if one comes early."""
    text = " ".join(line.split()).lower()[:BEGINNING]
    start = text.partition(":")[0]
    return any(each.text.lower().startswith(start) for each in found)


def _of_run(run: Run) -> Iterator[Caution]:
    if run.summary is not None:  # its advice names a random or partial backbone too
        yield from (Caution("warning", line) for line in run.summary.get("advice") or ())
    else:
        yield Caution("warning", "The run has not finished: there is no summary.json.")
        yield from _of_backbone(run)
    if run.mode == "finetune" and run.evaluation is None and run.task_evaluation is None:
        yield Caution(
            "warning",
            f"Only the validation split was scored, by the same values that chose the checkpoint, so {run.watched} is "
            "optimistic, and there is no interval and no baseline.",
        )


def _of_backbone(run: Run) -> Iterator[Caution]:
    if run.settings.get("from_random_weights"):
        yield Caution("warning", "Random backbone: nothing was pretrained (--from_random_weights).")
    elif run.config.get("partial_backbone"):
        pretrained = run.config.get("pretrained") or {}
        n_random = len(pretrained.get("missing") or ()) + len(pretrained.get("shape_mismatch") or ())
        yield Caution("warning", f"Partial backbone: {n_random} weights started random (--allow_partial_backbone).")


def _of_data(run: Run) -> Iterator[Caution]:
    counted_label = run.task == "binary" and run.evaluation is None  # the cohort counts its one binary label
    if counted_label and run.cohort is not None and "valid" in run.cohort.manifest["splits"]:
        positives = run.cohort.manifest["splits"]["valid"]["positives"]
        if positives < FEW_POSITIVES:
            yield Caution(
                "warning",
                f"Few positives: {counted(positives, 'positive stay')} in the validation split (fewer than "
                f"{FEW_POSITIVES}), so its figures are uncertain.",
            )
    if run.not_used:
        named = ", ".join(repr(name) for name, _ in run.not_used[:NAMED])
        more = f" and {len(run.not_used) - NAMED:,} more" if len(run.not_used) > NAMED else ""
        text = f"The model does not use, or not wholly: {counted(len(run.not_used), 'variable')}, {named}{more}"
        yield Caution("note", f"{text}. The section Data says why.")
    yield from (Caution("note", f"Data: {line}.") for line in run.notices)


def _of_evaluation(evaluation: Evaluation) -> Iterator[Caution]:
    """What `--mode evaluate` cautions about (positives, split, chance), and what follows from the figures."""
    yield from (Caution("warning", line) for line in evaluation.cautions)
    yield from _of_intervals(evaluation)
    yield from _of_subgroups(evaluation)


def _of_intervals(evaluation: Evaluation) -> Iterator[Caution]:
    auroc, slope = evaluation.figures.get("auroc"), evaluation.figures.get("calibration_slope")
    if auroc is not None and auroc.width > WIDE:
        yield Caution(
            "warning",
            f"Wide interval: the 95 % interval of the AUROC is {number(auroc.width)} wide, so smaller differences "
            "cannot be seen on these stays.",
        )
    if slope is not None and slope.excludes(1):
        extreme = "too extreme (far from the mean)" if slope.value < 1 else "too close to the mean"
        yield Caution("note", f"Predicted probabilities are {extreme}: calibration slope {with_interval(slope, 2)}.")


def _of_subgroups(evaluation: Evaluation) -> Iterator[Caution]:
    overall = evaluation.figures.get("auroc")
    for group in evaluation.subgroups:
        auroc = group.figures.get("auroc")
        if overall is not None and auroc is not None and auroc.high is not None and auroc.high < overall.value:
            yield Caution(
                "note",
                f"Lower in the subgroup {group.column} = {group.name}: AUROC {with_interval(auroc)}, "
                f"{counted(group.positives, 'positive')} of {counted(group.stays, 'stay')}.",
            )


def _of_files(run: Run, evaluation: Evaluation) -> Iterator[Caution]:
    """Whether the predictions belong to evaluation.json, and whom it leaves out."""
    stays = run.stays
    if stays is None:
        return
    if not are_of(stays, evaluation):
        yield Caution(
            "warning",
            "The predictions are not from the evaluation in evaluation.json, so curves and table do not belong "
            "together. Run --mode evaluate again.",
        )
    for reason, count in stays.without_prediction.items():
        yield Caution("note", f"Not counted: {counted(count, 'stay')} without a prediction ({reason}).")
    if stays.unlabelled:
        yield Caution("note", f"Not counted: {counted(stays.unlabelled, 'stay')} without a label.")


def are_of(stays: ScoredStays, evaluation: Evaluation) -> bool:
    """Whether these predictions have the counts, the AUROC and the Brier score of the evaluation."""
    if (len(stays.label), stays.positives) != (evaluation.stays, evaluation.positives):
        return False
    computed = {"brier": brier(stays.label, stays.risk)}
    if stays.has_both_classes:
        computed["auroc"] = roc(stays.label, stays.logit).area
    pairs = [(value, evaluation.figures[name].value) for name, value in computed.items() if name in evaluation.figures]
    return all(abs(own - other) <= SAME for own, other in pairs)


def verdict(evaluation: Evaluation) -> str:
    """Which baselines are better and what to use; else the result beside the best baseline."""
    if evaluation.worse_than is not None:
        return evaluation.worse_than
    text = _beside_the_best(evaluation)
    return f"{text} {TRAINED_ON}" if evaluation.split == "train" else text


def _beside_the_best(evaluation: Evaluation) -> str:
    auroc = evaluation.figures.get("auroc")
    if auroc is None:
        return "The AUROC could not be computed."
    rivals = [each for each in evaluation.rivals if "auroc" in each.figures]
    if not rivals:
        return "No baseline was evaluated on the same stays, so this page cannot say whether the result is good."
    best = max(rivals, key=lambda each: each.figures["auroc"].value)
    return _against(best, auroc.value)


def _against(best: Baseline, auroc: float) -> str:
    name = model_name(best.name)
    difference = best.difference.get("auroc")
    if difference is None or difference.low is None:
        return f"The best baseline, {name}, has AUROC {number(best.figures['auroc'].value)} against {number(auroc)}."
    text = (
        f"AUROC {number(auroc)} against {number(best.figures['auroc'].value)}, difference {with_interval(difference)}"
    )
    if not difference.excludes(0):
        return f"No clear difference to the best baseline, {name}: {text}."
    return f"Better than the best baseline, {name}: {text}."
