"""The config file: plain assignments with a comment each, all of them declared and read, and one error for a fault."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import MISSING
from pathlib import Path
from types import ModuleType

import pytest

import finetune_config_optimized as config
import train_optimized
from seqsetvae.cli import MODES
from seqsetvae.cli import config as config_file
from seqsetvae.cli.command_line import parser, settings_of
from seqsetvae.models import ArchitectureSettings
from seqsetvae.settings.old_names import OLD_NAMES, old_name
from tests.command import argv, call, change_config, command, refused

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(config.__file__).read_text(encoding="utf-8")
TREE = ast.parse(SOURCE)
LINES = [name for name, item in settings_of(MODES).items() if item.is_config_line]


def test_the_config_is_a_docstring_and_plain_assignments_each_once():
    first, *rest = TREE.body
    assert isinstance(first, ast.Expr)
    assert ast.get_docstring(TREE)
    names = []
    for statement in rest:
        assert isinstance(statement, ast.Assign), ast.unparse(statement)
        assert len(statement.targets) == 1
        assert isinstance(statement.targets[0], ast.Name)
        assert statement.lineno == statement.end_lineno
        ast.literal_eval(statement.value)  # a constant, nothing computed
        names.append(statement.targets[0].id)
    assert sorted(names) == sorted(LINES)


def test_every_setting_has_a_comment_on_its_line():
    comments = config_file.help_comments(config)
    assert comments.keys() == set(LINES)
    lines = {line.split(" = ")[0]: line for line in SOURCE.splitlines() if " = " in line}
    for name, (section, comment) in comments.items():
        assert lines[name].endswith(f"  # {comment}")
        assert len(comment) > 10
        assert section


def test_defaults_in_the_code_are_the_values_of_the_config_file():
    """A value counts as the user's choice if it is not as shipped, so the two must agree."""
    known = settings_of(MODES)
    shipped = {name: known[name].default for name in LINES if known[name].default is not MISSING}
    assert {"batch_size", "lr", "max_epochs", "keep", "latent_dim"} <= shipped.keys()
    assert {name: getattr(config, name) for name in shipped} == shipped


def test_every_setting_is_read():
    """Declaring a setting is not enough: some code outside the declarations must read it."""
    read = {
        node.attr
        for file in [*ROOT.glob("*.py"), *(ROOT / "seqsetvae").rglob("*.py")]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    assert settings_of(MODES).keys() <= read | {"mode", "override"}  # these two are read by name


def test_defaults_are_those_that_the_diagnosis_asks_for():
    assert config.cls_head_lr == 3e-4 > config.lr
    assert (config.lr_factor, config.lr_patience, config.min_lr, config.es_patience) == (0.8, 4, 1e-6, 8)
    assert config.batch_size >= 4


# ------------------------------------------------------------------------------------------------ edited by the user


def _with_config(folder: Path, content: bytes | None, *words: str) -> tuple[int, str, str]:
    """(status, stdout, stderr) with a config file of this content; None: without one."""
    file = folder / "finetune_config_optimized.py"
    if content is not None:
        file.write_bytes(content)
    return call([*words, "--config", str(file)])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"raise SystemExit(0)\n", "line 1: cannot be read: the file ends the program (SystemExit: 0)"),
        (b"import sys\nsys.exit()\n", "line 2: cannot be read: the file ends the program (SystemExit: None)"),
        (b"batch_size = 8\n1 / 0\n", "line 2: cannot be read: ZeroDivisionError: division by zero"),
        (b"batch_size = eight\n", "line 1: cannot be read: NameError: name 'eight' is not defined"),
        (b"import no_such_module\n", "line 1: cannot be read: ModuleNotFoundError: No module named 'no_such_module'"),
        (b"seed = 1\nbatch_size = = 8\n", "line 2: cannot be read: invalid syntax"),
        (b"batch_size = 8\n  lr = 1\n", "line 2: cannot be read: unexpected indent"),
        (b"batch_size = 8\n\0\n", "null bytes"),
        ("label_name = 'tödlich'\n".encode("latin-1"), "It must be saved as UTF-8."),
        (SOURCE.encode() + b"# caf\xe9\n", "It must be saved as UTF-8."),
        (b"", "finetune_config_optimized.py: contains no settings."),
        (b"# nothing but a comment\n", "finetune_config_optimized.py: contains no settings."),
        (None, "finetune_config_optimized.py: no such file."),
    ],
    ids=[
        "SystemExit", "sys.exit", "an exception", "an undefined name", "a missing import", "a syntax error",
        "an indentation error", "NUL", "Latin-1", "Latin-1 in a comment", "empty", "a comment alone", "no file",
    ],
)  # fmt: skip
def test_a_fault_in_the_config_file_is_one_error(tmp_path, content, expected):
    status, said, errors = _with_config(tmp_path, content, "--mode", "finetune")
    assert (status, said) == (2, "")
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    assert "finetune_config_optimized.py" in line
    assert expected in line


