"""A run folder is searched for stay ids, paths and users, by the table in docs/privacy.md."""

from __future__ import annotations

import re
import shutil
import struct
from pathlib import Path, PurePosixPath

import pytest

from seqsetvae.cohort import Cohort, compile_cohort, notices
from seqsetvae.privacy import checkpoint_names, without_folders
from tests.command import command

ROOT = Path(__file__).parents[1]


def _documented() -> dict[str, tuple[bool, bool]]:
    """By name of a file or folder: whether it may hold (stay ids, absolute paths)."""
    found = {}
    for line in (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 3 and cells[1] in ("yes", "no"):
            names = re.sub(r"\(.*?\)", "", cells[0]).split(",")
            found |= {name.strip(): (cells[1] == "yes", cells[2].startswith("yes")) for name in names}
    return found


def _allowed(file: PurePosixPath) -> tuple[bool, bool]:
    """What a file may hold; one that is not in the table may hold nothing."""
    documented = _documented()
    return documented.get(str(file), documented.get(f"{file.parts[0]}/", (False, False)))


@pytest.fixture(scope="module")
def evaluated(finished: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that was evaluated, so that everything is there."""
    run = tmp_path_factory.mktemp("private") / "run"
    shutil.copytree(finished[0], run)
    status, _, errors = command("evaluate", ckpt=run, split="test", output_root_dir=run.parent)
    assert status == 0, errors
    return run


def test_the_table_names_what_there_is(evaluated: Path) -> None:
    files = {"bad_batch.json"} | {file.name for file in evaluated.iterdir() if file.is_file()}
    listed = {PurePosixPath(name).name for name in _documented()}
    assert {"predictions.csv", "report.html", "evaluation.json", "config.json"} <= files & listed


def test_files_hold_stay_ids_and_paths_only_where_the_table_says_so(evaluated: Path, compiled: Cohort) -> None:
    ids = [int(number) for split in compiled.splits.values() for number in split.stay_id]
    as_text = re.compile(rb"(?<![0-9.])(" + b"|".join(b"%d" % number for number in ids) + rb")(?![0-9])")
    folders = [str(Path.home()).encode(), b"/tmp/", str(evaluated.parent).encode(), str(ROOT).encode()]
    found: dict[str, tuple[bool, bool]] = {}
    for file in (path for path in evaluated.rglob("*") if path.is_file()):
        content, name = file.read_bytes(), file.relative_to(evaluated).as_posix()
        has_ids = as_text.search(content) is not None or any(struct.pack("<q", number) in content for number in ids)
        found[name] = has_ids, any(folder in content for folder in folders)
    pairs = {name: zip(there, _allowed(PurePosixPath(name)), strict=True) for name, there in found.items()}
    too_much = [name for name, pair in pairs.items() if any(is_there and not may for is_there, may in pair)]
    assert not too_much
    assert found["predictions.csv"][0]  # the search finds what is there
    assert found["config.json"][1]


def test_a_report_shows_names_without_their_folders(evaluated: Path) -> None:
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    assert "<!doctype html>" in page.lower()
    assert "run/checkpoints/best.ckpt" in page
    assert "</p>" in page


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<td>/home/ada/data</td>", "<td>data</td>"),
        ("--ckpt outputs/run-1", "--ckpt outputs/run-1"),
        ("https://pytorch.org/docs/stable", "https://pytorch.org/docs/stable"),
        ("layout /data/p/patient_ehr: 3 stays", "layout patient_ehr: 3 stays"),
        (r"C:\Users\ada\run", "run"),
        ("12/24 h, and/or", "12/24 h, and/or"),
        ("M 1 2 L 3 4</path></svg>", "M 1 2 L 3 4</path></svg>"),
    ],
)
def test_absolute_paths_are_cut_to_their_last_part(text: str, expected: str) -> None:
    assert without_folders(text) == expected


def test_checkpoints_of_one_name_keep_their_paths() -> None:
    one, other = Path("/a/run/checkpoints/best.ckpt"), Path("/b/run/checkpoints/best.ckpt")
    assert checkpoint_names([one]) == ["run/checkpoints/best.ckpt"]
    assert checkpoint_names([one, other]) == [str(one), str(other)]
    assert checkpoint_names([Path("outputs/run/best.ckpt")]) == ["outputs/run/best.ckpt"]


def test_runs_count_faulty_files_and_name_none(old_layout: Path, tmp_path: Path) -> None:
    from seqsetvae.cohort.sources.seqsetvae_layout import SeqSetVAELayout

    ehr = tmp_path / "patient_ehr"
    shutil.copytree(old_layout if old_layout.name == "patient_ehr" else old_layout / "patient_ehr", ehr)
    bad = sorted((ehr / "train").iterdir())[0]
    bad.write_bytes(b"no parquet")
    cohort = compile_cohort(SeqSetVAELayout(ehr), tmp_path / "out", label_name="label", skip_bad=True, progress=False)
    lines = notices(cohort)
    assert any("1 file: not a readable parquet file" in line for line in lines)
    assert not any(bad.name in line for line in lines)
    assert any(bad.name in line for line in notices(cohort, examples=True))
