"""The section `explanation` of evaluation.json: contributions over a split, over some stays in time, and their test.

Legend: n explained stays, K names of variables, T times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from seqsetvae.cohort import Split
from seqsetvae.evaluation.explain import LEVELS, Explainer, Explanation, Reason
from seqsetvae.evaluation.predictions import Predictions
from seqsetvae.models.variable_summaries.inputs import ABSENT, MISSING
from seqsetvae.tasks import TASKS

SHOWN = 15  # variables of a split
ALARMS = 3  # stays of each label whose course is shown, where none are chosen
TIMES = 12  # of a course, at most
COURSE_SHOWN, MOVED = 8, 3  # variables of a course, and of each step
FEWEST = 10  # stays of a mean: fewer could be recognized
REMOVED, DRAWS, TESTED = 3, 5, 100  # variables that the deletion test removes, draws of as many at random, stays

Plain = dict[str, Any]


def contributions(
    explainer: Explainer, split: Split, evaluated: Predictions, chosen: Mapping[str, int], seed: int
) -> Plain:
    """`explanation` of evaluation.json: of the evaluated stays of a split, and the course of the `chosen` ones.

    `chosen` are positions of stays in the split, by the name that a reader sees.
    """
    rng, n_sets = np.random.default_rng(seed), np.diff(split.stay_offset)
    stays = np.flatnonzero(np.isin(split.stay_id, evaluated.stay_id))
    if len(stays) > explainer.most_stays:
        stays = np.sort(rng.choice(stays, explainer.most_stays, replace=False))
    explanations = list(explainer.explain(stays, n_sets[stays]))
    return {
        "of": f"log-odds of {evaluated.spec.title}" if not evaluated.spec.std else evaluated.spec.title,
        "stays": len(explanations),
        "base": float(np.mean([explanation.base for explanation in explanations])),
        "gap": max(explanation.gap for explanation in explanations),
        "variables": variable_contributions(explanations),
        "deletion": deletion_test(explainer, explanations, stays, rng),
        "courses": [course(explainer, split, stay, name, evaluated) for name, stay in chosen.items()],
    }


def extreme_stays(split: Split, evaluated: Predictions) -> dict[str, int]:
    """The stays of highest score of each label, by name; of a task without classes those of highest and lowest."""
    score, target = evaluated.output[:, 0], evaluated.target[:, 0]
    groups = {"Highest": score, "Lowest": -score}
    if set(target.tolist()) <= {0.0, 1.0}:
        groups = {
            "True alarm": np.where(target == 1, score, -np.inf),
            "False alarm": np.where(target == 0, score, -np.inf),
        }
    names = {
        f"{name} {place + 1}": int(row)
        for name, order in groups.items()
        for place, row in enumerate(np.argsort(-order, kind="stable")[:ALARMS])
        if np.isfinite(order[row])
    }
    position = {stay: at for at, stay in enumerate(split.stay_id.tolist())}
    return {name: position[int(evaluated.stay_id[row])] for name, row in names.items()}


def variable_contributions(explanations: Sequence[Explanation]) -> list[Plain]:
    """The variables of largest mean absolute contribution, and their mean contribution by the level of a summary.

    The summary is the one of the variable that contributes most. Groups of fewer than FEWEST stays are left out.
    """
    first = explanations[0]
    totals = np.stack([explanation.totals for explanation in explanations])
    shape = len(first.names), len(first.summaries)
    of_pairs = np.zeros(shape)
    for explanation in explanations:
        pair = np.ravel_multi_index((explanation.variable, explanation.summary), shape)
        of_pairs += np.bincount(pair, np.abs(explanation.contribution), of_pairs.size).reshape(shape)
    strength, rows = np.abs(totals).mean(axis=0), []
    for variable in np.argsort(-strength, kind="stable")[:SHOWN]:
        summary = int(of_pairs[variable].argmax())
        level = np.array([explanation.reason(variable, summary).level for explanation in explanations])
        groups = {LEVELS[key]: totals[level == key, variable] for key in np.unique(level).tolist()}
        levels = {
            name: {"stays": len(of), "mean": float(of.mean())} for name, of in groups.items() if len(of) >= FEWEST
        }
        own = {"variable": first.names[variable], "summary": first.summaries[summary]}
        rows += [{**own, "mean_absolute": float(strength[variable]), "levels": levels}] * bool(strength[variable])
    return rows


def deletion_test(
    explainer: Explainer, explanations: Sequence[Explanation], stays: np.ndarray, rng: np.random.Generator
) -> Plain | None:
    """Measure how much scores fall without the variables that raise them most, and without as many random ones.

    The contributions are faithful if they fall more without the former. None if no stay has enough variables.
    """
    falls = []
    for row in rng.permutation(len(explanations))[:TESTED]:
        each = explanations[row]
        is_there = np.isin(np.arange(len(each.names)), each.variable[~np.isin(each.level, (MISSING, ABSENT))])
        (known,) = np.nonzero(is_there & np.isin(each.names, explainer.cohort.vocabulary))
        raising = known[np.argsort(-each.totals[known], kind="stable")][:REMOVED]
        if len(known) <= REMOVED or not (each.totals[raising] > 0).all():
            continue
        draws = [raising, *(rng.choice(known, REMOVED, replace=False) for _ in range(DRAWS))]
        scores = [explainer.score_without(int(stays[row]), [each.names[k] for k in draw]) for draw in draws]
        falls.append([each.score - scores[0], each.score - float(np.mean(scores[1:]))])
    if not falls:
        return None
    largest, at_random = np.array(falls).T
    return {
        "stays": len(falls),
        "variables": REMOVED,
        "largest": float(largest.mean()),
        "random": float(at_random.mean()),
        "share": float((largest > at_random).mean()),
    }


def course(explainer: Explainer, split: Split, stay: int, name: str, evaluated: Predictions) -> Plain:
    """The score of a stay from its events up to each of some times, and what moved it in between.

    What a variable contributes at a time, less what it contributed before, is its part in the change of the score; of a
    model of events the base changes too, by what was measured and when.
    """
    sets = slice(split.stay_offset[stay], split.stay_offset[stay + 1])
    hours = split.minute[sets] / 60
    wanted = np.linspace(hours[0], hours[-1], TIMES)
    n_sets = np.unique(np.searchsorted(hours, wanted, side="right"))
    explanations = list(explainer.explain(np.full(len(n_sets), stay), n_sets))
    spec, score = evaluated.spec, np.array([explanation.score for explanation in explanations])
    columns = {} if spec.std else TASKS[spec.task].columns(spec, score[:, None], evaluated.calibration)
    risk = next((values for values in reversed(columns.values()) if values is not None), score)
    totals = np.stack([explanation.totals for explanation in explanations])  # [T, K]
    largest = np.argsort(-np.abs(totals).max(axis=0), kind="stable")[:COURSE_SHOWN]
    of_stay = evaluated.target[evaluated.stay_id == split.stay_id[stay], 0]
    return {
        "name": name,
        "label": float(of_stay[0]) if len(of_stay) else None,
        "hours": hours[n_sets - 1].tolist(),
        "score": score.tolist(),
        "risk": np.asarray(risk).tolist(),
        "base": [explanation.base for explanation in explanations],
        "variables": {str(explanations[0].names[k]): totals[:, k].tolist() for k in largest},
        "moved": [[], *(_moved(*pair) for pair in pairwise(explanations))],
        "reasons": [_plain(each, each.contribution) for each in explanations[-1].strongest(COURSE_SHOWN)],
    }


def _moved(before: Explanation, after: Explanation) -> list[Plain]:
    """The variables whose contributions changed most."""
    change = after.totals - before.totals
    order = np.argsort(-np.abs(change), kind="stable")[:MOVED]
    return [_plain(after.reason(k), float(change[k])) for k in order.tolist() if change[k]]


def _plain(reason: Reason, contribution: float) -> Plain:
    return {"variable": reason.variable, "words": reason.words, "contribution": contribution}