@pytest.mark.parametrize(
    ("typed", "words", "said", "seed"),
    [
        ("seqsetvae", [], "Settings: {shipped}", 42),
        ("seqsetvae", ["--config", "own/my_config.py"], "Settings: own/my_config.py", 7),
        ("seqsetvae", ["--config=own/my_config.py", "--seed", "9"], "Settings: own/my_config.py", 9),
        ("seqsetvae", ["HERE"], "Settings: finetune_config_optimized.py", 8),
        ("train_optimized.py", [], "", 42),
        ("train_optimized.py", ["HERE"], "Settings: finetune_config_optimized.py", 8),
        ("train_optimized.py", ["HERE", "--config", "own/my_config.py"], "Settings: own/my_config.py", 7),
    ],
)
def test_which_config_file_is_read_and_that_it_is_said(tmp_path, monkeypatch, capsys, typed, words, said, seed):
    """HERE: the working directory has one. Nothing is said of the one beside the script that was typed."""
    (tmp_path / "own").mkdir()
    files = {"own/my_config.py": 7} | ({"finetune_config_optimized.py": 8} if "HERE" in words else {})
    for name, value in files.items():
        (tmp_path / name).write_text(SOURCE.replace("\nseed = 42 ", f"\nseed = {value} "), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    seen: list[int] = []
    monkeypatch.setattr("seqsetvae.runs.pretrain.run", lambda settings: seen.append(settings.run.seed))
    rest = [word for word in words if word != "HERE"]
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/{typed}", "pretrain", "--data_dir", str(tmp_path), *rest])
    assert train_optimized.main() == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines == ([said.format(shipped=config.__file__)] if said else [])
    assert seen == [seed]
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--lr", "fast"])
    assert train_optimized.main() == 2  # then too, and first
    assert capsys.readouterr().err.splitlines()[: len(lines)] == lines


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--config"], "config: received ''; allowed: one .py file"),
        (["--config", "a.txt"], "config: received 'a.txt'; allowed: one .py file"),
        (["--config", "a.py", "--config=b.py"], "config: received 'a.py b.py'; allowed: one .py file"),
        (["--config", "gone.py"], "gone.py: no such file. The command config prints the file as it came with"),
    ],
)
def test_a_config_file_that_cannot_be_meant_is_one_error(words, expected):
    status, said, errors = call(["pretrain", *words])
    assert (status, said) == (2, "")
    assert errors.startswith(f"error: {expected}")


