"""Embed: write the set means and history states of every stay to an .npz file."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from seqsetvae.architectures.seqsetvae.backbone import Backbone
from seqsetvae.batch import Batch
from seqsetvae.files import new_file
from seqsetvae.metrics import require_finite
from seqsetvae.modes.common import (
    check_data,
    check_embeddings,
    data_module,
    embedding_table,
    load_pretrained,
    open_data,
)
from seqsetvae.modes.values import value_transform
from seqsetvae.settings import Settings
from seqsetvae.training.precision import Precision, prepare_device


def run(settings: Settings) -> Path:
    """Write `<id>/mu` and `<id>/history` (sets × latent_dim, float32) for every stay of --split; needs no labels."""
    assert settings.split is not None, "settings are checked before a mode runs"
    assert settings.output is not None, "settings are checked before a mode runs"
    device = prepare_device(settings)
    width = check_data(settings, settings.split, labelled=False)
    backbone, checkpoint, _ = load_pretrained(settings, Backbone, width)
    cohort = open_data(settings)
    split = cohort.split(settings.split)
    check_embeddings(cohort, backbone.sizes.input_dim, checkpoint.fingerprints, checkpoint.path)
    dtype = torch.float64 if settings.precision == "64-true" else torch.float32
    backbone = backbone.to(device, dtype).eval()
    if settings.compile_model:
        backbone.compile_dense_parts()
    table = embedding_table(cohort, settings).to(device)
    transform = value_transform(settings, checkpoint, cohort)
    loader = data_module(settings, cohort, device, transform, labelled=False).loader(settings.split)
    n_sets = 0  # less than the split's where --max_sets cuts stays
    with new_npz(settings.output) as archive, tqdm(total=split.n_stays, unit="stay", disable=None) as progress:
        for batch in loader:
            with Precision.of(settings, device).context():
                mu, history = encode(backbone, batch.to(device), table)
            stay_of_set = batch.stay_id[batch.stay_of_set]
            require_finite(torch.from_numpy(history), stay_of_set, settings.split)
            for name, rows in split_by_stay(batch, mu=mu, history=history):
                write_array(archive, name, rows)
            n_sets += batch.n_sets
            progress.update(batch.n_stays)
    print(f"Wrote {settings.output}: {split.n_stays:,} stays, {n_sets:,} sets of the {settings.split} split")
    return settings.output


@torch.inference_mode()
def encode(backbone: Backbone, batch: Batch, embeddings: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(mu, history) of every set of a batch: [S, D] float32 each."""
    mu = backbone.set_means(batch, embeddings)
    history = backbone.history(mu, batch)
    return mu.float().cpu().numpy(), history.float().cpu().numpy()


def split_by_stay(batch: Batch, **arrays: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """("<id>/<name>", rows of the stay) for every stay of the batch and every array [S, D]."""
    ends = np.cumsum(batch.sets_per_stay.numpy())
    for stay, start, end in zip(batch.stay_id.tolist(), [0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        for name, rows in arrays.items():
            yield f"{stay}/{name}", rows[start:end]


@contextlib.contextmanager
def new_npz(path: Path) -> Iterator[zipfile.ZipFile]:
    """An .npz written array by array, so that memory holds one batch; it appears under its name when complete.

    Raises:
        InputError: a file of that name exists, at the start or by the end, or it cannot be written.
    """
    with new_file(path, replace=False) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        yield archive


def write_array(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    """Add an array as np.savez does."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
