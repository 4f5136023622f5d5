"""A row of `benchmarks.quality`: TabM (Gorishniy et al., ICLR 2025; package `tabm`) on the summaries of each variable.

Legend: n stays, c columns of the table of summaries that `variable_summaries` gives to boosted trees, K = 4 members.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from rtdl_num_embeddings import PiecewiseLinearEmbeddings, compute_bins
from sklearn.preprocessing import QuantileTransformer
from tabm import TabM

from seqsetvae.cohort import Cohort
from seqsetvae.evaluation.crossvalidation import Columns
from seqsetvae.modes import finetune
from seqsetvae.modes.crossvalidation_jobs import loaders
from seqsetvae.trained_on import new_transform
from seqsetvae.training.table import fit_to_training_stays, table_of_split

MEMBERS, WIDTH, BINS, EMBEDDING = 4, 256, 8, 4
INPUT_DROPOUT, DROPOUT = 0.2, 0.1  # of columns, and of units
EPOCHS, BATCH_SIZE, RATE, DECAY = 12, 256, 2e-3, 3e-4


def predict(settings: finetune.Settings, fold: Cohort) -> Columns:
    """Train on a fold's train split; log-odds of its held-out stays."""
    torch.manual_seed(settings.run.seed)
    data = loaders(settings, fold, new_transform(settings.architecture, settings.values, fold))
    backbone = finetune.untrained(settings, fold)
    fit_to_training_stays(backbone, data)
    variables = backbone.variable_table(fold)
    (train, table), (valid, held_out) = (table_of_split(backbone, variables, data, name) for name in ("train", "valid"))
    logit = fit_and_predict(table, fold.split("train").label[train], held_out)
    split = fold.split("valid")
    return {"stay_id": split.stay_id[valid], "label": split.label[valid].astype(np.int64), "TabM": logit}


def fit_and_predict(table: np.ndarray, label: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Train on [n, c] with NaN for missing and labels [n] of 0 and 1; mean log-odds of the members for other rows."""
    features, others = prepared(table, other)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*just two bin edges")  # columns of what is missing
        bins = compute_bins(features, n_bins=BINS)
        embedding = PiecewiseLinearEmbeddings(bins, EMBEDDING, activation=False, version="B")
    model = TabM.make(
        n_num_features=features.shape[1],
        d_out=1,
        k=MEMBERS,
        d_block=WIDTH,
        dropout=DROPOUT,
        num_embeddings=embedding,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    n_steps = EPOCHS * math.ceil(len(features) / BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    target = torch.from_numpy(label.astype(np.float32))
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(features)).split(BATCH_SIZE):
            logits = model(F.dropout(features[rows], INPUT_DROPOUT)).squeeze(-1)
            loss = F.binary_cross_entropy_with_logits(logits, target[rows, None].expand_as(logits))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.inference_mode():
        parts = [model(rows).squeeze(-1).mean(dim=1) for rows in others.split(BATCH_SIZE)]
    return torch.cat(parts).double().numpy()


def prepared(table: np.ndarray, other: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Normal scores of both tables by the quantiles of the first, 0 where missing, and one column for what is missing
    together; columns that are constant in the first are left out."""
    scores = QuantileTransformer(n_quantiles=min(1000, len(table)), output_distribution="normal", random_state=0)
    scores.fit(table)
    _, columns = np.unique(np.isnan(table), axis=1, return_index=True)
    found = [
        np.hstack([np.nan_to_num(scores.transform(part)), np.isnan(part)[:, columns]]).astype(np.float32)
        for part in (table, other)
    ]
    varies = np.ptp(found[0], axis=0) > 0
    first, second = (torch.from_numpy(part[:, varies]) for part in found)
    return first, second
