"""What leaves the house names no folder: a path can hold the name of a user, of a project or of a computer.

docs/privacy.md says which files of a run hold what.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

# From a slash that begins a word to the last slash before its end. Links (https://...), closing tags and relative paths
# do not begin with a slash.
_FOLDERS = re.compile(r"(?<![\w<:/.~+=*-])(?:/|[A-Za-z]:\\)(?:[\w.~@%+-][^\s/\\<>\"']*[/\\])+")


def without_folders(text: str) -> str:
    """A text in which absolute paths are cut to their last part.

    >>> without_folders("--ckpt /home/ada/outputs/run-1 of outputs/run-2, see https://pytorch.org/docs/")
    '--ckpt run-1 of outputs/run-2, see https://pytorch.org/docs/'
    """
    return _FOLDERS.sub("", text)


def checkpoint_names(checkpoints: Sequence[Path]) -> list[str]:
    """Names of checkpoints for results: run folder and file, or the whole path where those are not different."""
    names = ["/".join(path.parts[-3:]) if path.is_absolute() else str(path) for path in checkpoints]
    return names if len(set(names)) == len(names) else [str(path) for path in checkpoints]
