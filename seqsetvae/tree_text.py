"""The text of boosted trees in a checkpoint, checked before LightGBM reads it.

LightGBM's parser believes every count and index that it reads: a damaged text can end or hang the process. So all that
a prediction depends on is checked here, and LightGBM gets a text that is written anew from it, without the rest.

Legend: L leaves of a tree.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

_END = "end of trees"
_HEADER = {  # what its lines may hold: trees of one binary label
    "version": "v[0-9]",
    "num_class": "1",
    "num_tree_per_iteration": "1",
    "label_index": "0",
    "max_feature_idx": "[0-9]{1,6}",
    "objective": "binary sigmoid:1",
    "feature_names": ".*",
    "feature_infos": ".*",
    "tree_sizes": "[0-9 ]+",
}
_WHOLE = "split_feature", "decision_type", "left_child", "right_child"  # L - 1 whole numbers each
_STATISTICS = "split_gain", "leaf_weight", "leaf_count", "internal_value", "internal_weight", "internal_count"
_FIXED = {"num_cat": "0", "is_linear": "0"}  # no categories, no linear models in leaves
_KEYS = {"num_leaves", *_WHOLE, "threshold", "leaf_value", *_STATISTICS, *_FIXED, "shrinkage"}
_WHOLE_NUMBER = re.compile("-?[0-9]{1,9}")
_NUMBER = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,40})?(e[-+]?[0-9]{1,3})?")
# Decision types of numbers: bit 0 would be a category; bit 1 is the side of missing values, 2 and 3 say which they are.
_NUMERIC = range(0, 12, 2)


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
    if not end or not trees or len(trees) != len(header["tree_sizes"].split()):
        raise ValueError("trees are missing")
    columns = int(header["max_feature_idx"]) + 1
    blocks = [f"Tree={number}\n{_checked_tree(tree, number, columns)}\n\n\n" for number, tree in enumerate(trees)]
    return _written(header, blocks, columns), columns


def _lines(text: str, names: set[str]) -> dict[str, str]:
    """The lines NAME=VALUE of a part. Raises ValueError unless each of these names is there once, and no other."""
    pairs = [line.partition("=")[::2] for line in text.split("\n") if line]
    found = dict(pairs)
    if len(found) < len(pairs) or found.keys() != names:
        odd = sorted(found.keys() ^ names) or ["a line that occurs twice"]
        raise ValueError(f"missing or unknown: {', '.join(odd)[:60]!r}")
    return found


def _checked_tree(text: str, number: int, columns: int) -> str:
    """The lines of a tree that a prediction depends on. Raises ValueError."""
    try:
        stated, _, rest = text.partition("\n")
        if stated != str(number):
            raise ValueError(f"it has the number {stated:.20}")
        lines = _lines(rest, _KEYS)
        (leaves,) = _whole(lines, "num_leaves", 1)
        _check_nodes(lines, leaves, columns)
    except ValueError as error:
        raise ValueError(f"tree {number}: {error}") from None
    splits = (*_WHOLE, "threshold") if leaves > 1 else ()
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
