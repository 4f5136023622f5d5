"""Nothing that is read is executed, and nothing that is unpacked leaves its place."""

from __future__ import annotations

import ast
import io
import tarfile
import zipfile
from functools import cache
from pathlib import Path

import pytest

from seqsetvae.cli import MODES
from seqsetvae.cohort.command import main as data_command

ROOT = Path(__file__).parents[2]
FORBIDDEN = {"eval", "exec", "compile_command", "extractall", "extract", "load_from_checkpoint", "Unpickler", "loads"}
FORBIDDEN |= {"import_module"}
UNSAFE_MODULES = {"pickle", "marshal", "shelve", "joblib", "cloudpickle", "dill"}  # nothing of them is called
EXPLICIT = {"torch.load": "weights_only", "np.load": "allow_pickle", "trainer.fit": "weights_only"}
ALLOWED = {"json.loads"}
CODE = {  # that is run because of its name
    ("command_line.py", "import_module"),  # bodies of commands, each named in the file of its command
    ("config.py", "exec"),  # the user's config file
}


@cache
def _calls() -> list[tuple[str, str, dict[str, ast.expr]]]:
    """(file, dotted name of what is called, its keyword arguments) of every call in the program."""
    found = []
    for file in [*ROOT.glob("*.py"), *(ROOT / "seqsetvae").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                keywords = {each.arg: each.value for each in node.keywords if each.arg}
                found.append((file.name, ast.unparse(node.func), keywords))
    return found


def test_no_code_is_evaluated_and_nothing_is_unpickled_or_unpacked():
    names = [(file, name) for file, name, _ in _calls() if name not in ALLOWED and (file, name) not in CODE]
    assert not [each for each in names if each[1] in FORBIDDEN or each[1].split(".")[-1] in FORBIDDEN - {"eval"}]
    assert not [each for each in names if each[1].split(".")[0] in UNSAFE_MODULES]
    assert all(getattr(mode, "BODY", "seqsetvae.runs.").startswith("seqsetvae.runs.") for mode in MODES.values())


def test_every_load_says_that_it_reads_no_objects():
    loads = [(file, name, keywords) for file, name, keywords in _calls() if name in EXPLICIT]
    assert {name for _, name, _ in loads} >= {"torch.load", "np.load"}
    for file, name, keywords in loads:
        value = keywords.get(EXPLICIT[name])
        assert isinstance(value, ast.Constant), (file, name)
        assert value.value is (name != "np.load"), (file, name)


STAY = "\n".join(["Time,Parameter,Value", "00:00,RecordID,1", *(f"0{hour}:00,HR,80" for hour in range(8))]) + "\n"


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_names_in_an_archive_lead_nowhere(tmp_path, form):
    """Archives are read in memory; a name such as ../../1.txt is that of a stay, and no file."""
    src = tmp_path / "deep" / "src"
    src.mkdir(parents=True)
    (src / "Outcomes-a.txt").write_text("RecordID,In-hospital_death\n1,0\n2,1\n", encoding="utf-8")
    names = ["../../1.txt", f"{tmp_path}/2.txt"]
    if form == "zip":
        with zipfile.ZipFile(src / "set-a.zip", "w") as archive:
            for name in names:
                archive.writestr(name, STAY)
    else:
        with tarfile.open(src / "set-a.tar", "w") as archive:
            for name in names:
                entry = tarfile.TarInfo(name)
                entry.size = len(STAY)
                archive.addfile(entry, io.BytesIO(STAY.encode()))
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    words = ["physionet2012", str(src), str(tmp_path / "out"), "--train_sets", "a"]
    assert data_command(words) == 0
    after = {path for path in tmp_path.rglob("*") if "out" not in path.relative_to(tmp_path).parts}
    assert after == before
