"""The evaluation of a task other than one binary label: the content of evaluation.json, and its table.

Legend: n labelled stays, K columns of labels, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqsetvae.evaluation.findings import drawn
from seqsetvae.evaluation.results import Subgroup, resampled_unit
from seqsetvae.evaluation.statistics import RESAMPLES, Figures, bootstrap
from seqsetvae.evaluation.verdict import IN_WORDS, said_first, verdict
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.spec import Spec

FEW_STAYS = 100  # below this the figures are too uncertain for a conclusion

Floats = NDArray[np.float64]
Plain = dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluated:
    """Outputs of a model for the labelled stays of a split."""

    spec: Spec
    checkpoint: str
    split: str
    output: Floats  # [n, O]
    truth: Floats  # [n, K] in the unit of each column, NaN = no label
    subject: NDArray[np.int64] | None  # [n] the patient of each stay; None: each stay is of another
    is_selected: bool = True  # the checkpoint was chosen by the validation split


def evaluation(
    evaluated: Evaluated,
    *,
    others: Mapping[str, Floats],
    subgroups: Sequence[Subgroup] = (),
    cautions: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Plain:
    """The content of evaluation.json. A figure that is not defined is null; differences are the model minus the other.

    Args:
        evaluated: the checkpoint's outputs.
        others: outputs [n, O] of baselines and other checkpoints for the same stays, by name.
        subgroups: of the same stays.
        cautions: what else a reader must know.
        resamples, seed: of the bootstrap.
    """
    spec, stays = evaluated.spec, np.ones(len(evaluated.output), dtype=bool)
    found = _figures(evaluated, evaluated.output, stays, resamples, seed)
    baselines = {name: _compared(evaluated, other, resamples, seed) for name, other in others.items()}
    content: Plain = {
        IN_WORDS: verdict({"figures": found, "baselines": baselines, "split": evaluated.split}),
        "task": spec.task,
        "checkpoint": evaluated.checkpoint,
        "split": evaluated.split,
        "stays": len(evaluated.output),
        "labels": {name: int(n) for name, n in zip(spec.names, (~np.isnan(evaluated.truth)).sum(axis=0), strict=True)},
        **resampled_unit(evaluated.subject, len(evaluated.output)),
        "label_name": spec.title,
        "figures": found,
        "cautions": [*cautions, *_cautions(evaluated)],
        "baselines": baselines,
        "subgroups": [
            {
                "column": each.column,
                "group": each.group,
                "stays": int(each.stays.sum()),
                "figures": _figures(evaluated, evaluated.output, each.stays, resamples, seed),
            }
            for each in subgroups
        ],
    }
    return content | drawn(content, TASKS[spec.task].curves(spec, evaluated.output, evaluated.truth))


def _figures(evaluated: Evaluated, output: Floats, stays: NDArray[np.bool_], resamples: int, seed: int) -> Plain:
    """All figures of some stays with their intervals."""
    figures = TASKS[evaluated.spec.task].figures(evaluated.spec, output[stays], evaluated.truth[stays])
    subject = None if evaluated.subject is None else evaluated.subject[stays]
    found = bootstrap(np.zeros(int(stays.sum()), dtype=np.int64), figures, resamples, seed, subject)
    return {name: interval.as_plain() for name, interval in found.items()}


def _compared(evaluated: Evaluated, other: Floats, resamples: int, seed: int) -> Plain:
    spec, stays = evaluated.spec, np.ones(len(other), dtype=bool)
    task = TASKS[spec.task]
    ours, theirs = (task.figures(spec, each, evaluated.truth) for each in (evaluated.output, other))

    def difference(weights: Floats) -> Figures:
        one, two = ours(weights), theirs(weights)
        return {name: one[name] - two[name] for name in task.primary(spec)}

    paired = bootstrap(np.zeros(len(other), dtype=np.int64), difference, resamples, seed, evaluated.subject)
    return {
        "figures": _figures(evaluated, other, stays, resamples, seed),
        "difference": {name: interval.as_plain() for name, interval in paired.items()},
    }


def _cautions(evaluated: Evaluated) -> list[str]:
    """What a reader must know before believing the figures."""
    stays = len(evaluated.output)
    rules = [
        (stays < FEW_STAYS, f"Only {stays:,} stays have a label: below {FEW_STAYS} the figures are uncertain."),
        (evaluated.split == "train", "These stays were trained on: on new stays all figures will be worse."),
        (
            evaluated.split == "valid" and evaluated.is_selected,
            "The validation split chose the checkpoint: on new stays the figures will be somewhat worse.",
        ),
    ]
    return [text for applies, text in rules if applies]


def table(content: Plain) -> str:
    """What is printed of an evaluation."""
    of = f" of {content['patients']:,} patients" * (content["resampled"] == "patients")
    width = max(map(len, [*content["figures"], "difference of "])) + 16
    lines = [
        *said_first(content),
        content["checkpoint"],
        f"  task {content['task']}, split {content['split']}: {content['stays']:,} stays{of}; label "
        f"{content['label_name']}",
        "",
        f"  {'figure':<{width}}{'value':>10}   95 % interval (over {content['resampled']})",
        *(_line(name, figure, width) for name, figure in content["figures"].items()),
    ]
    for name, other in content["baselines"].items():
        lines += ["", f"  compared with {name}"]
        for figure, difference in other["difference"].items():
            lines.append(_line(figure, other["figures"][figure], width))
            lines.append(_line("  difference", difference, width))
    for row in content["subgroups"]:
        lines += ["", f"  subgroup {row['column']} {row['group']}: {row['stays']:,} stays"]
        lines += [_line(name, figure, width) for name, figure in row["figures"].items()]
    return "\n".join(lines)


def _line(title: str, figure: dict[str, float | None], width: int) -> str:
    value, low, high = figure["value"], figure["low"], figure["high"]
    interval = "-" if low is None or high is None else f"{low:.3f} to {high:.3f}"
    return f"  {title:<{width}}{'-' if value is None else f'{value:.4f}':>10}   {interval}"
