"""Small things to test with: ragged stays in memory, backbones with no special parameter, checkpoint files."""

import contextlib
import os
import resource
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from seqsetvae.batches.batch import Batch
from seqsetvae.batches.loading import collate
from seqsetvae.cohort import Cohort, Split, open_cohort, open_or_compile
from seqsetvae.cohort.export import write_csv
from seqsetvae.cohort.open import compile_layout
from seqsetvae.cohort.sources.seqsetvae_layout import locate_layout
from seqsetvae.cohort.variables import generate_embedding
from seqsetvae.models.seqsetvae.backbone import Backbone
from seqsetvae.models.seqsetvae.reference import PlainBackbone, PlainSet
from seqsetvae.models.seqsetvae.sizes import Sizes

SHARED = Path(os.environ.get("SEQSETVAE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
SIZES = Sizes(
    input_dim=12,
    reduced_dim=8,
    latent_dim=32,
    levels=2,
    heads=2,
    m=4,
    ff_dim=48,
    transformer_heads=4,
    transformer_layers=2,
    transformer_dropout=0.1,
)
VARIABLES = 9


def ragged_stays(seed: int = 0) -> list[list[PlainSet]]:
    """Stays of different length; sets of 1, of more than 16 and of 300 events; a variable twice in one set."""
    rng = np.random.default_rng(seed)
    sizes = [[1], [3, 1, 20, 2, 2], [300, 5, 1, 1, 17, 4, 3], [16, 2, 1], [1, 1, 1, 1]]
    return [random_stay(rng, stay_sizes) for stay_sizes in sizes]


def random_stay(rng: np.random.Generator, set_sizes: Sequence[int]) -> list[PlainSet]:
    """Sets of these sizes; gaps from none to more than a day."""
    gaps = rng.choice([0.25, 0.5, 7.0, 60.0, 1440.0, 2000.0], len(set_sizes))
    minutes = np.cumsum(gaps) + 30
    return [
        (float(minute), [(int(rng.integers(VARIABLES)), float(rng.normal(0, 1.5))) for _ in range(size)])
        for minute, size in zip(minutes, set_sizes, strict=True)
    ]


def split_of(stays: Sequence[list[PlainSet]], labels: Sequence[int] | None = None) -> Split:
    """Stays as a split in memory, with the arrays of a compiled one."""
    sets = [one for stay in stays for one in stay]
    events = [event for _, of_set in sets for event in of_set]
    arrays: Any = SimpleNamespace(
        variable=np.array([variable for variable, _ in events], dtype=np.int32),
        value=np.array([value for _, value in events]),
        set_offset=np.cumsum([0, *(len(of_set) for _, of_set in sets)]),
        minute=np.array([minute for minute, _ in sets]),
        stay_offset=np.cumsum([0, *map(len, stays)]),
        stay_id=np.arange(len(stays)) + 100,
        label=np.array(labels if labels is not None else np.arange(len(stays)) % 2, dtype=np.int8),
        n_stays=len(stays),
        n_sets=len(sets),
        n_events=len(events),
    )
    return arrays


def batch_of(stays: Sequence[list[PlainSet]], dtype: type = np.float64, padded_classes: bool = False) -> Batch:
    """All of these stays in one batch, in their order."""
    return collate(split_of(stays), np.arange(len(stays)), dtype=dtype, padded_classes=padded_classes)


def values_of(item: Any, name: str = "") -> dict[str, Any]:
    """Every tensor and host value of a batch and of the dataclasses in it, by name."""
    if not is_dataclass(item):
        return {name: item}
    parts = [values_of(getattr(item, each.name), each.name) for each in fields(item)]
    return {name: value for part in parts for name, value in part.items()}


def tensors_of(batch: Batch) -> list[torch.Tensor]:
    """Every tensor of a batch."""
    return [value for value in values_of(batch).values() if isinstance(value, torch.Tensor)]


def same(ours: Batch, theirs: Batch) -> bool:
    """Whether two batches are equal to the last bit."""
    pairs = zip(values_of(ours).items(), values_of(theirs).items(), strict=True)
    return all(
        name == other and (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b)
        for (name, a), (other, b) in pairs
    )


def compile_with_side_files(layout: Path, out: Path) -> Cohort:
    """An old layout, compiled into the new folder `out` with the side files, as a model reads it."""
    compile_layout(locate_layout(layout), out, progress=False)
    return open_or_compile(out, cache_root=out)


def give_vectors(cohort: Path, width: int = SIZES.input_dim) -> Path:
    """Put a cached.csv of this width into a compiled cohort, and return its path."""
    names = open_cohort(cohort).vocabulary
    vectors = ((name, *generate_embedding(name, width).tolist()) for name in names)
    write_csv(cohort / "cached.csv", ("Key", *range(width)), vectors)
    return cohort


def embeddings(dtype: torch.dtype = torch.float64, width: int = SIZES.input_dim) -> torch.Tensor:
    """A vector for each of the VARIABLES."""
    return torch.randn(VARIABLES, width, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(dtype)


def tiny_backbone(seed: int = 0, dtype: torch.dtype = torch.float32, **other_sizes: Any) -> Backbone:
    """A backbone in evaluation mode, no parameter at a special value: no bias is 0, no norm is neutral."""
    generator = torch.Generator().manual_seed(seed)
    backbone = Backbone(replace(SIZES, **other_sizes))
    with torch.no_grad():
        for name, value in backbone.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(
                noise * (0.8 / value.shape[1] ** 0.5)
                if value.ndim > 1
                else noise * 0.2 + (name.split(".")[-1] == "weight")
            )
    return backbone.to(dtype).eval()


def plain_model(backbone: Backbone) -> PlainBackbone:
    """The plain model with the weights of a backbone, in evaluation mode."""
    plain_model = PlainBackbone(backbone.sizes).to(next(backbone.parameters()).dtype)
    plain_model.load_state_dict(backbone.state_dict())
    return plain_model.eval()


def hyper_parameters(backbone: Backbone) -> dict[str, Any]:
    """What a pretrained checkpoint says of itself: sizes and much that is not ours."""
    return {**backbone.sizes.as_dict(), "lr": 1e-4, "beta": 0.1, "warmup_beta": True}


def checkpoint_content(backbone: Backbone, layout: str) -> dict[str, Any]:
    """A checkpoint of this backbone in one of the layouts of spec/model.md."""
    weights = backbone.state_dict()
    old = {"setvae." + key if key.startswith("set_encoder.") else key: value for key, value in weights.items()}
    old = {key.replace("setvae.set_encoder.", "setvae.setvae."): value for key, value in old.items()}
    decoder = {
        name: torch.ones(2, 2)
        for name in ("decoder.out.weight", "set_encoder.decoder_layers.0.pma.ff.weight", "set_encoder.out.0.weight")
    }
    heads = {
        name: torch.ones(2, 2)
        for name in (
            "cls_head.0.weight",
            "feature_fusion.gate.weight",
            "feature_projection.weight",
            "vae_feature_fusion.fusion_gate.0.weight",
        )
    }
    alone = {key.removeprefix("setvae."): value for key, value in old.items() if key.startswith("setvae.setvae.")}
    contents: dict[str, dict[str, Any]] = {
        "pretrained": {"state_dict": weights | decoder, "hyper_parameters": hyper_parameters(backbone), "epoch": 3},
        "bare": weights | decoder,
        "module": {"state_dict": {f"module.{key}": value for key, value in weights.items()}},
        "compiled": {f"_orig_mod.{key}": value for key, value in weights.items()},
        "compiled inside": {
            "state_dict": {key.replace(".", "._orig_mod.", 1): value for key, value in weights.items()}
        },
        "fine-tuned legacy": {"state_dict": old | heads},
        "fine-tuned legacy, bare": old | heads,
        "fine-tuned legacy, module": {"state_dict": {f"module.{key}": value for key, value in (old | heads).items()}},
        "setvae alone": {"state_dict": alone},
    }
    return contents[layout]


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes, which stands in for a full disk; needs no rights."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_checkpoint(path: Path, backbone: Backbone, layout: str = "pretrained") -> Path:
    """Save a backbone in a layout and return the path."""
    torch.save(checkpoint_content(backbone, layout), path)
    return path
