"""Settings: the config file holds nothing but settings, each is read by code, and problems come all at once."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import subprocess
import sys
import tokenize
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import finetune_config_optimized as config
import train_optimized
from seqsetvae import settings as settings_module
from seqsetvae.errors import InputError
from seqsetvae.settings import check, config_comments, from_config, parser, resolve, setting_fields

ROOT = Path(__file__).resolve().parents[1]
SOURCE = Path(config.__file__).read_text(encoding="utf-8")
TREE = ast.parse(SOURCE)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Flags of a fine-tuning run whose files exist."""
    (tmp_path / "file.ckpt").touch()
    return {"--mode": "finetune", "--pretrained_ckpt": str(tmp_path / "file.ckpt"), "--data_dir": str(tmp_path)}


def _argv(flags: dict[str, str], *more: str) -> list[str]:
    return [word for pair in flags.items() for word in pair] + list(more)


def _problems(argv: list[str], module: ModuleType = config) -> str:
    with pytest.raises(InputError) as raised:
        resolve(module, argv)
    return str(raised.value)


# ------------------------------------------------------------------------------------------------ the config file


def test_the_config_is_a_docstring_and_plain_assignments_each_once() -> None:
    first, *rest = TREE.body
    assert isinstance(first, ast.Expr)
    assert ast.get_docstring(TREE)
    names = []
    for statement in rest:
        assert isinstance(statement, ast.Assign), ast.unparse(statement)
        assert len(statement.targets) == 1
        assert isinstance(statement.targets[0], ast.Name)
        ast.literal_eval(statement.value)  # a constant, nothing computed
        names.append(statement.targets[0].id)
    assert len(names) == len(set(names))
    assert sorted(names) == sorted(from_config())


def test_every_setting_has_a_comment_behind_it_on_its_line() -> None:
    comments = {name: comment for name, (_, comment) in config_comments(config).items()}
    assert comments.keys() == set(from_config())
    by_line = {
        token.start[0]: token.string
        for token in tokenize.generate_tokens(io.StringIO(SOURCE).readline)
        if token.type == tokenize.COMMENT
    }
    for statement in TREE.body[1:]:
        assert isinstance(statement, ast.Assign)
        assert isinstance(statement.targets[0], ast.Name)
        assert statement.lineno == statement.end_lineno
        assert by_line[statement.lineno].lstrip("# ") == comments[statement.targets[0].id]
        assert len(comments[statement.targets[0].id]) > 10


def _attributes_read_outside_settings() -> set[str]:
    """Every `something.name` that is read in the code, and the fields of Schedule, which are read by name."""
    files = [*ROOT.glob("*.py"), *(ROOT / "seqsetvae").rglob("*.py")]
    read: set[str] = set()
    for file in files:
        if file == Path(settings_module.__file__):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Load)
                and ast.unparse(node.value) == "settings"
            ):
                read.add(node.attr)
    from seqsetvae.training.schedule import Schedule

    return read | {item.name for item in dataclasses.fields(Schedule)}


def test_every_setting_is_read_by_code() -> None:
    sizes = set(inspect.signature(_backbone_sizes()).parameters)  # reach the backbone through Settings.sizes()
    assert {item.name for item in setting_fields()} - _attributes_read_outside_settings() - sizes <= {"preset"}
    assert "settings.sizes()" in (ROOT / "seqsetvae" / "modes" / "common.py").read_text(encoding="utf-8")


def _backbone_sizes() -> type:
    from seqsetvae.architectures.seqsetvae.backbone import BackboneSizes

    return BackboneSizes


def test_the_preset_changes_the_sizes(files: dict[str, str]) -> None:
    full, small = (resolve(config, _argv(files, "--preset", name)).sizes() for name in ("full", "small"))
    assert full["latent_dim"] == config.latent_dim
    assert small["latent_dim"] < full["latent_dim"]
    assert {*full} == {*small} == set(inspect.signature(_backbone_sizes()).parameters) - {"input_dim"}


def test_nobody_but_the_commands_imports_the_config() -> None:
    importers = {
        file.name
        for file in [*ROOT.glob("*.py"), *(ROOT / "seqsetvae").rglob("*.py")]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom) and "finetune_config_optimized" in ast.unparse(node)
    }
    assert importers == {"train_optimized.py"}


