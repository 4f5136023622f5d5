"""The gathered outputs of a validation: their metrics are exact, to the last bit those of torchmetrics' own classes."""

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

from seqsetvae.tasks.model import GatheredOutputs, ranking_score
from seqsetvae.tasks.spec import one_label


def test_ranking_scores_keep_the_order_where_probabilities_tie():
    """A sigmoid of logits near 40 is exactly 1; the AUROC of such scores would be that of a coin."""
    target = torch.tensor([0, 1] * 50)
    logits = torch.zeros(100, 2)
    logits[:, 1] = 40 + target + torch.randn(100) * 0.8
    score = ranking_score(logits.double().diff(dim=1).squeeze(1))
    assert ((score > 0) & (score < 1)).all()
    assert roc_auc_score(target, score) == roc_auc_score(target, logits[:, 1])
    assert roc_auc_score(target, logits.diff(dim=1).sigmoid()) < roc_auc_score(target, score) - 0.05


def test_log_odds_of_any_size_are_ranked():
    """Beyond 1e15 a formula such as x / (1 + |x|) has one value for all; the AUROC of ties is 0.5."""
    target = torch.tensor([0, 1] * 50)
    logit = 1e300 * (1 + target.double() * 1e-9 + torch.arange(100, dtype=torch.float64) * 1e-15)
    assert roc_auc_score(target, ranking_score(logit)) == 1.0


def test_the_ranking_score_of_equal_odds_is_one_half():
    assert ranking_score(torch.zeros(2)).tolist() == [0.5, 0.5]


def _gathered(sizes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[GatheredOutputs, list]:
    """The outputs of random batches of these sizes, and the batches."""
    gathered, batches = GatheredOutputs(one_label()), []
    for size in sizes:
        batches.append((torch.randn(size, 2).mul(20).to(dtype), torch.randint(2, (size,))))
        gathered.update(*batches[-1])
    return gathered, batches


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # in bfloat16 many logits tie
def test_metrics_equal_those_of_torchmetrics_updated_batch_by_batch(dtype):
    """val_auc was computed in this way before there was a table."""
    gathered, batches = _gathered((64, 7, 33, 1), dtype)
    auroc, auprc = BinaryAUROC(validate_args=False), BinaryAveragePrecision(validate_args=False)
    for logits, label in batches:
        margin = logits.detach().double().diff(dim=1).squeeze(1)
        for metric in (auroc, auprc):
            metric.update(0.5 + 0.5 * margin / (1 + margin.abs()), label)
    ranking = gathered.metrics()
    assert torch.equal(ranking["auc"], auroc.compute())
    assert torch.equal(ranking["auprc"], auprc.compute())


def test_a_row_holds_log_odds_and_label():
    gathered, batches = _gathered((3, 2))
    output, target = gathered.compute()
    assert torch.equal(
        output[:, 0], torch.cat([logits.double()[:, 1] - logits.double()[:, 0] for logits, _ in batches])
    )
    assert torch.equal(target[:, 0], torch.cat([label for _, label in batches]))
    gathered.reset()
    gathered.update(*batches[1])
    assert torch.equal(gathered.compute()[1][:, 0], batches[1][1])


def test_unlabelled_stays_that_fill_up_a_process_are_not_in_the_metrics():
    gathered, _ = _gathered((64,))
    expected = gathered.metrics()
    gathered.update(torch.tensor([[0.0, 1e6], [1e6, 0.0]]), torch.tensor([-1, -1]))
    assert gathered.metrics() == expected
