"""The GPU benchmark, every line of it but the clock of a GPU, on a CPU with a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.__main__ import SECTIONS, table
from benchmarks.measure import Figure
from seqsetvae.cohort import Cohort
from seqsetvae.models.seqsetvae.backbone import Backbone
from tests.tiny import SIZES


def test_every_variant_of_every_step_is_measured(compiled: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "INDUCING_ROWS", 64)
    monkeypatch.setattr(gpu, "REPEATS", 1)
    steps = list(gpu.STEPS)[:2]  # test_loop_and_floor.py runs all
    monkeypatch.setattr(gpu, "STEPS", steps)
    compiled_models: list[Backbone] = []
    monkeypatch.setattr(Backbone, "compile_dense_parts", lambda backbone: compiled_models.append(backbone))
    figures = gpu.measure(compiled, SIZES, torch.device("cpu"), (8,), n_batches=2)
    speeds = [figure for figure in figures if figure.unit == "stays/s"]
    assert [figure.what.split(",")[0] for figure in speeds[:: len(gpu.VARIANTS)]] == steps
    assert len(speeds) == len(steps) * len(gpu.VARIANTS)
    assert len(figures) == len(speeds) + len(gpu.VARIANTS)  # and an epoch each
    assert len(compiled_models) == len(steps)
    assert all(figure.value > 0 for figure in figures)
    assert sum(figure.ratio is None for figure in speeds) == len(steps)
    assert "TFLOP/s" in speeds[0].note
    assert "frozen forward, float32, padded sizes, batches of 8" in table("GPU", figures)


def test_a_variant_that_fails_does_not_hide_the_others(
    compiled: Cohort, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def broken(backbone: Backbone) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(gpu, "INDUCING_ROWS", 64)
    monkeypatch.setattr(gpu, "REPEATS", 1)
    monkeypatch.setattr(gpu, "STEPS", ["frozen forward"])
    monkeypatch.setattr(Backbone, "compile_dense_parts", broken)
    assert len(gpu.measure(compiled, SIZES, torch.device("cpu"), (8,), n_batches=1)) == len(gpu.VARIANTS) - 1
    assert "compiled, batches of 8: failed, no compiler" in capsys.readouterr().out


def test_nothing_is_compared_with_a_first_variant_that_failed() -> None:
    first, second, third = ({one.name: Figure(what="a step", value=1.0, unit="stays/s")} for one in gpu.VARIANTS[:3])
    assert [figure.ratio for figure in gpu.against_exact(first | second)] == [None, 1.0]
    assert [figure.ratio for figure in gpu.against_exact(second | third)] == [None, None]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: this would measure it")
def test_without_a_gpu_it_says_that_it_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    _, section = SECTIONS["gpu"]
    assert section(tmp_path, tmp_path) == []
    assert capsys.readouterr().out == "GPU: skipped, torch sees none\n"