def test_defaults_are_those_that_the_diagnosis_asks_for() -> None:
    assert config.cls_head_lr == 3e-4 > config.lr
    assert (config.lr_factor, config.lr_patience, config.min_lr, config.es_patience) == (0.8, 4, 1e-6, 8)
    assert config.batch_size >= 4


# ------------------------------------------------------------------------------------------------ flags


def test_flags_override_the_config(files: dict[str, str]) -> None:
    plain = resolve(config, _argv(files))
    assert all(
        getattr(plain, name) == getattr(config, name)
        for name in from_config()
        if name not in ("data_dir", "output_root_dir")
    )
    changed = resolve(
        config,
        _argv(
            files,
            "--batch_size",
            "16",
            "--lr",
            "1e-5",
            "--unfreeze_after",
            "none",
            "--compile_model",
            "--max_sets",
            "200",
            "--class_weight",
            "2.5",
        ),
    )
    assert (changed.batch_size, changed.lr, changed.unfreeze_after, changed.max_sets) == (16, 1e-5, None, 200)
    assert changed.compile_model is True
    assert changed.class_weight == 2.5
    assert resolve(config, _argv(files, "--class_weight", "balanced")).class_weight == "balanced"


def test_settings_cannot_be_changed_later(files: dict[str, str]) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve(config, _argv(files)).lr = 1.0  # type: ignore[misc]


def test_every_flag_of_the_old_command_lines_works(files: dict[str, str], tmp_path: Path) -> None:
    """The main job and the other flags of spec/diagnosis.md."""
    for name in ("stats.csv", "oc.csv"):
        (tmp_path / name).touch()
    settings = resolve(
        config,
        _argv(
            files,
            "--batch_size",
            "8",
            "--max_epochs",
            "20",
            "--devices",
            "1",
            "--compile_model",
            "--params_map_path",
            str(tmp_path / "stats.csv"),
            "--label_path",
            str(tmp_path / "oc.csv"),
            "--gradient_accumulation_steps",
            "2",
            "--num_workers",
            "4",
            "--precision",
            "16-mixed",
            "--seed",
            "7",
            "--deterministic",
            "--output_root_dir",
            str(tmp_path / "out"),
            "--strategy",
            "ddp",
        ),
    )
    assert settings.params_map_path == tmp_path / "stats.csv"
    assert settings.deterministic is True
    assert (settings.gradient_accumulation_steps, settings.num_workers, settings.seed) == (2, 4, 7)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("32", "32-true"),
        ("16", "16-mixed"),
        ("bf16", "bf16-mixed"),
        ("64", "64-true"),
        ("32-true", "32-true"),
        ("bf16-mixed", "bf16-mixed"),
    ],
)
def test_old_spellings_of_precision(files: dict[str, str], old: str, new: str) -> None:
    assert resolve(config, _argv(files, "--precision", old)).precision == new


def test_an_old_strategy_still_means_ddp(files: dict[str, str]) -> None:
    assert resolve(config, _argv(files, "--strategy", "ddp_find_unused_parameters_true")).strategy == "ddp"


@pytest.mark.parametrize(("flag", "expected"), [("true", True), ("False", False), ("FALSE", False)])
def test_switches_take_a_value_too(files: dict[str, str], flag: str, expected: bool) -> None:
    assert resolve(config, _argv(files, "--deterministic", flag)).deterministic is expected


# ------------------------------------------------------------------------------------------------ problems


def test_all_problems_come_at_once_with_name_received_and_allowed(tmp_path: Path) -> None:
    message = _problems(
        [
            "--mode",
            "finetune",
            "--batch_size",
            "eight",
            "--lr",
            "-1",
            "--pooling",
            "last",
            "--head_pooling",
            "max",
            "--label_smoothing",
            "2",
            "--max_epochs",
            "0",
            "stray",
        ]
    )
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


