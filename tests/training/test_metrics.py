"""Sums over a split: exact, started again by a reset, and the same from one process as from several."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from seqsetvae.tasks.model import GatheredOutputs
from seqsetvae.tasks.spec import one_label
from seqsetvae.training.metrics import FiniteCheck, RunningMean

PROCESSES = 2


def test_a_running_mean_counts_every_stay_once_and_is_reset():
    mean = RunningMean()
    for value, n_stays in ((1.0, 8), (4.0, 2)):
        mean.add(torch.tensor(value, requires_grad=True), n_stays)
    first = mean.compute_and_reset()
    assert float(first) == pytest.approx(1.6)
    assert not first.requires_grad  # else it would hold every step's graph until the epoch ends
    mean.add(torch.tensor(3.0), 5)
    assert float(mean.compute_and_reset()) == 3.0


def test_a_running_mean_weighs_by_tensors_too():
    mean = RunningMean()
    mean.add(torch.tensor(1.0), torch.tensor(3.0))
    mean.add(torch.tensor(5.0), torch.tensor(1.0))
    assert float(mean.so_far()) == 2.0  # type: ignore[arg-type]
    assert float(mean.compute_and_reset()) == 2.0
    assert mean.so_far() is None
    mean.add(torch.tensor(float("nan")), 8)
    mean.add(torch.tensor(1.0), 8)
    assert mean.compute_and_reset().isnan()


def test_counts_beyond_single_precision_stay_exact():
    mean = RunningMean()
    for _ in range(3):
        mean.add(torch.tensor(0.0), 2**24)
        mean.add(torch.tensor(0.0), 1)
    mean.update()
    assert mean.weight == 3 * (2**24 + 1)


def test_a_batch_that_is_not_finite_is_an_error_that_counts_and_names_batches():
    check = FiniteCheck()
    for index, value in enumerate((0.0, float("nan"), 1.0, float("inf"))):
        check.update(torch.tensor([value, 1.0]), index)
    with pytest.raises(
        FloatingPointError, match=r"val_auc is not finite: .* in 2 validation batches, first in batch 1"
    ):
        check.check_and_reset("val_auc")
    check.update(torch.zeros(3), 0)
    check.check_and_reset("val_auc")  # the next validation starts again


# ------------------------------------------------------------------------------------------------ several processes


def _batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(logits [N, 2], labels [N]) of batches of different sizes, the third not finite."""
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(size, 2, generator=generator), torch.randint(2, (size,), generator=generator))
        for size in (3, 1, 4, 2)
    ]
    batches[2][0][0] = float("nan")
    return batches


def _measure(batches: list[tuple[int, tuple[torch.Tensor, torch.Tensor]]]) -> dict[str, Any]:
    mean, finite, predictions = RunningMean(), FiniteCheck(), GatheredOutputs(one_label())
    for index, (logits, label) in batches:
        mean.add(logits.nan_to_num().mean(), len(label))
        finite.update(logits, index)
        predictions.update(logits, label)
    output, target = predictions.compute()
    rows = sorted(zip(target.flatten().tolist(), map(repr, output.flatten().tolist()), strict=True))
    return {"mean": float(mean.compute_and_reset()), "finite": [int(value) for value in finite.compute()], "rows": rows}


def _process(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=PROCESSES
    )
    torch.save(_measure(list(enumerate(_batches()))[rank::PROCESSES]), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_measure_what_one_does(tmp_path):
    torch.multiprocessing.start_processes(_process, (tmp_path,), nprocs=PROCESSES, start_method="fork")
    one = _measure(list(enumerate(_batches())))
    assert one["finite"] == [1, 2]
    for rank in range(PROCESSES):
        both = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert both["mean"] == pytest.approx(one["mean"], rel=1e-6)
        assert both["finite"] == one["finite"]
        assert both["rows"] == one["rows"]
        assert len({output for _, output in both["rows"]}) == 10  # every stay once
