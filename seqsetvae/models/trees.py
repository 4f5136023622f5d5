"""Boosted trees on a table of summaries; their texts are checked before LightGBM reads them.

LightGBM's parser believes every count and index that it reads: a damaged text can end or hang the process. So all that
a prediction depends on is checked first, and LightGBM gets a text that is written anew from it, without the rest.

Legend: n stays, c columns, o outputs (one for each class, else 1), L leaves of a tree. Training is deterministic, also
over numbers of CPU cores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from seqsetvae.models.linear import Loss, log_loss
from seqsetvae.system.errors import InputError

MAX_STAYS = 100_000  # training stays that trees are grown on; memory is n x c x 4 bytes, some 600 MB here
BINARY: Mapping[str, Any] = {"objective": "binary"}
PARAMETERS: dict[str, Any] = {"verbose": -1, "deterministic": True, "force_row_wise": True}
LEAF, OF_STAYS = 20, 6000  # fewest stays in a leaf of trees of so many stays; fewer in proportion, see `of_size`
LEAST_SHARE = 0.05  # of the columns, that a tree chooses from
ROUNDS = 1600
STAGE, PATIENCE = 10, 200  # rounds between two losses; rounds without a lower one after which trees grow no further


@dataclass(frozen=True)
class Kind:
    """How trees are grown."""

    rounds: float  # times ROUNDS, at most
    columns: int  # that a tree chooses from
    parameters: Mapping[str, Any]


# Few leaves, few columns and few stays for each tree, because the summaries are many and alike (docs/quality.md).
_SMALL = {"learning_rate": 0.01, "num_leaves": 8, "bagging_fraction": 0.6, "bagging_freq": 1, "lambda_l2": 10.0}
SMALL = Kind(1, 70, _SMALL)
# Random thresholds (Geurts et al., 2006) err elsewhere, so the average gains. Each of their trees fits less.
RANDOM = Kind(2, 70, _SMALL | {"extra_trees": True})
LARGE = Kind(0.6, 200, {"learning_rate": 0.02, "num_leaves": 15, "lambda_l2": 5.0})  # much as the printed baseline
FIXED = SMALL, RANDOM  # in turn, the models of the average with fixed weights
Parts = Sequence[tuple[np.ndarray, np.ndarray]]  # rows of a table
_END = "end of trees"
_HEADER = {  # what its lines may hold
    "version": "v[0-9]",
    "num_class": "[1-9][0-9]{0,2}",
    "num_tree_per_iteration": "[1-9][0-9]{0,2}",
    "label_index": "0",
    "max_feature_idx": "[0-9]{1,6}",
    "objective": "binary sigmoid:1|regression|multiclass num_class:[1-9][0-9]{0,2}",
    "feature_names": ".*",
    "feature_infos": ".*",
    "tree_sizes": "[0-9 ]+",
}
_WHOLE = "split_feature", "decision_type", "left_child", "right_child"  # L - 1 whole numbers each
_COUNTS = "internal_count", "leaf_count"  # training stays at each node, which contributions depend on
_STATISTICS = "split_gain", "leaf_weight", "internal_value", "internal_weight"
_FIXED = {"num_cat": "0", "is_linear": "0"}  # no categories, no linear models in leaves
_KEYS = {"num_leaves", *_WHOLE, "threshold", "leaf_value", *_COUNTS, *_STATISTICS, *_FIXED, "shrinkage"}
_WHOLE_NUMBER = re.compile("-?[0-9]{1,9}")
_NUMBER = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,40})?(e[-+]?[0-9]{1,3})?")
# Decision types of numbers: bit 0 would be a category; bit 1 is the side of missing values, 2 and 3 say which they are.
_NUMERIC = range(0, 12, 2)


class BoostedTrees:
    """Gradient-boosted trees with several seeds, every other one with random thresholds; their mean counts.

    Outputs are log-odds, the logits of classes, or numbers, as the objective is.
    """

    def __init__(self, models: list[str]) -> None:
        """Models as LightGBM writes them. Raises InputError if one is none."""
        library, self.models = lightgbm(), models
        try:
            if not isinstance(models, list) or not models:
                raise ValueError("there are none")
            checked = [checked_text(model) for model in models]
            self._boosters = [library.Booster(model_str=text) for text, _ in checked]
        except (ValueError, library.basic.LightGBMError) as error:
            raise InputError(f"the boosted trees of the checkpoint are damaged ({error}). Use another copy.") from error
        self._columns = {columns for _, columns in checked}

    @classmethod
    def fit(
        cls, table: np.ndarray, label: np.ndarray, models: int, objective: Mapping[str, Any] = BINARY
    ) -> BoostedTrees:
        """Trees on a table [n, c] with NaN for missing, and labels [n]; a fixed size, so that nothing is selected."""
        kinds = [(seed, FIXED[seed % len(FIXED)]) for seed in range(models)]
        return cls([_train(table, label, seed, kind, objective).model_to_string() for seed, kind in kinds])

    @classmethod
    def of_best_length(
        cls,
        table: np.ndarray,
        label: np.ndarray,
        parts: Parts,
        kind: Kind,
        models: int,
        objective: Mapping[str, Any] = BINARY,
        loss: Loss = log_loss,
    ) -> tuple[tuple[BoostedTrees], np.ndarray]:
        """Trees with the number of rounds that has the lowest loss on held-out stays, and outputs for these [n, o].

        Each of `parts` holds the rows of the table that trees are grown on, and those that they predict.
        """
        rounds, outputs = _best_length(table, label, kind, parts, objective, loss)
        texts = [_train(table, label, seed, kind, objective, rounds).model_to_string() for seed in range(models)]
        return (cls(texts),), outputs

    def outputs(self, table: np.ndarray) -> np.ndarray:
        """[n, c] → [n, o]. Raises InputError if the trees were grown on a table of another width."""
        return self._mean(table, raw_score=True).reshape(len(table), -1)

    def contributions(self, table: np.ndarray) -> tuple[np.ndarray, float]:
        """(contribution of each column to the one output [n, c], its mean over the training stays).

        These add up to `outputs`: they are Shapley values, exact for trees (TreeSHAP, Lundberg et al., 2020).
        """
        columns = self._mean(table, pred_contrib=True)
        return columns[:, :-1], float(columns[0, -1])

    def _mean(self, table: np.ndarray, **what: bool) -> np.ndarray:
        if self._columns != {table.shape[1]}:
            raise InputError(
                f"the boosted trees of the checkpoint are damaged (they split {sorted(self._columns)} columns, and its "
                f"table has {table.shape[1]}). Use another copy."
            )
        return np.mean([booster.predict(table, **what) for booster in self._boosters], axis=0)


def _train(
    table: np.ndarray,
    label: np.ndarray,
    seed: int,
    kind: Kind,
    objective: Mapping[str, Any],
    rounds: int | None = None,
    **options: Any,
) -> Any:
    parameters = {**PARAMETERS, **objective, **kind.parameters, "seed": seed, "num_threads": torch.get_num_threads()}
    parameters |= of_size(len(table), table.shape[1], kind.columns)
    most = round(kind.rounds * ROUNDS)
    return lightgbm().train(parameters, lightgbm().Dataset(table, label), rounds or most, **options)


def _best_length(
    table: np.ndarray, label: np.ndarray, kind: Kind, parts: Parts, objective: Mapping[str, Any], loss: Loss
) -> tuple[int, np.ndarray]:
    """Number of rounds, and outputs [n, o], as `of_best_length` has them."""
    stages = [
        _stages(table, label, kind, grown_on, held_out, objective=objective, loss=loss) for grown_on, held_out in parts
    ]
    longest = max((rounds for rounds, _, _ in stages), key=len)
    total = np.zeros(len(longest))
    for (_, losses, _), (_, held_out) in zip(stages, parts, strict=True):
        total += len(held_out) * np.pad(losses, (0, len(longest) - len(losses)), "edge")
    best = int(total.argmin())
    out_of_fold = np.zeros((len(label), stages[0][2][0].shape[1]))
    for (_, _, outputs), (_, held_out) in zip(stages, parts, strict=True):
        out_of_fold[held_out] = outputs[min(best, len(outputs) - 1)]
    return longest[best], out_of_fold


def _stages(
    table: np.ndarray,
    label: np.ndarray,
    kind: Kind,
    grown_on: np.ndarray,
    held_out: np.ndarray,
    *,
    objective: Mapping[str, Any],
    loss: Loss,
) -> tuple[list[int], list[float], list[np.ndarray]]:
    """Rounds, losses and outputs of held-out stays after each STAGE rounds, until the lowest loss is long past."""
    rounds: list[int] = []
    losses: list[float] = []
    outputs: list[np.ndarray] = []

    def measure(state: Any) -> None:
        done, before = state.iteration + 1, rounds[-1] if rounds else 0
        if done % STAGE and done < state.end_iteration:
            return
        added = state.model.predict(
            table[held_out], raw_score=True, start_iteration=before, num_iteration=done - before
        ).reshape(len(held_out), -1)
        outputs.append(added + outputs[-1] if outputs else added)
        rounds.append(done)
        losses.append(float(loss(outputs[-1][None], label[held_out])[0]))
        if done - rounds[int(np.argmin(losses))] >= PATIENCE:
            raise lightgbm().callback.EarlyStopException(state.iteration, [])

    _train(table[grown_on], label[grown_on], 0, kind, objective, callbacks=[measure])
    return rounds, losses, outputs


def of_size(n_stays: int, n_columns: int, of_tree: int) -> dict[str, Any]:
    """Parameters that depend on the size of a table: with fixed ones a fact of few stays is never split off."""
    leaf = max(1, min(LEAF, LEAF * n_stays // OF_STAYS))
    share = max(LEAST_SHARE, min(1.0, of_tree / n_columns))
    return {"min_data_in_leaf": leaf, "min_data_in_bin": min(3, leaf), "feature_fraction": share}


def lightgbm() -> Any:
    """The library. Raises InputError where it is not installed, or cannot be imported."""
    try:
        import lightgbm as library
    except ImportError as error:
        raise InputError(
            "lightgbm is not installed; boosted trees (tree_models, baselines) need it: pip install lightgbm"
        ) from error
    except Exception as error:  # of whatever kind: no docstrings, no OpenMP
        raise InputError(
            f"lightgbm cannot be imported ({type(error).__name__}: {error}); boosted trees (tree_models, baselines) "
            "need it. It needs docstrings (no python -OO) and OpenMP (libgomp1, on macOS libomp)."
        ) from error
    return library


def checked_text(text: str) -> tuple[str, int]:
    """(a text that LightGBM can read and that predicts the same, the number of columns of its table).

    Raises:
        ValueError: something in the text cannot be; the message says what.
    """
    if not isinstance(text, str) or not text.startswith("tree\n"):
        raise ValueError("it is no text of LightGBM")
    body, end, _ = text.partition(f"\n{_END}\n")
    head, *trees = re.split(r"\nTree=(?=[0-9]+\n)", body)
    header = _lines(head.removeprefix("tree\n"), set(_HEADER))
    for name, allowed in _HEADER.items():
        if not re.fullmatch(allowed, header[name]):
            raise ValueError(f"{name} is {header[name]!r:.60}")
    classes = {header[name] for name in ("num_class", "num_tree_per_iteration")}
    if classes != {(re.findall("num_class:([0-9]+)", header["objective"]) or ["1"])[0]}:
        raise ValueError(f"objective is {header['objective']!r:.60} and num_class {header['num_class']!r:.60}")
    if not end or not trees or len(trees) != len(header["tree_sizes"].split()) or len(trees) % int(*classes):
        raise ValueError("trees are missing")
    columns = int(header["max_feature_idx"]) + 1
    blocks = [f"Tree={number}\n{_checked_tree(tree, number, columns)}\n\n\n" for number, tree in enumerate(trees)]
    return _written(header, blocks, columns), columns


def _lines(text: str, names: set[str]) -> dict[str, str]:
    """The lines NAME=VALUE of a part. Raises ValueError unless each of these names is there once, and no other."""
    pairs = [line.partition("=")[::2] for line in text.split("\n") if line]
    lines = dict(pairs)
    if len(lines) < len(pairs) or lines.keys() != names:
        odd = sorted(lines.keys() ^ names) or ["a line that occurs twice"]
        raise ValueError(f"missing or unknown: {', '.join(odd)[:60]!r}")
    return lines


def _checked_tree(text: str, number: int, columns: int) -> str:
    """The lines of a tree that a prediction and its contributions depend on. Raises ValueError."""
    try:
        stated, _, rest = text.partition("\n")
        if stated != str(number):
            raise ValueError(f"it has the number {stated:.20}")
        lines = _lines(rest, _KEYS)
        (leaves,) = _whole(lines, "num_leaves", 1)
        _check_nodes(lines, leaves, columns)
    except ValueError as error:
        raise ValueError(f"tree {number}: {error}") from None
    splits = (*_WHOLE, "threshold", *_COUNTS) if leaves > 1 else ()
    return "\n".join(f"{name}={lines[name]}" for name in ("num_leaves", *_FIXED, *splits, "leaf_value", "shrinkage"))


def _check_nodes(lines: dict[str, str], leaves: int, columns: int) -> None:
    """Raises ValueError unless arrays have their length, columns exist, and every node but the first is a child once.

    A child that is a node has a higher number than its parent, as LightGBM writes them, so there is no circle. One that
    is leaf k has the number -k - 1.
    """
    for name, fixed in _FIXED.items():
        if lines[name] != fixed:
            raise ValueError(f"{name} is {lines[name]!r:.20}")
    nodes = leaves - 1
    for name, length in (("leaf_value", leaves), ("threshold", nodes), ("shrinkage", 1)):
        _check_numbers(lines, name, length)
    feature, kind, left, right = (_whole(lines, name, nodes) for name in _WHOLE)
    if not all(0 <= column < columns for column in feature):
        raise ValueError(f"a split_feature is none of the {columns} columns")
    if not all(each in _NUMERIC for each in kind):
        raise ValueError("a decision_type is not that of a number")
    if any(0 <= child <= node for children in (left, right) for node, child in enumerate(children)):
        raise ValueError("its nodes form a circle")
    if nodes and sorted([*left, *right]) != [*range(-leaves, 0), *range(1, nodes)]:
        raise ValueError("its nodes form no tree")
    if nodes:  # else nothing depends on them
        counts = [*_whole(lines, "internal_count", nodes), *reversed(_whole(lines, "leaf_count", leaves))]
        if min(counts) < 1 or any(counts[n] != counts[left[n]] + counts[right[n]] for n in range(nodes)):
            raise ValueError("its counts of stays do not add up")


def _whole(lines: dict[str, str], name: str, length: int) -> list[int]:
    """So many whole numbers. Raises ValueError."""
    parts = lines[name].split(" ") if lines[name] else []
    if len(parts) != length or not all(map(_WHOLE_NUMBER.fullmatch, parts)):
        raise ValueError(f"{name} is {lines[name]!r:.60}, allowed: whole numbers, {length:,} of them")
    return list(map(int, parts))


def _check_numbers(lines: dict[str, str], name: str, length: int) -> None:
    """Raises ValueError unless there are so many numbers; a threshold may be inf, for missing values."""
    parts = lines[name].split(" ") if lines[name] else []
    good = [_is_finite(part) or (name == "threshold" and part in ("inf", "-inf")) for part in parts]
    if len(parts) != length or not all(good):
        raise ValueError(f"{name} is {lines[name]!r:.60}, allowed: finite numbers, {length:,} of them")


def _is_finite(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) and math.isfinite(float(text))


def _written(header: dict[str, str], blocks: Sequence[str], columns: int) -> str:
    """As LightGBM writes a model, with columns that are numbered."""
    lines = header | {
        "feature_names": " ".join(f"Column_{column}" for column in range(columns)),
        "feature_infos": " ".join(["none"] * columns),
        "tree_sizes": " ".join(str(len(block)) for block in blocks),
    }
    head = "\n".join(f"{name}={value}" for name, value in lines.items())
    return f"tree\n{head}\n\n{''.join(blocks)}{_END}\n"
