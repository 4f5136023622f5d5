"""The steps of benchmarks.scale run on a few stays, in this process, so that they cannot rot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import scale
from seqsetvae.cohort import open_cohort
from seqsetvae.system import memory


def test_numbered_stays_are_the_same_however_they_are_divided() -> None:
    source = scale.NumberedStays(50)
    stays = source.stays["train"]
    whole, parts = source.read(stays), [source.read(stays[:7]), source.read(stays[7:])]
    for name in ("n_rows", "variable", "value", "minute"):
        assert np.array_equal(getattr(whole, name), np.concatenate([getattr(part, name) for part in parts]))


@pytest.mark.skipif(not memory.STATUS.exists(), reason="a process's own memory is read from /proc")
def test_all_steps_give_figures_and_the_shards_join_to_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "isolated", lambda benchmark, *arguments: benchmark(*arguments))
    monkeypatch.setattr(scale, "FEW", 250)
    figures = {figure.what: figure for figure in scale.section(600, 3, 150, tmp_path)}
    steps = ("compile 600", "shard 1/3 of 600", "join 600", "load an epoch of 600", "predict 150")
    assert all(figures[f"{step} stays"].value > 0 and f"own memory to {step} stays" in figures for step in steps)
    assert scale.content_hash(tmp_path / "joined") == scale.content_hash(tmp_path / "whole")
    assert open_cohort(tmp_path / "whole").split("train").n_stays == 480
    assert pq.read_metadata(tmp_path / "predicted.parquet").num_rows == 150
