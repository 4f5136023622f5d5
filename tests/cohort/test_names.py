"""Names are read without spaces and invisible characters around them; those that are alike otherwise are said."""

import pytest

from seqsetvae.cohort import open_cohort
from seqsetvae.cohort.checks import check_folder
from seqsetvae.cohort.names import groups_alike, trimmed
from seqsetvae.cohort.sidefiles import read_embeddings, read_labels, read_stats
from seqsetvae.system.errors import InputError

from .conftest import HEADER
from .test_compile import compiled, sets_of, z_scores_of

NFC, NFD = "Kre\u00e4tinin", "Krea\u0308tinin"
UNTRIMMED = ("HR", " HR", "HR ", "\u00a0HR", "HR\u200b", "\ufeffHR\t", "\u2003HR\u200d\u00a0")


def test_only_names_that_differ_within_are_alike():
    assert {*map(trimmed, UNTRIMMED)} == {"HR"}
    assert groups_alike(
        ["HR", "hr", "Heart  rate", "heart rate", NFC, NFD, "Na", "K", "\u00b5g", "\u03bcg", "H\u200bR"]
    ) == [["HR", "H\u200bR", "hr"], ["Heart  rate", "heart rate"], [NFD, NFC], ["\u00b5g", "\u03bcg"]]


def test_a_variable_of_a_table_is_one_with_or_without_spaces_around_its_name(tables):
    rows = "".join(f"1,{at},{name},{at}\n" for at, name in enumerate(UNTRIMMED))
    src = tables.csv("e.csv", HEADER + rows + "1,0,rhythm\u00a0, sinus\u200b\n1,0, Gone ,1\n1,0,unit,3\n")
    vectors = tables.csv("cached.csv", " Key,a,b\nHR\u200b,1,2\n rhythm=sinus,3,4\nunit=3,5,6\n")
    mapping = tables.csv("map.csv", "Name,target,Factor \n HR , HR,4\n")
    flags = ["--variable_map", mapping, "--leave_out", "Gone ", "--categorical", " unit"]
    cohort = tables.compile(src, *flags)
    assert cohort.vocabulary == ("HR", "rhythm=sinus", "unit=3")
    assert [value for _, events in sets_of(cohort, "train", 0) for name, value in events if name == "HR"] == [
        *range(0, 28, 4)
    ]
    assert read_embeddings(vectors).row == {"HR": 0, "rhythm=sinus": 1, "unit=3": 2}
    assert not [note for note in cohort.manifest["import"]["notes"] if "nothing was changed by it" in note]


def test_names_of_the_old_layout_match_its_side_files_without_spaces_around_them(folder):
    folder.stay("train", "4.0", [(" heart rate", 90, 0), ("lactate\u200b", 3, 0)])
    folder.csv("stats.csv", "variable,mean,std\nheart rate\u00a0,80,10\nlactate,2,1\n")
    folder.csv("cached.csv", "Key,0,1\nheart rate,0.5,-1.5\nlactate ,2,3\n")
    cohort = compiled(folder)
    assert cohort.vocabulary == ("heart rate", "lactate")
    assert z_scores_of(cohort, "train")[-2:] == [1, 1]
    assert cohort.embeddings.tolist() == [[0.5, -1.5], [2, 3]]
    folder.csv("stats.csv", "variable,mean,std\nheart rate,80,10\nheart rate ,70,10\n")
    with pytest.raises(InputError, match="variable 'heart rate' is given twice"):
        read_stats(folder.root / "stats.csv")


def test_check_lists_names_and_levels_that_are_alike(tables):
    rows = f"1,0,HR,1\n1,1,hr,2\n1,2,hr,3\n1,0,{NFC},1\n1,0,{NFD},1\n1,0,rhythm,AFib\n2,0,rhythm,afib\n"
    src = tables.csv("e.csv", HEADER + rows)
    out = tables.checked(src)
    assert "3 groups of names that differ in case, spaces or Unicode form alone, and are variables of their own" in out
    assert "'HR' (1 event), 'hr' (2 events)" in out
    assert "'rhythm=AFib' (1 event), 'rhythm=afib' (1 event)" in out
    assert r"'Krea\u0308tinin' (1 event), 'Kre\xe4tinin' (1 event)" in out
    cohort = tables.compile(src)
    assert {"HR", "hr", NFC, NFD} <= set(cohort.vocabulary)
    tables.said()
    assert "'HR' (1 event), 'hr' (2 events)" in check_folder(cohort.path).text()


INDEXED = {  # what pandas writes with its index, and what is wrong with it
    "cached.csv": (",Key,0,1\n0,heart rate,0.5,1\n1,lactate,0.25,2\n", "column 1 has no name"),
    "stats.csv": ("Unnamed: 0,variable,mean,std\n0,heart rate,80,10\n", r"column 1 has no name \(Unnamed: 0\)"),
    "oc.csv": (" ,ts_id,died\n0,1,0\n", "column 1 has no name"),
}


@pytest.mark.parametrize("name", INDEXED)
def test_a_column_without_a_name_is_refused(folder, name):
    text, message = INDEXED[name]
    file = folder.csv(name, text)
    read = {"cached.csv": read_embeddings, "stats.csv": read_stats, "oc.csv": lambda path: read_labels(path, "died")}
    with pytest.raises(InputError, match=rf"{name}: {message}. Is it the index of a pandas table\?"):
        read[name](file)
    assert any("index=False" in finding.text for finding in check_folder(folder.root, "died").findings)


@pytest.mark.parametrize("numbers", [(0, 1, 2), (1, 2, 3), (0, 4, 9)])
def test_an_index_that_has_a_name_is_no_dimension(folder, numbers):
    lines = "".join(f"{at},{name},0.5,-1.25\n" for at, name in zip(numbers, "abc", strict=True))
    file = folder.csv("cached.csv", f"index,Key,0,1\n{lines}")
    with pytest.raises(InputError, match=r"number 1 of each vector is .* This is an index and not a dimension"):
        read_embeddings(file)


def test_a_column_that_is_used_occurs_once(folder):
    file = folder.csv("stats.csv", "variable,mean,std,mean \nheart rate,80,10,90\n")
    with pytest.raises(InputError, match="column mean occurs twice"):
        read_stats(file)


def test_an_index_that_is_not_used_does_not_matter_in_a_long_table(tables):
    src = tables.csv("e.csv", f",{HEADER}0,1,0,hr,1\n1,1,5,hr,2\n")
    assert open_cohort(tables.compile(src).path).vocabulary == ("hr",)