def test_problems_of_settings_together_come_at_once_too(files: dict[str, str], tmp_path: Path) -> None:
    files["--data_dir"] = str(tmp_path / "nowhere")
    message = _problems(
        _argv(
            files,
            "--batch_size",
            "2",
            "--devices",
            "3",
            "--es_patience",
            "4",
            "--min_lr",
            "1",
            "--loss",
            "focal",
            "--class_weight",
            "2",
            "--label_smoothing",
            "0.1",
        )
    )
    assert message.startswith("7 problems")
    for line in (
        f"data_dir: received '{tmp_path / 'nowhere'}', which does not exist; allowed: an existing path",
        "batch_size: received 2; allowed: 4 or more",
        "devices: received 3; allowed: 1",
        "es_patience: received 4; allowed: more than lr_patience + 1 (= 5)",
        "min_lr: received 1; allowed: at most lr (5e-05)",
        "label_smoothing: received 0.1; allowed: 0 with --loss focal",
        "class_weight: received 2.0; allowed: none with --loss focal",
    ):
        assert line in message


def test_fine_tuning_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    message = _problems(["--mode", "finetune", "--data_dir", str(tmp_path)])
    assert "pretrained_ckpt: not given; --mode finetune needs --pretrained_ckpt" in message
    assert "(or --from_random_weights, to train without a pretrained checkpoint as a baseline)" in message


def test_random_weights_are_the_users_word_and_never_frozen(tmp_path: Path) -> None:
    given = {"--mode": "finetune", "--data_dir": str(tmp_path), "--from_random_weights": "true"}
    assert "unfreeze_after: received 1; allowed: 0 with --from_random_weights" in _problems(_argv(given))
    assert resolve(config, _argv(given | {"--unfreeze_after": "0"})).from_random_weights
    file = tmp_path / "file.ckpt"
    file.touch()
    for flag, value in (("--pretrained_ckpt", str(file)), ("--allow_partial_backbone", "true")):
        message = _problems(_argv(given | {"--unfreeze_after": "0", flag: value}))
        assert "from_random_weights: received together with" in message
        assert "one problem" in message


@pytest.mark.parametrize(
    ("mode", "flag", "value"),
    [
        ("pretrain", "--lr", "1e-4"),
        ("pretrain", "--unfreeze_after", "2"),
        ("pretrain", "--head_pooling", "last"),
        ("finetune", "--pretrain_lr", "1e-3"),
        ("finetune", "--max_beta", "0.1"),
        ("evaluate", "--lr", "1e-4"),
        ("embed", "--max_epochs", "3"),
        ("demo", "--data_dir", "."),
        ("demo", "--max_epochs", "3"),
    ],
)
def test_a_flag_that_the_mode_does_not_use_is_an_error(mode: str, flag: str, value: str) -> None:
    said = f"{flag[2:]}: received '{value}'; --mode {mode} does not use it"
    assert said in _problems(["--mode", mode, flag, value])


def test_a_rate_that_the_mode_does_not_read_limits_nothing(tmp_path: Path) -> None:
    given = {"--mode": "pretrain", "--data_dir": str(tmp_path), "--min_lr": "1e-4"}  # above the fine-tuning's lr
    assert resolve(config, _argv(given)).min_lr == 1e-4


def test_pretraining_is_not_held_to_rules_of_the_plateau(tmp_path: Path) -> None:
    given = {"--mode": "pretrain", "--data_dir": str(tmp_path)}
    assert resolve(config, _argv(given | {"--es_patience": "2"})).es_patience == 2
    assert "--mode pretrain does not use it (used by finetune, demo)" in _problems(
        _argv(given | {"--lr_patience": "2"})
    )


def test_a_mode_is_needed_and_named() -> None:
    assert "mode: not given; allowed: one of finetune" in _problems([])
    problems = _problems(["--mode", "test", "--data_dir", "/nowhere", "--es_patience", "1"])
    assert "mode: received 'test'; allowed: one of finetune" in problems
    assert "data_dir: received '/nowhere'" in problems  # a wrong mode hides nothing else
    assert "es_patience" in problems


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--mode", "finetune", "--split", "test"], "split: received 'test'; --mode finetune does not use it"),
        (["--mode", "evaluate", "--output", "x.npz"], "output: received 'x.npz'; --mode evaluate does not use it"),
        (
            ["--mode", "pretrain", "--preset", "small", "--latent_dim", "128"],
            "latent_dim: received '128'; --preset small",
        ),
        (
            ["--mode", "pretrain", "--latent_dim", "100", "--heads", "3"],
            "heads: received 3; allowed: a divisor of latent_dim (100)",
        ),
        (["--mode", "pretrain", "--min_lr", "0.5"], "min_lr: received 0.5"),
        (["--pretrained_ckpt", "--mode", "finetune"], "pretrained_ckpt: --pretrained_ckpt was given without a value"),
        (["--mode", "pretrain", "--output_root_dir", __file__], "which is a file; allowed: an existing or new folder"),
    ],
)
def test_a_flag_given_in_vain_is_a_problem(flags: list[str], problem: str) -> None:
    assert problem in _problems(flags)


