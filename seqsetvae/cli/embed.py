"""Embed: write the set means and history states of every stay to an .npz file."""

from __future__ import annotations

from dataclasses import dataclass

from seqsetvae.models import ARCHITECTURES, ArchitectureSettings
from seqsetvae.settings import groups

HELP = "write latent means and history states to a file"
NEEDS = ("pretrained_ckpt", "data_dir", "split", "output")
BODY = "seqsetvae.runs.embed"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What embedding reads."""

    pretrained: groups.PretrainedSettings
    split: groups.SplitSettings
    output: groups.OutputSettings
    data: groups.DataSettings
    loader: groups.LoaderSettings
    architecture: ArchitectureSettings
    run: groups.RunSettings


def problems(settings: Settings) -> list[str]:
    """The output must be a new .npz file in a folder that exists, and the architecture must have a state per set."""
    architecture = settings.architecture.architecture
    if "states" not in ARCHITECTURES[architecture].OFFERS:
        return [f"architecture: received {architecture!r}, which has no state of each set; allowed: seqsetvae"]
    return settings.output.problems_of_new_file(".npz")
