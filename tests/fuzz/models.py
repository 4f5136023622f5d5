"""Targets: checkpoints as .safetensors files, boosted trees in a checkpoint."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from seqsetvae.checkpoint.backbone import load_backbone, read_checkpoint
from seqsetvae.checkpoint.file import CONTENT
from seqsetvae.checkpoint.finetuned import load_finetuned
from seqsetvae.models import ARCHITECTURES
from seqsetvae.models.seqsetvae.sizes import Sizes
from seqsetvae.models.trees import BoostedTrees
from tests.fuzz import mutate
from tests.fuzz.given import TREE_COLUMNS, Files

OTHER_SIZES = {name: value for name, value in Sizes(input_dim=1).as_dict().items() if name != "input_dim"}


def safetensors(files: Files, rng: random.Random, folder: Path) -> None:
    """A checkpoint as a .safetensors file: its bytes, its header, or what its header records."""
    finetuned = rng.random() < 0.5
    content = (files.exported / f"{'finetuned' if finetuned else 'pretrained'}.safetensors").read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    kind = rng.randrange(6)
    if kind == 0:
        content = mutate.bytes_of(content, rng)
    else:
        header = content[8:length]
        if kind == 1:
            header = mutate.bytes_of(header, rng)
        else:
            header = json.dumps(_changed(json.loads(header), rng, inner=kind > 2)).encode()
        content = len(header).to_bytes(8, "little") + header + content[length:]
    damaged = folder / "model.safetensors"
    damaged.write_bytes(content)
    load_checkpoint(damaged, finetuned=finetuned, rng=rng)


def _changed(header: dict[str, Any], rng: random.Random, *, inner: bool) -> dict[str, Any]:
    if not inner:
        return mutate.tree_of(header, rng)
    recorded = json.loads(header["__metadata__"][CONTENT])
    header["__metadata__"][CONTENT] = json.dumps(mutate.tree_of(recorded, rng))
    return header


def load_checkpoint(file: Path, *, finetuned: bool, rng: random.Random) -> None:
    """As training and prediction load it."""
    if finetuned:
        load_finetuned(file)
        return
    read = read_checkpoint(file)
    sizes = read.infer_sizes(OTHER_SIZES)
    load_backbone(ARCHITECTURES[read.architecture].build(sizes), read, allow_partial=rng.random() < 0.3)


def trees(files: Files, rng: random.Random, folder: Path) -> None:
    """The texts of boosted trees, used for a prediction."""
    texts: list[Any] = list(files.trees)
    if rng.random() < 0.05:
        texts = rng.choice(([], None, [None], "tree", texts[:1], {"a": 1}))
    else:
        at = rng.randrange(len(texts))
        texts[at] = _damaged_text(texts[at], rng)
    columns = TREE_COLUMNS + (rng.random() < 0.05)
    found = BoostedTrees(texts).outputs(np.full((3, columns), rng.choice((0.5, -3.0, np.nan))))
    assert len(found) == 3


def _damaged_text(text: str, rng: random.Random) -> str:
    if rng.random() < 0.4:
        return mutate.bytes_of(text.encode(), rng).decode(errors="surrogateescape")
    lines = text.split("\n")
    until = lines.index("end of trees")
    at = rng.choice([at for at, line in enumerate(lines[:until]) if "=" in line])
    name, _, value = lines[at].partition("=")
    parts = value.split(" ")
    part = rng.randrange(len(parts))
    other = ("0", "1", "-1", "7", "-8", "99", "1000000000", "nan", "inf", "1e999", "-0.5", "", "x", "3", "-2", "5")
    parts[part : part + 1] = rng.choice(([rng.choice(other)], [], [parts[part]] * 2))
    lines[at] = f"{name}={' '.join(parts)}"
    return "\n".join(lines)