def test_the_command_config_prints_the_file_also_into_the_place_that_is_read(tmp_path):
    """A shell makes the file, empty, before the command runs."""
    script, out = ROOT / "train_optimized.py", tmp_path / "finetune_config_optimized.py"
    with out.open("wb") as file:
        subprocess.run([sys.executable, script, "config"], cwd=tmp_path, stdout=file, check=True)
    assert out.read_text(encoding="utf-8") == SOURCE
    done = subprocess.run([sys.executable, script, "pretrain"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, "data_dir: not given" in done.stderr) == (2, True)


@pytest.mark.parametrize(("typed", "shown"), [("seqsetvae", "seqsetvae"), ("x.py", "python train_optimized.py")])
def test_help_has_the_name_that_was_typed(monkeypatch, typed, shown):
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/{typed}"])
    text = parser(config, MODES, None).format_help()
    assert text.startswith(f"usage: {shown} COMMAND")
    assert f"\n  {shown} --resume RUN_FOLDER\n" in text


def test_a_misspelled_setting_costs_one_error(monkeypatch, pretrained):
    monkeypatch.delattr(change_config(monkeypatch, batch_sise=16), "batch_size")
    _, _, errors = command("finetune", pretrained_ckpt=pretrained, data_dir=pretrained.parent)
    expected = "batch_sise: no such setting (in finetune_config_optimized.py); did you mean batch_size?"
    assert errors.splitlines()[1:] == [f"  {expected}"]


def test_values_that_no_type_can_hold_are_problems(monkeypatch):
    change_config(monkeypatch, lr=10**400, output_root_dir="out\0put", max_sets=[3], seed=object)
    errors = refused(command("finetune"))
    for name in ("lr", "output_root_dir", "max_sets", "seed"):
        assert f"\n  {name}: received " in errors


def test_the_config_is_validated_like_flags(monkeypatch, pretrained):
    module = change_config(
        monkeypatch,
        batch_size=8.5,
        lr="fast",
        max_epochs=float("inf"),
        min_lr=float("nan"),
        deterministic=1,
        batch_sise=4,
        seed=True,
        class_weight=None,
    )
    monkeypatch.delattr(module, "loss")
    _, _, errors = call(argv(mode="finetune", pretrained_ckpt=pretrained, data_dir=pretrained.parent))
    for line in (
        "batch_size: received 8.5",
        "lr: received 'fast'",
        "max_epochs: received inf",
        "min_lr: received nan",
        "deterministic: received 1;",
        "batch_sise: no such setting (in finetune_config_optimized.py); did you mean batch_size?",
        "loss: missing in finetune_config_optimized.py",
        "seed: received True",
        "class_weight: received None",
    ):
        assert line in errors


def test_a_call_argument_is_no_line_of_the_config_file(monkeypatch):
    change_config(monkeypatch, split="test", pretrained_ckpt="x.ckpt")
    _, _, errors = command("finetune")
    for name in ("split", "pretrained_ckpt"):
        assert errors.count(f"{name}: ") == 1
        assert f"{name}: is a flag and no line of finetune_config_optimized.py; remove the line" in errors


def test_a_setting_that_the_file_sets_twice_is_an_error(tmp_path):
    """As the old config did with lr; Python would take the last line without a word."""
    errors = refused(_with_config(tmp_path, SOURCE.encode() + b"lr = 1e-4\n", "--mode", "finetune", "--data_dir", "."))
    line = SOURCE[: SOURCE.index("\nlr = ")].count("\n") + 2
    assert f"lr: set in lines {line}, {SOURCE.count(chr(10)) + 1} of finetune_config_optimized.py" in errors


def test_a_name_of_the_old_scripts_is_answered_in_the_config_and_as_a_flag(monkeypatch, pretrained):
    """One line for each."""
    given = {"pretrained_ckpt": pretrained, "data_dir": pretrained.parent}
    names = dict.fromkeys([*OLD_NAMES, "scheduler_gamma", "early_stopping_delta", "focal_weight"], 1)
    texts = {name: getattr(old_name(name), "text", None) for name in names}
    errors = refused(command("finetune", **given, **names))
    assert errors.splitlines()[1:] == [f"  --{name}: no such flag; {texts[name]} (docs/moving.md)" for name in names]
    change_config(monkeypatch, **names)
    _, _, errors = command("finetune", **given)
    where = "(in finetune_config_optimized.py)"
    expected = [f"  {name}: no such setting {where}; {texts[name]} (docs/moving.md)" for name in names]
    assert errors.splitlines()[1:] == expected
    assert "--enable-torch-compile: no such flag; now compile_model" in call(["--enable-torch-compile"])[2]


def test_old_names_lead_to_settings_that_exist_and_are_documented():
    known = settings_of(MODES).keys()
    page = (ROOT / "docs" / "moving.md").read_text(encoding="utf-8")
    for name, now in OLD_NAMES.items():
        assert name not in known
        assert now.setting is None or now.setting in known
        assert f"`{name}`" in page


def test_the_chinese_page_answers_old_names_and_says_what_changes_results():
    section = (ROOT / "docs" / "moving.zh.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall("`-*(\\w+)`", row[0])}
    assert {"early_stopping_patience", "use_focal_loss", "enable_torch_compile", "output_dir"} <= named
    assert named <= OLD_NAMES.keys() | {"pretrained_ckpt"}
    flags = set(re.findall(r"--(\w+)", section)) - {"output_dir"}
    assert {"loss", "tuning", "batch_size", "gradient_clip_val", "precision"} <= flags <= settings_of(MODES).keys()
    assert "--batch_size 8 --max_epochs 20 --devices 1 --compile_model" in (ROOT / "README.zh.md").read_text("utf-8")


def test_all_modes_ignore_lines_that_they_do_not_read(monkeypatch, tmp_path):
    change_config(monkeypatch, lr=0.5, loss="focal", label_smoothing=0.1)
    _, _, errors = command("pretrain", data_dir=tmp_path, es_patience=0)
    assert "lr" not in errors
    assert "label_smoothing" not in errors
    assert "es_patience: received '0'" in errors


def test_an_empty_config_module_is_one_error(monkeypatch):
    monkeypatch.setattr("train_optimized.load_config", lambda _: ModuleType("finetune_config_optimized"))
    assert command("finetune")[2].startswith("error: finetune_config_optimized.py: contains no settings")


def test_the_presets_change_the_sizes():
    shipped = {name: getattr(config, name) for name in LINES}
    full, small = (
        ArchitectureSettings(architecture="seqsetvae", preset=name, values=shipped).sizes()
        for name in ("full", "small")
    )
    assert full["latent_dim"] == config.latent_dim > small["latent_dim"]
    assert full.keys() == small.keys()