@pytest.mark.parametrize(
    ("mode", "needed"), [("evaluate", ["ckpt", "split"]), ("embed", ["pretrained_ckpt", "data_dir", "split", "output"])]
)
def test_every_mode_says_all_that_it_needs(mode: str, needed: list[str]) -> None:
    message = _problems(["--mode", mode])
    assert [line for line in needed if f"{line}: not given; --mode {mode} needs --{line}" in message] == needed


def test_a_typing_mistake_gets_a_suggestion(files: dict[str, str]) -> None:
    message = _problems(_argv(files, "--batchsize", "8", "--unfreeze_afer=3", "--zzzzzz"))
    assert "--batchsize: no such flag; did you mean --batch_size?" in message
    assert "--unfreeze_afer=3: no such flag; did you mean --unfreeze_after?" in message
    assert "--zzzzzz: no such flag; --help lists all" in message


def _changed(**changes: Any) -> ModuleType:
    module = ModuleType("changed")
    vars(module).update({name: getattr(config, name) for name in from_config()} | changes)
    return module


def test_the_config_is_validated_like_flags(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "config_comments", lambda module: {})
    module = _changed(
        batch_size=8.5,
        lr="fast",
        max_epochs=float("inf"),
        min_lr=float("nan"),
        deterministic=1,
        batch_sise=4,
        seed=True,
        class_weight=None,
    )
    del module.loss
    message = _problems(_argv(files), module)
    for line in (
        "batch_size: received 8.5",
        "lr: received 'fast'",
        "max_epochs: received inf",
        "min_lr: received nan",
        "deterministic: received 1;",
        "batch_sise: no such setting (in changed.py); did you mean batch_size?",
        "loss: missing in changed.py",
        "seed: received True",
        "class_weight: received None",
    ):
        assert line in message


@pytest.mark.parametrize(
    ("lr_patience", "es_patience", "fine"), [(4, 8, True), (4, 6, True), (4, 5, False), (4, 4, False)]
)
def test_stopping_waits_until_a_lower_rate_was_tried(
    files: dict[str, str], lr_patience: int, es_patience: int, fine: bool
) -> None:
    settings = resolve(config, _argv(files))
    settings = dataclasses.replace(settings, lr_patience=lr_patience, es_patience=es_patience)
    assert any("es_patience" in problem for problem in check(settings)) is not fine


def test_output_must_be_a_new_npz_in_a_folder_that_exists(tmp_path: Path) -> None:
    (tmp_path / "there.npz").touch()
    for name, complaint in (
        ("there.npz", "which already exists"),
        ("file.txt", "ends in .npz"),
        ("no/file.npz", "a file in an existing folder"),
    ):
        assert complaint in _problems(["--mode", "embed", "--output", str(tmp_path / name)])


# ------------------------------------------------------------------------------------------------ help


def test_help_lists_every_flag_with_the_comment_of_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = "".join(parser(config).format_help().split())
    for name, (_, comment) in config_comments(config).items():
        assert "".join(f"{comment} (default: {getattr(config, name)})".split()) in shown, name
    for item in setting_fields():
        assert f"--{item.name}" in shown


def test_help_and_mistakes_do_not_wait_for_torch() -> None:
    code = "import sys, train_optimized as t; print(t.main(['--mode', 'x']), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]
    assert "mode: received 'x'" in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_settings_end_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_optimized.main(["--mode", "finetune"]) == 2
    assert capsys.readouterr().err.startswith("error: 2 problems with the settings")
