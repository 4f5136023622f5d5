"""Embed: write the set means and history states of every stay to an .npz file."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from seqsetvae.batches.batch import Batch
from seqsetvae.checkpoint.backbone import Loaded
from seqsetvae.cli.embed import Settings
from seqsetvae.models.seqsetvae.backbone import Backbone
from seqsetvae.runs.opening import load_pretrained, open_run
from seqsetvae.system.files import new_file
from seqsetvae.system.processes import finish_distributed, gather_to_first, own_share, this_process
from seqsetvae.training.metrics import require_finite
from seqsetvae.training.precision import Precision, prepare_device, say_precision


def run(settings: Settings) -> Path:
    """Write `<id>/mu` and `<id>/history` (sets × latent_dim, float32) for every stay of --split; needs no labels."""
    split_name, output = settings.split.split, settings.output.output
    assert split_name is not None, "settings are checked before a mode runs"
    assert output is not None, "settings are checked before a mode runs"
    say_precision(settings.run, prepare_device(settings.run))
    groups = settings.data, settings.loader, settings.run

    def load(width: int) -> Loaded:
        return load_pretrained(settings.pretrained, settings.architecture, settings.data, width)

    opened = open_run(*groups, split_name, load=load, leave_out_unknown=True)
    opened.ready()
    backbone, table, precision = opened.model, opened.variables, opened.precision
    split, loader = opened.cohort.split(split_name), opened.loaders.loader(split_name, **own_share())
    parts = gather_to_first((encoded(backbone, batch, table, precision, split_name) for batch in loader), len(loader))
    if this_process().is_first:
        n_sets = _write(output, parts, split.n_stays)  # fewer than the split's where --max_sets cuts stays
        print(f"Wrote {output}: {split.n_stays:,} stays, {n_sets:,} sets of the {split_name} split")
    else:
        list(parts)  # sends them
    finish_distributed()
    for warning in opened.drift([split_name]):
        print(f"⚠️  {warning}")
    return output


def _write(output: Path, parts: Iterable[Embedded], n_stays: int) -> int:
    """Write the .npz file, array by array, so that memory holds one batch; returns the number of sets."""
    n_sets = 0
    with (
        new_file(output, replace=False) as stream,
        zipfile.ZipFile(stream, "w") as archive,
        tqdm(total=n_stays, unit="stay", disable=None) as progress,
    ):
        for part in parts:
            for name, rows in split_by_stay(part):
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:  # as np.savez does
                    np.lib.format.write_array(file, np.ascontiguousarray(rows), allow_pickle=False)
            n_sets += len(part.mu)
            progress.update(len(part.stay_id))
    return n_sets


@dataclass(frozen=True)
class Embedded:
    """The arrays of a batch."""

    stay_id: np.ndarray  # [N]
    n_sets: np.ndarray  # [N]
    mu: np.ndarray  # [S, D]
    history: np.ndarray  # [S, D]


def encoded(backbone: Backbone, batch: Batch, embeddings: torch.Tensor, precision: Precision, split: str) -> Embedded:
    """A batch on the CPU, encoded. Raises FloatingPointError if a history is not finite."""
    with precision.context():
        mu, history = encode(backbone, batch.to(embeddings.device), embeddings)
    require_finite(torch.from_numpy(history), batch.stay_id[batch.stay_of_set], split)
    return Embedded(batch.stay_id.numpy(), batch.sets_per_stay.numpy(), mu, history)


def encode(backbone: Backbone, batch: Batch, embeddings: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(mu, history) of every set of a batch: [S, D] float32 each."""
    with torch.inference_mode():
        mu = backbone.set_means(batch, embeddings)
        history = backbone.history(mu, batch, embeddings)
    return mu.float().cpu().numpy(), history.float().cpu().numpy()


def split_by_stay(batch: Embedded) -> Iterator[tuple[str, np.ndarray]]:
    """("<id>/mu" or "<id>/history", rows of the stay) for every stay of a batch."""
    ends = np.cumsum(batch.n_sets)
    for stay, start, end in zip(batch.stay_id.tolist(), [0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        yield f"{stay}/mu", batch.mu[start:end]
        yield f"{stay}/history", batch.history[start:end]
