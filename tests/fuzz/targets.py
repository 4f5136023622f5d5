"""What is fuzzed: each target damages a copy of real files and uses them as the program does.

A target is called with a generator and an empty folder. It returns where the files could be used, raises InputError
where they were refused, and anything else is a fault.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np

import finetune_config_optimized as config
from seqsetvae.batches.loading import collate
from seqsetvae.cli import MODES
from seqsetvae.cli import config as config_file
from seqsetvae.cli.command_line import resolve, settings_of
from seqsetvae.cohort import open_cohort
from seqsetvae.cohort.command import main as data_command
from seqsetvae.cohort.manifest import CHECKSUM, MANIFEST, manifest_checksum
from seqsetvae.evaluation.calibration import read_calibration
from seqsetvae.system.files import file_sha256
from tests.fuzz import imports, models, mutate, runs
from tests.fuzz.given import Files, Target, compile_or_refuse, damage_checkpoint, damage_json, damage_one_file
from tests.fuzz.models import load_checkpoint


def physionet(files: Files, rng: random.Random, folder: Path) -> None:
    """A set of PhysioNet 2012 as a folder or an archive, or its outcomes."""
    src = folder / "src"
    shutil.copytree(files.physionet, src)
    form = rng.choice(("folder", "set-a.zip", "set-a.tar.gz", "set-a.tar"))
    if form != "folder":
        if rng.random() < 0.5:
            damage_one_file(src / "set-a", rng)
        kind = {"set-a.zip": "zip", "set-a.tar.gz": "gztar", "set-a.tar": "tar"}[form]
        shutil.make_archive(str(src / "set-a"), kind, src, "set-a")
        shutil.rmtree(src / "set-a")
    damage_one_file(src, rng)
    options = [*(["--skip_bad"] if rng.random() < 0.5 else []), *(["--stay_over_days", "5"] * (rng.random() < 0.2))]
    words = ["physionet2012", str(src), str(folder / "out"), "--jobs", "1"]
    compile_or_refuse([*words, *options], folder / "out")


def layout(files: Files, rng: random.Random, folder: Path) -> None:
    """A folder of the old layout, compiled or checked."""
    src = folder / "src"
    shutil.copytree(files.layout, src)
    damage_one_file(src, rng)
    if rng.random() < 0.3:
        assert data_command(["check", str(src), "--work_dir", str(folder)]) in (0, 1)
        return
    options = ["--skip_bad"] if rng.random() < 0.5 else []
    compile_or_refuse(
        ["compile", str(src / "patient_ehr"), str(folder / "out"), "--jobs", "1", *options], folder / "out"
    )


def cohort(files: Files, rng: random.Random, folder: Path) -> None:
    """A compiled cohort; in half of the cases its checksums are made to fit what was damaged."""
    path = folder / "cohort"
    shutil.copytree(files.cohort, path)
    manifest = path / MANIFEST
    if rng.random() < 0.5:
        damage_one_file(path, rng)
    else:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        if rng.random() < 0.6:
            content = json.loads(json.dumps(mutate.tree_of(content, rng)))  # in a file every key is text
        else:
            array = rng.choice(sorted(path.rglob("*.npy")))
            array.write_bytes(mutate.bytes_of(array.read_bytes(), rng))
            content["checksums"][array.relative_to(path).as_posix()] = file_sha256(array)
        if CHECKSUM in content:
            content[CHECKSUM] = manifest_checksum(content)
        manifest.write_text(json.dumps(content), encoding="utf-8")
    opened = open_cohort(path, verify=rng.random() < 0.8)
    for split in opened.splits.values():
        collate(split, np.arange(split.n_stays))
    assert data_command(["check", str(path)]) in (0, 1)


def checkpoint(files: Files, rng: random.Random, folder: Path) -> None:
    """A pretrained or a fine-tuned checkpoint."""
    finetuned = rng.random() < 0.5
    path = files.run / "checkpoints" / "best.ckpt" if finetuned else files.pretrained
    damaged = folder / "file.ckpt"
    parts = [part for part in ("hyper_parameters", "state_dict") if rng.random() < 0.6]
    damage_checkpoint(path, damaged, rng, lambda content: parts)
    load_checkpoint(damaged, finetuned=finetuned, rng=rng)


def calibration(files: Files, rng: random.Random, folder: Path) -> None:
    """calibration.json of a run."""
    best = folder / "best.ckpt"
    shutil.copyfile(files.run / "checkpoints" / "best.ckpt", best)
    shutil.copyfile(files.run / "calibration.json", folder / "calibration.json")
    damage_json(folder / "calibration.json", rng)
    found, said = read_calibration(best)
    if found is not None:
        found.calibrated(np.array([-1.0, 0.0, 3.0]))
        assert found.threshold is None or 0 <= found.threshold <= 1
    assert said


def settings(files: Files, rng: random.Random, folder: Path) -> None:
    """Flags, lines of the config file, or the text of the config file."""
    if rng.random() < 0.3:
        _config_file(rng, folder)
        return
    module = ModuleType("finetune_config_optimized")
    values = {name: value for name, value in vars(config).items() if not name.startswith("_")}
    changed = mutate.tree_of(values, rng) if rng.random() < 0.5 else values
    vars(module).update({name: value for name, value in changed.items() if isinstance(name, str)})
    mode = rng.choice(sorted(MODES))
    words = ["--mode", mode]
    paths = (files.layout, files.cohort, files.pretrained, files.run, folder / "new.npz", folder / "new.csv")
    for name in rng.sample(sorted(settings_of(MODES)), rng.randrange(1, 6)):
        value = rng.choice((*mutate.VALUES, *map(str, paths)))
        words += [f"--{name}", *([str(value)] if rng.random() < 0.9 else [])]
    usual = {"data_dir": files.cohort, "ckpt": files.run, "pretrained_ckpt": files.pretrained, "split": "valid"}
    for name, value in usual.items():
        if rng.random() < 0.8:
            words += [f"--{name}", str(value)]
    resolve(module, words, MODES)


def _config_file(rng: random.Random, folder: Path) -> None:
    text = Path(config.__file__).read_bytes()
    (folder / "finetune_config_optimized.py").write_bytes(mutate.bytes_of(text, rng))
    file = folder / "finetune_config_optimized.py"
    resolve(config_file.load_config(file), ["--mode", "pretrain", "--data_dir", str(folder)], MODES)


TARGETS: dict[str, tuple[Target, int]] = {  # with the share of the cases, of 100
    "physionet": (physionet, 11),
    "layout": (layout, 11),
    "cohort": (cohort, 11),
    "table": (imports.table, 13),
    "meds": (imports.meds, 10),
    "labels": (imports.labels, 10),
    "checkpoint": (checkpoint, 9),
    "safetensors": (models.safetensors, 7),
    "trees": (models.trees, 5),
    "calibration": (calibration, 3),
    "settings": (settings, 6),
    "resume": (runs.resume, 2),
    "run_folder": (runs.run_folder, 1),
    "report": (runs.report, 1),
}
