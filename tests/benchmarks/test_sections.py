"""Every section runs, on a few synthetic stays and in this process, so that it cannot rot; machines differ, so that no
figure is compared with a limit."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import data, floor, frozen, gpu, loop, processes, scale, summaries
from benchmarks.__main__ import SECTIONS, keep, main, table
from benchmarks.measure import Build, Measurement, Timed, seconds_in_turn
from benchmarks.repeat import HEADER, one_training
from benchmarks.workloads import STEPS, Stays, Workload, open_stays
from seqsetvae.batches.loading import collate
from seqsetvae.models.seqsetvae.backbone import Backbone
from seqsetvae.system import resources as memory
from seqsetvae.system.errors import InputError
from tests import tiny

needs_proc = pytest.mark.skipif(not memory.STATUS.exists(), reason="a process's own memory is read from /proc")


def _apart(builds: Sequence[Build], repeats: int) -> list[Timed]:
    """What `measure.apart` does: one turn, and one that does not count."""
    return [Timed(took, 1.0) for took in seconds_in_turn([build() for build in builds], min(repeats, 1))]


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for section in (data, frozen, scale):
        monkeypatch.setattr(section, "isolated", lambda benchmark, *arguments: benchmark(*arguments))
    monkeypatch.setattr(loop, "apart", _apart)


def test_data_runs_on_a_compiled_cohort(compiled, tmp_path):
    figures = data.section(compiled.path, tmp_path, n_stays=12, n_read=8)
    assert len(figures) == 9
    assert all(figure.value >= 0 for figure in figures)
    assert all(figure.note.startswith("synthetic stays") for figure in figures)  # as the manifest says, not the flag
    assert (tmp_path / "compiled" / "manifest.json").is_file()


def test_the_frozen_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(frozen, "PRACTICE", tiny.SIZES)
    monkeypatch.setattr(frozen, "SYNTHETIC_STAYS", 50)
    monkeypatch.setattr(frozen, "EPOCHS", 2)
    figures = frozen.section(None, tmp_path)
    assert all("synthetic" in figure.note and figure.value > 0 for figure in figures)
    for run in figures[:2]:
        assert run.baseline == figures[3].value
        assert run.ratio == pytest.approx(figures[3].value / run.value)
    assert "≥ 15" in table(SECTIONS["frozen"][0], figures)


def test_gpu_measures_every_variant_and_one_that_fails_hides_no_other(compiled, monkeypatch, capsys):
    def broken(backbone: Backbone) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(gpu, "INDUCING_ROWS", 64)
    monkeypatch.setattr(gpu, "REPEATS", 1)
    monkeypatch.setattr(gpu, "STEPS", ["frozen forward"])
    for compiler, failed in ((lambda backbone: None, 0), (broken, 1)):
        monkeypatch.setattr(Backbone, "compile_dense_parts", compiler)
        figures = gpu.measure(compiled, tiny.SIZES, torch.device("cpu"), (8,), n_batches=1)
        speeds = [figure for figure in figures if figure.unit == "stays/s"]
        assert len(speeds) == len(gpu.VARIANTS) - failed
        assert all(figure.value > 0 for figure in figures)
        assert sum(figure.ratio is None for figure in speeds) == 1
    assert "compiled, batches of 8: failed, no compiler" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: this would measure it")
def test_without_a_gpu_it_says_that_it_is_skipped(tmp_path, capsys):
    assert SECTIONS["gpu"][1](tmp_path, tmp_path) == []
    assert capsys.readouterr().out == "GPU: skipped, torch sees none\n"


@pytest.mark.parametrize("what", STEPS)
def test_every_step_is_compared_with_plain_products(compiled, what, monkeypatch):
    monkeypatch.setattr(floor, "REPEATS", 1)
    (figure,) = floor.share_of_rate(what, compiled.path, tiny.SIZES, 1)
    assert (figure.what, figure.wanted) == (what, floor.WANTED[what])
    assert figure.ratio == pytest.approx(figure.value / figure.baseline)


def test_a_step_is_compared_with_the_loop_which_must_compute_the_same(compiled, monkeypatch):
    for name, value in (("BATCH_SIZE", 2), ("OURS_IN_A_TURN", 1), ("TURNS", 1)):
        monkeypatch.setattr(loop, name, value)
    figure = loop.against_loop("frozen forward", compiled.path, tiny.SIZES, 1)
    assert figure.ratio == pytest.approx(figure.value / figure.baseline)

    class Other(loop.Loop):
        def forward(self, *arguments: Any) -> torch.Tensor:
            return super().forward(*arguments) + 2 * loop.CLOSE

    monkeypatch.setattr(loop, "Loop", Other)
    with pytest.raises(AssertionError, match="differ"):
        loop.against_loop("frozen forward", compiled.path, tiny.SIZES, 1)


def test_the_loop_reads_the_stays_of_the_batch(compiled):
    split = compiled.split("train")
    for stay in range(5):
        plain, batch = loop.plain_stay(split, stay), collate(split, np.array([stay]), dtype=np.float64)
        assert [minute for minute, _ in plain] == batch.minute.tolist()
        ours = zip(batch.variable.tolist(), batch.value.tolist(), strict=True)
        assert sorted(event for _, events in plain for event in events) == sorted(ours)


def test_all_products_count_also_those_that_write_in_place(compiled):
    workload = Workload("frozen forward", Stays(compiled.path, tiny.SIZES, batch_size=4, n_batches=2))

    def step(_: object) -> None:
        torch.nn.functional.linear(torch.ones(3, 4), torch.ones(5, 4), torch.ones(5))
        torch.bmm(torch.ones(2, 3, 4), torch.ones(2, 4, 5), out=torch.empty(2, 3, 5))

    workload.step = step
    assert workload.needed_flop() == 2 * (2 * 3 * 4 * 5 + 2 * 2 * 3 * 4 * 5)


def test_processes_count_the_cpu_time_of_further_epochs_and_how_even_the_work_is(compiled, monkeypatch):
    """60 stays; starting takes 7 s, an epoch 2 s for one process and 3 s for two."""

    def train(cohort: Path, devices: int, epochs: int, batch_size: int) -> processes.Trained:
        return processes.Trained(100.0 * devices, 7 + epochs * (1 + devices))

    monkeypatch.setattr(processes, "train", train)
    speed, cost = processes.scaling(compiled.path, 8, 3)
    assert (speed.value, speed.baseline, speed.ratio) == (200, 100, 2)
    assert (cost.value, cost.baseline) == (pytest.approx(50), pytest.approx(1000 * 2 / 60))
    rng = np.random.default_rng(0)
    stays = [tiny.random_stay(rng, [1] * n_events) for n_events in range(1, 65)]
    figure = processes.imbalance(tiny.split_of(stays), 2, 4)
    assert 1 <= figure.value < 1.05 < figure.baseline  # whole batches are less even


@needs_proc
def test_repeat_gives_a_row_of_the_table_for_a_training(compiled):
    row = one_training(7, compiled.path, ["--preset", "small", "--batch_size", "8", "--num_workers", "0"])
    assert row.count("|") == HEADER.count("|")
    number, *figures = (float(cell.replace(",", "")) for cell in row.strip("|").split("|"))
    assert number == 7
    assert all(figure > 0 for figure in figures[:4])


@needs_proc
def test_scale_gives_figures_of_all_steps_and_the_shards_join_to_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "FEW", 250)
    figures = {figure.what: figure for figure in scale.section(600, 3, 150, tmp_path)}
    steps = ("compile 600", "shard 1/3 of 600", "join 600", "load an epoch of 600", "predict 150")
    assert all(figures[f"{step} stays"].value > 0 and f"own memory to {step} stays" in figures for step in steps)
    assert scale.content_hash(tmp_path / "joined") == scale.content_hash(tmp_path / "whole")
    assert pq.read_metadata(tmp_path / "predicted.parquet").num_rows == 150


def test_summaries_are_compared_with_the_plain_reference_and_every_vocabulary_is_trained(compiled, monkeypatch):
    monkeypatch.setattr(summaries, "REPEATS", 1)
    for n_variables in (44, 200):
        figures = [*summaries.training_step(n_variables, 8), *summaries.against_reference(compiled.path, 8)]
        assert all(figure.value > 0 for figure in figures)
        assert all(figure.ratio == pytest.approx(figure.value / figure.baseline) for figure in figures[1:])


def test_a_section_measured_again_replaces_its_own_figures_alone(tmp_path):
    for section, value in (("loop", 1.0), ("floor", 2.0), ("loop", 3.0)):
        keep(section, [Measurement(what="a step", value=value, unit="s")], "synthetic", tmp_path)
    kept = json.loads((tmp_path / "figures.json").read_text())["sections"]
    assert {name: figures[0]["value"] for name, figures in kept.items()} == {"loop": 3.0, "floor": 2.0}
    assert "| a step | 3 s |" in (tmp_path / "tables.md").read_text()
    with pytest.raises(InputError, match="use another --output"):
        keep("loop", [], "a compiled cohort", tmp_path)


def test_each_section_has_a_folder_of_its_own(tmp_path, monkeypatch):
    def section(data_dir: Path | None, scratch: Path) -> list[Measurement]:
        cohort = open_stays(data_dir, scratch, n_synthetic=60)
        return [Measurement(what="stays", value=cohort.split("train").n_stays, unit="stays")]

    for name in ("loop", "floor"):
        monkeypatch.setitem(SECTIONS, name, (name, section))
    monkeypatch.setattr("sys.argv", ["benchmarks", "--output", str(tmp_path), "--only", "loop", "floor"])
    assert main() == 0


@pytest.mark.parametrize("wrong", ["no such cohort", "figures of other data"])
def test_what_does_not_fit_is_said_before_anything_is_measured(wrong, compiled, tmp_path, monkeypatch, capsys):
    keep("loop", [Measurement(what="a step", value=1.0, unit="s")], "synthetic", tmp_path)
    data_dir = tmp_path / "nothing" if wrong == "no such cohort" else compiled.path
    arguments = ["--data_dir", str(data_dir), "--output", str(tmp_path), "--only", "loop"]
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    monkeypatch.setitem(SECTIONS, "loop", ("", lambda *_: pytest.fail("it measured")))
    assert main() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert str(data_dir if wrong == "no such cohort" else tmp_path) in error
