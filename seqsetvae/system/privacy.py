"""Strips absolute paths from shared files: a path can hold the name of a user, of a project or of a computer.

docs/privacy.md says which files of a run hold what.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

# From a slash (or ../ or ~user/) that begins a word to the last slash before its end. Links (https://...), closing tags
# and other relative paths do not begin with a slash.
_BEGIN = r"(?<![\w<:/.~+=*-])"
_PARENT = r"(?:\.\.|~(?:[A-Za-z]\w*)?)"
_FOLDERS = re.compile(
    rf"{_BEGIN}(?:{_PARENT}?/|[A-Za-z]:\\)(?:[\w.~@%+-][^\s/\\<>\"']*[/\\])+|{_BEGIN}{_PARENT}/(?=[\w.])",
)
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # the last four are the wide forms of the first
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_ESCAPED = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;"})  # as in a page


def without_folders(text: str, known: Iterable[str] = ()) -> str:
    """A text in which absolute paths are cut to their last part.

    Args:
        text: plain, or HTML.
        known: absolute paths that may be in it, such as those of a run. Where a path has a space, only these show where
            the path ends.

    >>> without_folders("--ckpt /home/ada/outputs/run-1 of outputs/run-2, see https://pytorch.org/docs/")
    '--ckpt run-1 of outputs/run-2, see https://pytorch.org/docs/'
    >>> without_folders("/home/ada l/my run/best.ckpt", ["/home/ada l/my run"])
    'best.ckpt'
    """
    for folder in _unusual_folders(known):
        quoted = folder.replace("'", "'\"'\"'")  # as shlex.quote has it
        for form in (folder, quoted):
            text = text.replace(f"{form.translate(_ESCAPED)}/", "/_/").replace(f"{form}/", "/_/")
    return _FOLDERS.sub("", text)


def _unusual_folders(paths: Iterable[str]) -> list[str]:
    """Paths and their parents that have a space or another sign at which the end of a path cannot be told from text."""
    folders = {folder.as_posix() for path in map(Path, paths) for folder in (path, *path.parents) if folder.name}
    return sorted((each for each in folders if not _FOLDERS.fullmatch(f"{each}/")), key=len, reverse=True)


def as_cell(value: Any) -> Any:
    """A cell of a table for others: a text that a spreadsheet would run as a formula gets an apostrophe before it.

    Numbers, and texts that are numbers, stay as they are. `from_cell` is the reverse.

    >>> as_cell("=1+1"), as_cell("-1+1"), as_cell("-1.5"), as_cell("P-1"), as_cell(-1.5)
    ("'=1+1", "'-1+1", '-1.5', 'P-1', -1.5)
    """
    runs = isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value)
    return f"'{value}" if runs else value


def from_cell(text: str) -> str:
    """
    >>> from_cell("'=1+1"), from_cell("'a'"), from_cell(as_cell("'=1"))
    ('=1+1', "'a'", "'=1")
    """
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def absolute_paths(content: Any) -> Iterator[str]:
    """The absolute paths in what a JSON file holds."""
    if isinstance(content, str) and Path(content).is_absolute():
        yield content
    elif isinstance(content, dict | list):
        for part in content.values() if isinstance(content, dict) else content:
            yield from absolute_paths(part)


def checkpoint_names(checkpoints: Sequence[Path]) -> list[str]:
    """Names of checkpoints for results: run folder and file, or as much of the paths as tells them apart."""
    plain = [not path.is_absolute() and ".." not in path.parts for path in checkpoints]
    names = [str(path) if keep else "/".join(path.parts[-3:]) for path, keep in zip(checkpoints, plain, strict=True)]
    if len(set(names)) == len(names) or len(set(checkpoints)) == 1:
        return names
    paths = [Path(os.path.abspath(path)) for path in checkpoints]  # noqa: PTH100, links are not to be followed
    shared = Path(os.path.commonpath(paths))
    return [path.relative_to(shared).as_posix() for path in paths]
