"""A run folder is searched for stay ids, paths and users, by the table in docs/privacy.md."""

import random
import re
import shutil
import struct
from pathlib import Path, PurePosixPath

import pytest

from seqsetvae.cohort import compile_cohort, notices
from seqsetvae.cohort.command import main as data_command
from seqsetvae.cohort.sources.seqsetvae_layout import SeqSetVAELayout
from seqsetvae.evaluation import explain, onnx_file
from seqsetvae.system.privacy import absolute_paths, checkpoint_names, without_folders
from tests.command import argv, call, finetune, real_reports, run_of, succeeded
from tests.tiny import give_vectors

ROOT = Path(__file__).parents[2]


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


PERSON = "Ada Lovelace"  # in the path of everything: the space must not hide where a path begins


@pytest.fixture(scope="module")
def released(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an imported cohort of patients with telling ids, a run on it with all results, and its export."""
    root = tmp_path_factory.mktemp("home") / PERSON / "a project"
    root.mkdir(parents=True)
    events, labels, groups = ["id,patient,time,variable,value,age"], ["id,died"], ["stay_id,sex"]
    rng = random.Random(0)
    for number in range(80):
        stay, sick, age = 7731900000 + number, rng.random() < 0.4, 50 + number % 30
        labels.append(f"{stay},{sick:d}")
        groups.append(f"{stay},{'fm'[number % 2]}")
        for hour in range(4):
            values = ((name, rng.gauss(80 + 9 * sick, 9)) for name in ("HR", "Temp", "Na"))
            events += [f"{stay},QXZ-{number // 2:04},{hour * 60},{name},{value:.1f},{age}" for name, value in values]
    for name, lines in (("events", events), ("labels", labels), ("groups", groups)):
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ["--labels", str(root / "labels.csv"), "--label_name", "died", "--subject_column", "patient"]
    words += ["--static_columns", "age"]
    assert data_command(["table", str(root / "events.csv"), str(root / "cohort"), *words]) == 0
    succeeded(finetune(pretrained, give_vectors(root / "cohort"), root / "runs", max_epochs=2))
    run = run_of(root / "runs")
    flags = {"split": "test", "subgroups": root / "groups.csv", "landmarks": 2, "baselines": "all"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explain, "STEPS", 4)
        status, _, errors = call([*argv(mode="evaluate", ckpt=run, output_root_dir=root, **flags), "--explain"])
    assert status == 0, errors
    with real_reports(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_file, "missing_packages", lambda: ["onnx"])  # those of an export are in test_export.py
        for words in (argv(mode="report", runs=run), argv(mode="export", ckpt=run, output=root / "model")):
            succeeded(call(words))
    return root


NUMBERS = range(7731900000, 7731900080)


def _holds(content: bytes) -> bool:
    """Whether there is the id of a stay or of a patient."""
    text = any(b"%d" % number in content for number in NUMBERS)
    return text or b"QXZ-" in content or any(struct.pack("<q", number) in content for number in NUMBERS)


def test_files_hold_stay_ids_and_paths_only_where_the_table_says_so(released):
    run = run_of(released / "runs")
    found: dict[str, tuple[bool, bool]] = {}
    for file in (path for path in run.rglob("*") if path.is_file()):
        content = file.read_bytes()
        folders = (str(Path.home()).encode(), str(released).encode(), str(ROOT).encode())
        found[file.relative_to(run).as_posix()] = _holds(content), any(folder in content for folder in folders)
    pairs = {name: zip(there, _allowed(PurePosixPath(name)), strict=True) for name, there in found.items()}
    too_much = [name for name, pair in pairs.items() if any(is_there and not may for is_there, may in pair)]
    assert not too_much
    assert found["predictions.csv"][0]  # the search finds what is there
    assert found["config.json"][1]
    listed = {PurePosixPath(name).name for name in _documented()}
    assert {"predictions.csv", "report.html", "evaluation.json", "config.json"} <= found.keys() & listed


def test_what_is_given_to_others_names_no_patient_no_folder_and_no_person(released):
    """Evaluated with subgroups, landmarks and baselines, with the course of some stays in the report, and exported."""
    run = run_of(released / "runs")
    for_others = [run / "report.html", run / "evaluation.json", run / "calibration.json", run / "metrics.csv"]
    for_others += [*(run / "figures").iterdir(), *(run / "checkpoints").iterdir(), *(released / "model").iterdir()]
    assert {"model.safetensors", "card.json", "best.ckpt", "last.ckpt"} <= {file.name for file in for_others}
    for file in for_others:
        content = file.read_bytes()
        assert not _holds(content), file.name
        for secret in (PERSON.split()[1], "a project", str(ROOT), "site-packages"):
            assert secret.encode() not in content, (file.name, secret)
    assert "what moved the risk" in (run / "report.html").read_text(encoding="utf-8")


def test_output_and_logs_count_stays_and_name_none(released):
    for file in ("train.log", "summary.txt", "summary.json"):
        assert not _holds((run_of(released / "runs") / file).read_bytes()), file


def test_a_report_shows_names_without_their_folders(released):
    run = run_of(released / "runs")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<!doctype html>" in page.lower()
    assert f"{run.name}/checkpoints/best.ckpt" in page
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
        ("--runs ../../home/ada/run-1 ~ada/run-2 ~/x/run-3", "--runs run-1 run-2 run-3"),
        ("about ~3/4 of them, and/or ../", "about ~3/4 of them, and/or ../"),
    ],
)
def test_absolute_paths_are_cut_to_their_last_part(text, expected):
    assert without_folders(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/Ada L/my run/best.ckpt: NaN", "best.ckpt: NaN"),
        ("--runs &#39;/home/Ada L/my run&#39;", "--runs &#39;my run&#39;"),
        ("/home/Ada L/other.ckpt", "other.ckpt"),
        ("/mnt/O&#39;Brien &amp; Co/run", "run"),
        ("&#39;/mnt/O&#39;&#34;&#39;&#34;&#39;Brien &amp; Co/run&#39;", "&#39;run&#39;"),
    ],
)
def test_where_a_path_with_a_space_ends_is_known_of_the_paths_of_a_run(text, expected):
    config = {"settings": {"data_dir": "/home/Ada L/my run", "lr": 1, "more": ["/mnt/O'Brien & Co/run"]}}
    assert without_folders(text, absolute_paths(config)) == expected


def test_checkpoints_of_one_name_are_told_apart_without_the_folders_that_they_share():
    one, other = (Path(f"/home/ada/{name}/run/checkpoints/best.ckpt") for name in "ab")
    assert checkpoint_names([one]) == ["run/checkpoints/best.ckpt"]
    assert checkpoint_names([one, other]) == ["a/run/checkpoints/best.ckpt", "b/run/checkpoints/best.ckpt"]
    assert checkpoint_names([Path("outputs/run/best.ckpt")]) == ["outputs/run/best.ckpt"]
    assert checkpoint_names([Path("../../ada/outputs/run/checkpoints/best.ckpt")]) == ["run/checkpoints/best.ckpt"]
    assert len(set(checkpoint_names([one, one]))) == 1


def test_runs_count_faulty_files_and_name_none(old_layout, tmp_path):
    ehr = tmp_path / "patient_ehr"
    shutil.copytree(old_layout if old_layout.name == "patient_ehr" else old_layout / "patient_ehr", ehr)
    bad = sorted((ehr / "train").iterdir())[0]
    bad.write_bytes(b"no parquet")
    cohort = compile_cohort(SeqSetVAELayout(ehr), tmp_path / "out", label_name="label", skip_bad=True, progress=False)
    lines = notices(cohort)
    assert any("1 file: not a readable parquet file" in line for line in lines)
    assert not any(bad.name in line for line in lines)
    assert any(bad.name in line for line in notices(cohort, examples=True))
