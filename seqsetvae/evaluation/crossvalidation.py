"""Results of cross-validation: predictions by fold, and metrics over folds. Importing this imports no torch.

Legend: n stays of a fold, R resamples, K seeds of the trainings of a model (1 for a baseline), O outputs of a model.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqsetvae.evaluation.findings import IN_WORDS, not_worse, verdict_lines, verdict_of_small_data, worse_than
from seqsetvae.evaluation.results import resampled_unit
from seqsetvae.evaluation.statistics import Interval, bootstrap
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.scores import Floats, Ints, MetricValues, title_of
from seqsetvae.tasks.spec import Spec, one_label

REFERENCE = "boosted trees"  # the baseline that differences are taken to
PART = " alone"  # ends the name of a member of a model that is an average
NOT_MODELS = ("stay_id", "label")
SUBJECT = "subject_id"

Columns = dict[str, np.ndarray]  # of one fold, see `as_columns`; the outputs of several trainings are [K, n]


def as_columns(spec: Spec, stay_id: Ints, target: Floats, outputs: Mapping[str, Floats]) -> Columns:
    """Stays [n], labels [n, 1 or more] and outputs [n, O] of each model as columns.

    They are stay_id, label (or `label NAME` of each), and MODEL, the log-odds (or MODEL[0], MODEL[1], ...).
    """
    labels = [each.astype(np.int64) if spec.outputs is None else each for each in target.T]
    columns = dict(zip(_labels(spec), labels, strict=True))
    for model, output in outputs.items():
        columns |= dict(zip(_columns_of(model, spec), output.T, strict=True))
    return {"stay_id": stay_id, **columns}


def _labels(spec: Spec) -> list[str]:
    return ["label"] if spec.outputs is None else [f"label {name}" for name in spec.names]


def _columns_of(model: str, spec: Spec) -> list[str]:
    return [model] if spec.width == 1 else [f"{model}[{k}]" for k in range(spec.width)]


def is_output(column: str) -> bool:
    """Whether a column holds outputs of a model."""
    return column not in (*NOT_MODELS, SUBJECT) and not column.startswith("label ")


def model_of(column: str) -> str:
    """The name of the model whose outputs a column holds."""
    return column.partition("[")[0]


def as_csv(columns: Columns) -> bytes:
    """The predictions of a fold as a CSV file; floats read back to the same bits."""
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return "".join(",".join(map(str, row)) + "\n" for row in [tuple(columns), *rows]).encode()


def read_columns(file: Path) -> Columns:
    """Read the text that `as_csv` made."""
    with file.open(encoding="utf-8", newline="") as stream:
        names, *rows = csv.reader(stream)
    columns = zip(names, zip(*rows, strict=True), strict=True)
    return {name: np.array([(int if name in NOT_MODELS else float)(value) for value in of]) for name, of in columns}


def results(folds: Sequence[Columns], first: str | None = None, specs: Sequence[Spec] | None = None) -> dict[str, Any]:
    """The primary metrics of each model, such as AUROC and AUPRC: mean, SDs, bootstrap intervals, paired differences.

    A resample draws subjects with replacement, and each fold is scored on its own stays among them. A subject is drawn
    with all of its stays, and a stay with its predictions in all partitions and by all seeds.

    Args:
        folds: the columns of each, perhaps with subject_id [n] (else each stay is of another subject).
        first: a model that the others are compared with, besides the baselines.
        specs: the task, as each fold has it; by default one binary label.
    """
    table = _Table(folds, specs or [one_label()] * len(folds))
    others = {**_baselines(table), "difference_to_first": first}
    pairs = {
        kind: [model for model in table.models if other in table.models and model != other]
        for kind, other in others.items()
    }

    def metrics(weights: Floats) -> MetricValues:
        own = {model: table.means(model, weights) for model in table.models}
        values = {f"{name} of {model}": own[model][name] for model in own for name in table.metrics}
        for kind, models in pairs.items():
            other = own.get(others[kind] or "", {})
            for model in models:
                values |= {f"{kind}: {name} of {model}": own[model][name] - other[name] for name in table.metrics}
        return values

    intervals = bootstrap(table.strata, metrics, subject=table.subject)
    entries: dict[str, Any] = {}
    for model in table.models:
        runs = table.by_run(model, np.ones((1, len(table.strata))))
        entries[model] = {name: _plain(intervals[f"{name} of {model}"], runs[name][..., 0]) for name in table.metrics}
        for kind in (kind for kind in pairs if model in pairs[kind]):
            entries[model][kind] = {name: intervals[f"{kind}: {name} of {model}"].as_plain() for name in table.metrics}
    counts = {"folds": len(folds), "predictions": len(table.strata)}
    if table.is_binary:
        counts["positives"] = int(table.strata.sum())
    verdict = _verdict(entries, _baselines(table), table)
    about = counts | resampled_unit(table.subject, len(table.strata)) | {"first": first, "primary": table.metrics}
    return {IN_WORDS: verdict, **about, "models": entries}


def _baselines(table: _Table) -> dict[str, str]:
    """The baselines of the task, by the name of the differences to them."""
    names = [REFERENCE, *(name for name in table.task.baselines(table.specs[0]) if name != REFERENCE)]
    return {"difference" + (f"_to_{name.replace(' ', '_')}" * (name != REFERENCE)): name for name in names}


def _verdict(entries: Mapping[str, Any], baselines: Mapping[str, str], table: _Table) -> str:
    """A sentence for each model that a baseline is better than; of few stays, what is said of them first."""
    there = {kind: name for kind, name in baselines.items() if name in entries}
    models = [name for name in entries if name not in baselines.values() and not name.endswith(PART)]
    others = {
        model: {name: {"figures": entries[name], "difference": entries[model][kind]} for kind, name in there.items()}
        for model in models
    }
    worse = filter(None, (worse_than(model, entries[model], others[model]) for model in models))
    compared = " ".join(worse) or not_worse(there.values())
    if not models:
        return compared
    _, first = np.unique(table.stay_id, return_index=True)
    stays, positives = len(first), int(table.strata[first].sum())
    metrics = {name: entries[models[0]][name] for name in table.metrics}
    smallest = min(positives, stays - positives) if table.is_binary else None
    text = verdict_of_small_data(stays, smallest, metrics, others[models[0]], compared)
    return f"{models[0]}: {text}" if len(models) > 1 and text != compared else text


class _Table:
    """The predictions of all folds, one after the other."""

    def __init__(self, folds: Sequence[Columns], specs: Sequence[Spec]) -> None:
        self.specs, self.task = specs, TASKS[specs[0].task]
        self.is_binary, self.metrics = specs[0].outputs is None, list(self.task.primary(specs[0]))
        pairs = list(zip(folds, specs, strict=True))
        targets = [np.stack([fold[name] for name in _labels(spec)], axis=1).astype(np.float64) for fold, spec in pairs]
        self.strata = np.concatenate([self.task.strata(target) for target in targets])
        self.stay_id = np.concatenate([fold["stay_id"] for fold in folds])
        self.subject = np.concatenate([fold.get(SUBJECT, fold["stay_id"]) for fold in folds])
        self.models = list(dict.fromkeys(model_of(name) for name in folds[0] if is_output(name)))
        ends = np.cumsum([len(target) for target in targets]).tolist()
        self._places = [slice(end - len(target), end) for end, target in zip(ends, targets, strict=True)]
        self._metrics = {
            model: [
                [
                    self.task.weighted_metrics(spec, output, target, None, only_primary=True)
                    for output in np.stack([np.atleast_2d(fold[name]) for name in _columns_of(model, spec)], axis=-1)
                ]
                for (fold, spec), target in zip(pairs, targets, strict=True)
            ]
            for model in self.models
        }

    def by_run(self, model: str, weights: Floats) -> MetricValues:
        """Metrics of a model with these weights [R, stays of all folds], by fold and seed: [folds, K, R]."""
        runs = [
            [each(weights[:, place]) for each in of_fold]
            for of_fold, place in zip(self._metrics[model], self._places, strict=True)
        ]
        return {name: np.array([[run[name] for run in of_fold] for of_fold in runs]) for name in self.metrics}

    def means(self, model: str, weights: Floats) -> MetricValues:
        """Means of the metrics over folds and seeds: [R]."""
        return {name: values.mean(axis=1).mean(axis=0) for name, values in self.by_run(model, weights).items()}


def _plain(interval: Interval, runs: Floats) -> dict[str, Any]:
    """A metric for JSON, with its values by run [folds, K]; what varies over seeds is the mean over the folds."""
    by_fold, by_seed = runs.mean(axis=1), runs.mean(axis=0)
    several = len(by_seed) > 1
    return interval.as_plain() | {
        "sd_over_folds": float(np.std(by_fold)),
        "by_fold": by_fold.tolist(),
        "sd_over_seeds": float(np.std(by_seed, ddof=1)) if several else None,
        "by_seed": by_seed.tolist() if several else None,
    }


def result_lines(result: Mapping[str, Any]) -> list[str]:
    """The table for the terminal."""
    models, first, metrics = result["models"], result["first"], result["primary"]
    seeds = max(len(entry[metrics[0]]["by_seed"] or [0]) for entry in models.values())
    spread = ["over folds"] * (result["folds"] > 1) + [f"over {seeds} seeds"] * (seeds > 1)
    name = max(map(len, models))
    titles = [title_of(metric) for metric in metrics]
    cell = max(len(text) for entry in models.values() for text in (*titles, *(_cell(entry[each]) for each in metrics)))
    about = " and ".join(titles)
    positives = f", {result['positives']:,} positive" if "positives" in result else ""
    rows = [
        *verdict_lines(result),
        f"{result['folds']} folds, {result['predictions']:,} predictions{positives}; "
        f"{'mean (SD) ' if spread else 'one training'}{' and '.join(spread)}; "
        f"[95 % intervals] over {result['resampled']}",
        f"{'':{name}}  {'  '.join(f'{title:{cell}}' for title in titles)}  difference to {REFERENCE}, {about}",
    ]
    for model, entry in models.items():
        cells = "  ".join(f"{_cell(entry[metric]):{cell}}" for metric in metrics)
        rows.append(f"{model:{name}}  {cells}  {_differences(entry.get('difference', {}))}")
    if first is not None:
        rows.append(f"\nDifference to {first}, {about}")
        compared = {model: entry.get("difference_to_first", {}) for model, entry in models.items() if model != first}
        rows += [f"{model:{name}}  {_differences(difference)}" for model, difference in compared.items()]
    return rows + [f"⚠️  {each['text']}" for each in result.get("findings", ())]


def _cell(entry: Mapping[str, Any]) -> str:
    """A mean with its SDs and its interval."""
    over_folds = entry["sd_over_folds"] if len(entry["by_fold"]) > 1 else None
    spread = [f"{each:.4f}" for each in (over_folds, entry["sd_over_seeds"]) if each is not None]
    interval = "" if entry["low"] is None else f" [{entry['low']:.4f}, {entry['high']:.4f}]"
    return f"{entry['value']:.4f}" + (f" ({'; '.join(spread)})" if spread else "") + interval


def _differences(difference: Mapping[str, Any]) -> str:
    """Differences of the metrics, without an interval where there is none."""
    cells = [
        f"{each['value']:+.4f}" + ("" if each["low"] is None else f" [{each['low']:+.4f}, {each['high']:+.4f}]")
        for each in difference.values()
    ]
    return "  ".join(cells)
