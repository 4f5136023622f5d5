"""The config file: which one is read, its values, its comments (the help texts), and the command that prints it."""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from seqsetvae.settings.kinds import exists
from seqsetvae.system.errors import InputError

HELP = "print the config file as it came, to save and edit"
NEEDS = ()
FLAG = "config"
SHIPPED = Path(__file__).parents[2] / "finetune_config_optimized.py"  # beside the package
RESTORE = "The command config prints the file as it came with the program."


@dataclass(frozen=True, kw_only=True)
class Settings:
    """No settings."""


def problems(settings: Settings) -> list[str]:
    return []


def run(settings: Settings) -> None:
    """Print the config file that came with the program."""
    print(SHIPPED.read_text(encoding="utf-8"), end="")


def find_config(words: Sequence[str], shipped: Path) -> tuple[Path, list[str]]:
    """(the config file of a call, its words without --config).

    It is --config FILE, else the file of this name in the working directory, else the one that came with the program,
    which the command `config` prints.

    Raises:
        InputError: --config is there more than once, or without a .py file.
    """
    files: list[str] = []
    others: list[str] = []
    left = list(words)
    while left:
        flag, equals, value = (word := left.pop(0)).partition("=")
        if flag != f"--{FLAG}":
            others.append(word)
        else:
            files.append(value if equals or not left else left.pop(0))
    if len(files) > 1 or not all(file.endswith(".py") for file in files):
        raise InputError(f"{FLAG}: received {' '.join(files)!r}; allowed: one .py file")
    if files:
        return Path(files[0]).expanduser(), others
    here = Path(shipped.name)
    is_another = exists(here) and not (shipped.exists() and here.samefile(shipped))
    return (here if is_another and list(words[:1]) != [FLAG] else shipped), others


def load_config(file: Path) -> ModuleType:
    """The config file as a module, whose name is that of the file.

    Raises:
        InputError: the file is missing or cannot be read, or running it ends in any exception.
    """
    module = ModuleType(file.stem)
    module.__file__ = str(file)
    try:
        with tokenize.open(file) as stream:  # a comment in another encoding could not be shown by --help
            text = stream.read()
        exec(compile(text, file, "exec"), vars(module))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit, which would end the command with status 0 and nothing done
        raise import_error(file, error) from error
    return module


def help_comments(config: ModuleType) -> dict[str, tuple[str, str]]:
    """The section and the comment of each assignment of a config module: {name: (section, comment)}."""
    texts: dict[str, tuple[str, str]] = {}
    name, section = "", ""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(inspect.getsource(config)).readline))
    except (OSError, TypeError, SyntaxError, tokenize.TokenError):  # an empty file has no source
        tokens = []
    for token in tokens:
        if token.type == tokenize.NAME and token.start[1] == 0:
            name = token.string
        elif token.type == tokenize.COMMENT and token.start[1] == 0:
            section = token.string.strip("#- ")
        elif token.type == tokenize.COMMENT:
            texts[name] = (section, token.string.lstrip("# "))
    return texts


def repeated_settings(config: ModuleType) -> dict[str, list[int]]:
    """The lines of the settings that a config module sets more than once."""
    try:
        tree = ast.parse(inspect.getsource(config))
    except (OSError, TypeError, SyntaxError):
        return {}
    lines: dict[str, list[int]] = {}
    for statement in tree.body:
        for target in statement.targets if isinstance(statement, ast.Assign) else ():
            if isinstance(target, ast.Name):
                lines.setdefault(target.id, []).append(statement.lineno)
    return {name: numbers for name, numbers in lines.items() if len(numbers) > 1}


def import_error(file: Path, error: BaseException) -> InputError:
    """The error for a config file that cannot be read: the line, the reason, and what such a file may hold."""
    if isinstance(error, FileNotFoundError) and not exists(file):
        return InputError(f"{file}: no such file. {RESTORE}")
    line = error.lineno if isinstance(error, SyntaxError) else _line_in(file, error)
    place = f"{file}, line {line}" if line else f"{file}"
    reason = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    if isinstance(error, SystemExit):
        reason = f"the file ends the program (SystemExit: {error.code})"
    elif not isinstance(error, SyntaxError):
        reason = f"{type(error).__name__}: {reason}"
    encoding = " It must be saved as UTF-8." if "codec" in reason or "encoding" in reason else ""
    return InputError(
        f"{place}: cannot be read: {reason}.{encoding} The config file must consist of lines such as: batch_size = 8"
    )


def _line_in(file: Path, error: BaseException) -> int | None:
    """The line of the file at which the error was raised."""
    if isinstance(error, UnicodeDecodeError):
        return error.object.count(b"\n", 0, error.start) + 1
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == file.name]
    return frames[-1].lineno if frames else None
