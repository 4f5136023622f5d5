"""Flags: they override the config file, and every problem is reported at once, each mistake once."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import finetune_config_optimized as config
import train_optimized
from seqsetvae.cli import MODES
from seqsetvae.cli import config as config_file
from seqsetvae.cli.command_line import parser, resolve, settings_of
from seqsetvae.cohort.command import _parser as data_command
from seqsetvae.settings.declare import as_plain, declared
from seqsetvae.settings.resume import FLAGS
from seqsetvae.system.errors import InputError
from tests.command import argv, call, command, refused

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, object]:
    """Flags of a fine-tuning run whose files exist."""
    (tmp_path / "file.ckpt").touch()
    return {"mode": "finetune", "pretrained_ckpt": tmp_path / "file.ckpt", "data_dir": tmp_path}


def _settings(*switches: str, **flags: object) -> dict[str, Any]:
    """The settings of a call, by name."""
    return as_plain(resolve(config, [*argv(**flags), *switches], MODES).settings)


def _problems(*words: str, **flags: object) -> str:
    with pytest.raises(InputError) as raised:
        resolve(config, [*argv(**flags), *words], MODES)
    return str(raised.value)


# ------------------------------------------------------------------------------------------------ values


def test_flags_override_the_config(files):
    plain = _settings(**files)
    assert all(plain[name] == getattr(config, name) for name in plain if hasattr(config, name) and name != "data_dir")
    changed = _settings(
        "--compile_model", **files, batch_size=16, lr=1e-5, unfreeze_after="none", max_sets=200, class_weight=2.5
    )
    expected = {"batch_size": 16, "lr": 1e-5, "unfreeze_after": None, "max_sets": 200, "class_weight": 2.5}
    assert {name: changed[name] for name in expected} == expected
    assert changed["compile_model"] is True
    assert _settings(**files, class_weight="balanced")["class_weight"] == "balanced"


def test_a_flag_may_take_several_values_side_by_side_or_repeated(tmp_path):
    files = [tmp_path / "a.ckpt", tmp_path / "b.ckpt"]
    for file in files:
        file.touch()
    given: dict[str, object] = {"mode": "evaluate", "split": "test"}
    assert _settings("--ckpt", *map(str, files), **given)["ckpt"] == [str(file) for file in files]
    assert _settings("--ckpt", str(files[0]), "--ckpt", str(files[1]), **given)["ckpt"] == [str(file) for file in files]
    assert _settings(**given, ckpt=files[0])["ckpt"] == [str(files[0])]
    assert _settings("--landmarks", "6", "12.5", **given, ckpt=files[0])["landmarks"] == [6.0, 12.5]
    assert _settings(**given, ckpt=files[0], landmarks="none")["landmarks"] is None
    for stray in ("-1", "outputs/x"):
        message = _problems("--landmarks", "6", stray, **given, ckpt=files[0])
        assert f"landmarks: received '6 {stray}'; allowed: a number above 0 or several, or None" in message
    assert "ckpt: not given; --mode evaluate needs --ckpt" in _problems("--ckpt", "none", **given)


def test_settings_cannot_be_changed_later(files):
    settings = resolve(config, argv(**files), MODES).settings
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.rates.lr = 1.0


def test_every_flag_of_the_old_command_lines_works(files, tmp_path):
    """The main job and the other flags of the old scripts."""
    for name in ("stats.csv", "oc.csv"):
        (tmp_path / name).touch()
    given = {
        **{"batch_size": 8, "max_epochs": 20, "devices": 1, "gradient_accumulation_steps": 2, "num_workers": 4},
        **{"params_map_path": str(tmp_path / "stats.csv"), "label_path": str(tmp_path / "oc.csv"), "seed": 7},
        **{"precision": "16-mixed", "strategy": "ddp", "output_root_dir": str(tmp_path / "out")},
    }
    found = _settings("--compile_model", "--deterministic", **files, **given)
    assert {name: found[name] for name in given} == given
    assert found["deterministic"] is found["compile_model"] is True


def test_old_spellings_and_values_of_switches(files):
    precisions = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "64": "64-true", "32-true": "32-true"}
    for old, new in precisions.items():
        assert _settings(**files, precision=old)["precision"] == new
    assert _settings(**files, strategy="ddp_find_unused_parameters_true")["strategy"] == "ddp"
    for flag, expected in (("true", True), ("False", False), ("FALSE", False)):
        assert _settings(**files, deterministic=flag)["deterministic"] is expected


# ------------------------------------------------------------------------------------------------ all problems at once


def test_all_problems_come_at_once_with_name_received_and_allowed():
    wrong = {"batch_size": "eight", "lr": -1, "pooling": "last", "head_pooling": "max", "label_smoothing": 2}
    message = _problems("stray", mode="finetune", **wrong, max_epochs=0)
    assert message.startswith("9 problems with the settings, nothing was read or written:")
    for line in (
        "pretrained_ckpt: not given",
        "data_dir: not given",
        "'stray': a value without a flag",
        "batch_size: received 'eight'; allowed: an integer of at least 1",
        "lr: received '-1'; allowed: a number above 0",
        "head_pooling: received 'max'; allowed: one of last, mean, last_mean",
        "--pooling: no such flag",
        "label_smoothing: received '2'; allowed: a number of at least 0 and at most 0.9",
        "max_epochs: received '0'; allowed: an integer of at least 1",
    ):
        assert line in message


def test_problems_of_settings_together_come_at_once_too(files, tmp_path):
    files["data_dir"] = tmp_path / "nowhere"
    together = {"batch_size": 2, "es_patience": 4, "min_lr": 1, "loss": "focal", "class_weight": 2}
    message = _problems(**files, **together, label_smoothing=0.1)
    assert message.startswith("6 problems")
    for line in (
        f"data_dir: received '{tmp_path / 'nowhere'}', which does not exist; allowed: an existing path",
        "batch_size: received 2; allowed: 4 or more",
        "es_patience: received 4; allowed: more than lr_patience + 1 (= 5)",
        "min_lr: received 1; allowed: at most lr (5e-05)",
        "label_smoothing: received 0.1; allowed: 0 with --loss focal",
        "class_weight: received 2.0; allowed: none with --loss focal",
    ):
        assert line in message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--batchsize", "8"], "--batchsize: no such flag; did you mean --batch_size?"),
        (["--batch-size=8"], "--batch-size=8: no such flag; did you mean --batch_size?"),
        (["--batch", "8"], "--batch: no such flag; did you mean --batch_size?"),
        (["-batch_size", "8"], "-batch_size: no such flag; did you mean --batch_size?"),
        (["\N{EM DASH}seed", "8"], "\N{EM DASH}seed: no such flag; did you mean --seed?"),
        (["--unfreeze_afer=3"], "--unfreeze_afer=3: no such flag; did you mean --unfreeze_after?"),
        (["--min_lrr", "-1"], "--min_lrr: no such flag; did you mean --min_lr?"),
        (["--determinstic"], "--determinstic: no such flag; did you mean --deterministic?"),
        (["--zzz", "8"], "--zzz: no such flag; COMMAND --help lists all"),
        (["8"], "'8': a value without a flag; put a flag before it or remove it"),
        (["--seed"], "seed: --seed was given without a value"),
        (["--compile_model", "outputs/x"], "compile_model: received 'outputs/x'; allowed: true or false"),
        (["--lr", "-3e-4"], "lr: received '-3e-4'; allowed: a number above 0"),
        (["--lr=-3e-4"], "lr: received '-3e-4'; allowed: a number above 0"),
    ],
)
def test_a_mistyped_flag_costs_one_error(words, expected, pretrained, compiled):
    given = argv(mode="finetune", pretrained_ckpt=pretrained, data_dir=compiled.path)
    for line in ([*given, *words], [*words, *given]):
        status, printed, errors = call(line)
        assert (status, printed) == (2, "")
        assert errors == f"error: one problem with the settings, nothing was read or written:\n  {expected}\n"


def test_a_flag_does_not_take_a_mistyped_flag_as_its_value(files):
    lines = _problems("--max_sets", "\N{EM DASH}seed", "8", **files).splitlines()[1:]
    assert lines == [
        "  max_sets: --max_sets was given without a value",
        "  \N{EM DASH}seed: no such flag; did you mean --seed?",
    ]


@pytest.mark.parametrize(("mistyped", "meant"), [("pretrained_ckp", "pretrained_ckpt"), ("datadir", "data_dir")])
def test_a_mistyped_flag_that_is_needed_costs_one_error_too(mistyped, meant, files):
    files[mistyped] = files.pop(meant)
    assert _problems(**files).splitlines()[1:] == [f"  --{mistyped}: no such flag; did you mean --{meant}?"]


@pytest.mark.parametrize("flag", ["data_dir", "pretrained_ckpt"])
def test_a_path_that_no_file_can_have_does_not_exist(flag):
    message = _problems(mode="finetune", **{flag: "x" * 5000})
    assert "which does not exist; allowed: an existing path" in message


# ------------------------------------------------------------------------------------------------ rules of the modes


def test_fine_tuning_without_a_checkpoint_says_so(tmp_path):
    message = _problems(mode="finetune", data_dir=tmp_path)
    assert "pretrained_ckpt: not given; --mode finetune needs --pretrained_ckpt" in message
    assert "(or --from_random_weights, to train without a pretrained checkpoint as a baseline)" in message


def test_the_old_training_settings_are_accepted_as_the_page_has_them(files):
    """The commands of docs/moving.md, with this data and checkpoint."""
    page = (ROOT / "docs" / "moving.md").read_text(encoding="utf-8").replace("\\\n", "")
    commands = [shlex.split(line)[2:] for line in page.splitlines() if line.startswith("python train_optimized.py")]
    assert len(commands) == 2
    names = {"CKPT": str(files["pretrained_ckpt"]), "DIR": str(files["data_dir"])}
    new, old = (
        _settings(*[names.get(word, word) for word in words], *argv(data_dir=files["data_dir"])) for words in commands
    )
    assert (new["batch_size"], new["loss"], new["tuning"]) == (8, "cross_entropy", "two_stage")
    assert (old["batch_size"], old["gradient_accumulation_steps"], old["max_epochs"]) == (4, 4, 100)
    assert (old["loss"], old["tuning"], old["precision"]) == ("focal", "probe", "16-mixed")


def test_random_weights_are_given_explicitly_and_never_frozen(tmp_path):
    given = {"mode": "finetune", "data_dir": tmp_path, "from_random_weights": "true"}
    assert "unfreeze_after: received 1; allowed: 0 with --from_random_weights" in _problems(**given)
    assert _settings(**given, unfreeze_after=0)["from_random_weights"]
    file = tmp_path / "file.ckpt"
    file.touch()
    for flag, value in (("pretrained_ckpt", file), ("allow_partial_backbone", "true")):
        message = _problems(**given, unfreeze_after=0, **{flag: value})
        assert "from_random_weights: received together with" in message
        assert "one problem" in message


def test_a_flag_that_the_mode_does_not_use_is_an_error():
    unused: dict[str, dict[str, str]] = {
        "pretrain": {"lr": "1e-4", "unfreeze_after": "2", "head_pooling": "last"},
        "finetune": {"pretrain_lr": "1e-3", "max_beta": "0.1", "split": "test", "output": "x.npz"},
        "evaluate": {"lr": "1e-4", "schema": "meds"},
        "predict": {"landmarks": "6"},
        "embed": {"max_epochs": "3", "value_clip": "3"},
        "demo": {"data_dir": ".", "max_epochs": "3", "preset": "full"},
    }
    for mode, flags in unused.items():
        message = _problems(mode=mode, **flags)
        for flag, value in flags.items():
            assert f"{flag}: received '{value}'; --mode {mode} does not use it" in message


def test_the_modes_that_use_a_flag_are_named(tmp_path):
    message = _problems(mode="pretrain", data_dir=tmp_path, lr_patience=2)
    assert "--mode pretrain does not use it (used by finetune, crossvalidate, demo); leave out --lr_patience" in message


def test_pretraining_has_a_learning_rate_of_its_own_and_may_stop_before_a_plateau(tmp_path):
    given = {"mode": "pretrain", "data_dir": tmp_path}
    assert _settings(**given, min_lr=1e-4, es_patience=2)["min_lr"] == 1e-4  # above the fine-tuning's lr
    assert "min_lr: received 0.5; allowed: at most pretrain_lr (0.001)" in _problems(**given, min_lr=0.5)


def test_stopping_waits_until_a_lower_rate_was_tried(files):
    assert _settings(**files, lr_patience=4, es_patience=6)["es_patience"] == 6
    assert "es_patience: received 5" in _problems(**files, lr_patience=4, es_patience=5)


def test_a_mode_is_needed_and_named():
    assert "mode: not given; allowed: one of finetune" in _problems()
    problems = _problems(mode="test", data_dir="/nowhere", es_patience=1)
    assert "mode: received 'test'; allowed: one of finetune" in problems
    assert "data_dir: received '/nowhere'" in problems  # a wrong mode hides nothing else
    assert "es_patience" in problems


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("--mode pretrain --preset small --latent_dim 128", "latent_dim: received 128; --preset small sets it to 64"),
        ("--mode pretrain --latent_dim 100 --heads 3", "heads: received 3; allowed: a divisor of latent_dim (100)"),
        ("--pretrained_ckpt --mode finetune", "pretrained_ckpt: --pretrained_ckpt was given without a value"),
        (f"--mode pretrain --output_root_dir {__file__}", "which is a file; allowed: an existing or new folder"),
    ],
)
def test_a_flag_without_effect_is_a_problem(words, problem):
    assert problem in _problems(*words.split())


def test_every_mode_names_all_that_it_needs():
    for mode, needs in {"evaluate": "ckpt split", "predict": "ckpt output", "embed": "data_dir split output"}.items():
        message = _problems(mode=mode)
        assert all(f"{name}: not given; --mode {mode} needs --{name}" in message for name in needs.split())
        assert ("--data_dir (or data_dir in the config file)" in message) == ("data_dir" in needs)


def test_output_must_be_a_new_npz_in_a_folder_that_exists(tmp_path):
    (tmp_path / "there.npz").touch()
    wrong = {"there.npz": "already exists", "file.txt": "ends in .npz", "no/file.npz": "a file in an existing folder"}
    for name, complaint in wrong.items():
        assert complaint in _problems(mode="embed", output=tmp_path / name)


# ------------------------------------------------------------------------------------------------ help and exit status


def _help(*words: str) -> str:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        train_optimized.main(words)
    assert (ended.value.code, err.getvalue()) == (0, "")
    return out.getvalue()


@pytest.mark.parametrize("name", MODES)
def test_help_of_a_command_lists_its_flags_alone_with_the_comments_of_the_config(name):
    shown, comments = parser(config, MODES, name).format_help(), config_file.help_comments(config)
    flags = declared(MODES[name].Settings).keys() | (FLAGS.keys() if name in ("finetune", "pretrain") else set())
    assert set(re.findall(r"^  --(\w+)", shown, re.M)) == flags
    for flag in flags & comments.keys():
        expected = f"{comments[flag][1]} (default: {getattr(config, flag)})"
        assert "".join(expected.split()) in "".join(shown.split()), flag
    assert all(item.help_in(name) for flag, item in declared(MODES[name].Settings).items() if flag not in comments)


def test_help_is_one_screen_and_that_of_a_command_is_asked_for_in_two_ways():
    shown = _help("--help")
    assert len(shown.splitlines()) <= 50
    assert "--pretrained_ckpt PATH" in shown
    assert set(re.findall(r"^  (\w+) ", shown.partition("examples:")[0], re.M)) == MODES.keys()
    assert _help("embed", "--help") == _help("--mode", "embed", "-h") != shown
    assert _help("--version").startswith("SeqSetVAE fine-tuning ")


def test_the_first_word_is_the_mode_and_another_mode_is_refused(files):
    words = argv(**{name: value for name, value in files.items() if name != "mode"})
    assert as_plain(resolve(config, ["finetune", *words], MODES).settings) == _settings(**files)
    with pytest.raises(InputError, match="mode: received 'pretrain' and the command 'finetune'; leave out --mode"):
        resolve(config, ["finetune", "--mode", "pretrain", *words], MODES)
    with pytest.raises(InputError, match="mode: received 'fintune'; allowed: one of finetune, "):
        resolve(config, ["fintune", *words], MODES)


def test_help_and_mistakes_do_not_wait_for_torch():
    code = "import sys, train_optimized as t; print(t.main(['--mode', 'x']), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]
    assert "mode: received 'x'" in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_settings_end_with_status_2():
    errors = refused(command("finetune"))
    assert errors.startswith("error: 2 problems with the settings")


def test_an_output_that_cannot_show_a_character_does_not_end_the_run():
    code = "import sys, train_optimized as t; sys.exit(t.main(['--mode', 'ü✅']))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, env={"PYTHONIOENCODING": "ascii"}, check=False
    )
    assert done.returncode == 2
    assert rb"mode: received '\xfc\u2705'" in done.stderr


def data_commands() -> list[argparse.ArgumentParser]:
    """The parsers of the subcommands of `data.py`."""
    (commands,) = (action for action in data_command()._actions if isinstance(action, argparse._SubParsersAction))
    return list(commands.choices.values())


def test_no_help_text_or_error_names_a_flag_that_does_not_exist():
    flags = {f"--{name}" for name in settings_of(MODES)} | {"--help", "--version"}
    rooms = [*(ROOT / "seqsetvae" / "cli").glob("*.py"), *(ROOT / "seqsetvae" / "settings").glob("*.py")]
    files = [*rooms, ROOT / "train_optimized.py", ROOT / "README.md", ROOT / "finetune_config_optimized.py"]
    texts = "".join(path.read_text(encoding="utf-8") for path in files)
    flags |= {option for command in data_commands() for option in command._option_string_actions}
    assert set(re.findall(r"(?<![\w-])--[a-z_]+(?!-)\b", texts)) - flags <= {"--flag"}


@pytest.mark.parametrize(("mode", "epochs"), [("finetune", 4), ("crossvalidate", 4), ("pretrain", config.max_epochs)])
def test_a_recipe_of_fine_tuning_is_none_of_pretraining(tmp_path, mode, epochs):
    words = argv(mode=mode, data_dir=tmp_path, running_statistics=True)
    words += [] if mode == "pretrain" else argv(from_random_weights=True)
    assert as_plain(resolve(config, words, MODES).settings)["max_epochs"] == epochs
