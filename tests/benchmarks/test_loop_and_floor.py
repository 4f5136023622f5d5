"""The benchmarks of the model: both ways get the same stays, and what is counted is what is computed."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import floor, loop
from benchmarks.__main__ import SECTIONS, keep, main
from benchmarks.measure import Figure, Timed, apart, isolated
from benchmarks.workloads import STEPS, Stays, Workload, open_stays
from seqsetvae.batches.loading import collate
from seqsetvae.cohort import Cohort
from seqsetvae.system.errors import InputError
from tests.benchmarks.turns import in_this_process
from tests.tiny import SIZES

TRAINING = [step for step in STEPS if step != "frozen forward"]


@pytest.mark.parametrize("what", ["frozen forward", *(pytest.param(step, marks=pytest.mark.slow) for step in TRAINING)])
def test_every_step_is_compared_with_the_loop(compiled: Cohort, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "apart", in_this_process)
    monkeypatch.setattr(loop, "OURS_IN_A_TURN", 1)
    monkeypatch.setattr(loop, "TURNS", 1)
    figure = loop.against_loop(what, compiled.path, SIZES, 1)
    assert (figure.what, figure.wanted) == (what, loop.WANTED[what])
    assert figure.baseline is not None
    assert figure.ratio == pytest.approx(figure.value / figure.baseline)
    assert figure.value > 0


def test_a_turn_of_ours_counts_as_the_several_runs_that_it_is(
    compiled: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "apart", lambda builds, repeats: [Timed(40.0, 900.0), Timed(10.0, 500.0)])
    figure = loop.against_loop("frozen forward", compiled.path, SIZES, 1)
    assert figure.baseline == pytest.approx(8 / 40)
    assert figure.value == pytest.approx(8 * loop.OURS_IN_A_TURN / 10)
    assert figure.peak_mib == 500.0


@pytest.mark.parametrize("what", STEPS)
def test_every_step_is_compared_with_plain_products(
    compiled: Cohort, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floor, "REPEATS", 1)
    (figure,) = floor.share_of_rate(what, compiled.path, SIZES, 1)
    assert (figure.what, figure.wanted) == (what, floor.WANTED[what])
    assert figure.baseline is not None
    assert figure.ratio == pytest.approx(figure.value / figure.baseline)
    assert figure.value > 0


def workers_start() -> list[Figure]:
    return [Figure(what=multiprocessing.get_start_method(), value=1.0, unit="way")]


@pytest.mark.slow
def test_what_is_isolated_starts_workers_as_a_user_would() -> None:
    (figure,) = isolated(workers_start)
    assert figure.what == multiprocessing.get_all_start_methods()[0]
    assert figure.peak_mib is not None


def build_naps(seconds: float) -> Callable[[], object]:
    return partial(time.sleep, seconds)


@pytest.mark.slow
def test_workloads_run_in_turn_each_in_a_process_of_its_own() -> None:
    short, long = apart([partial(build_naps, 0.01), partial(build_naps, 0.2)], repeats=1)
    assert 0.01 <= short.seconds < 0.2 <= long.seconds
    assert min(short.peak_mib, long.peak_mib) > 0


def test_the_loop_reads_the_stays_of_the_batch(compiled: Cohort) -> None:
    split = compiled.split("train")
    for stay in range(5):
        plain, batch = loop.plain_stay(split, stay), collate(split, np.array([stay]), dtype=np.float64)
        assert [minute for minute, _ in plain] == batch.minute.tolist()
        ours = zip(batch.variable.tolist(), batch.value.tolist(), strict=True)
        assert sorted(event for _, events in plain for event in events) == sorted(ours)


def test_a_loop_that_computes_something_else_is_noticed(compiled: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(loop.Loop):
        def forward(self, *arguments: Any) -> torch.Tensor:
            return super().forward(*arguments) + 2 * loop.CLOSE

    monkeypatch.setattr(loop, "Loop", Other)
    monkeypatch.setattr(loop, "apart", in_this_process)
    with pytest.raises(AssertionError, match="differ"):
        loop.against_loop("frozen forward", compiled.path, SIZES, 1)


def test_all_products_count_also_those_that_write_in_place(compiled: Cohort) -> None:
    workload = Workload("frozen forward", Stays(compiled.path, SIZES, batch_size=4, n_batches=2))

    def step(_: object) -> None:
        torch.nn.functional.linear(torch.ones(3, 4), torch.ones(5, 4), torch.ones(5))
        torch.bmm(torch.ones(2, 3, 4), torch.ones(2, 4, 5), out=torch.empty(2, 3, 5))

    workload.step = step
    assert workload.needed_flop() == 2 * (2 * 3 * 4 * 5 + 2 * 2 * 3 * 4 * 5)


def test_a_section_measured_again_replaces_its_own_figures_alone(tmp_path: Path) -> None:
    for section, value in (("loop", 1.0), ("floor", 2.0), ("loop", 3.0)):
        keep(section, [Figure(what="a step", value=value, unit="s")], "synthetic", tmp_path)
    kept = json.loads((tmp_path / "figures.json").read_text())["sections"]
    assert {name: figures[0]["value"] for name, figures in kept.items()} == {"loop": 3.0, "floor": 2.0}
    assert "| a step | 3 s |" in (tmp_path / "tables.md").read_text()
    with pytest.raises(InputError, match="use another --output"):
        keep("loop", [], "a compiled cohort", tmp_path)


def test_each_section_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def section(data_dir: Path | None, scratch: Path) -> list[Figure]:
        cohort = open_stays(data_dir, scratch, n_synthetic=60)
        return [Figure(what="stays", value=cohort.split("train").n_stays, unit="stays")]

    for name in ("loop", "floor"):
        monkeypatch.setitem(SECTIONS, name, (name, section))
    monkeypatch.setattr("sys.argv", ["benchmarks", "--output", str(tmp_path), "--only", "loop", "floor"])
    assert main() == 0
    assert json.loads((tmp_path / "figures.json").read_text())["sections"].keys() == {"loop", "floor"}


@pytest.mark.parametrize("wrong", ["no such cohort", "figures of other data"])
def test_what_does_not_fit_is_said_before_anything_is_measured(
    wrong: str, compiled: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep("loop", [Figure(what="a step", value=1.0, unit="s")], "synthetic", tmp_path)
    data_dir = tmp_path / "nothing" if wrong == "no such cohort" else compiled.path
    arguments = ["--data_dir", str(data_dir), "--output", str(tmp_path), "--only", "loop"]
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    monkeypatch.setitem(SECTIONS, "loop", ("", lambda *_: pytest.fail("it measured")))
    assert main() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert str(data_dir if wrong == "no such cohort" else tmp_path) in error
