"""A fine-tuned checkpoint is loaded without its loss and optimizer settings, whenever it was written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqsetvae.batches.loading import collate
from seqsetvae.batches.transform import PLAIN, VALUE_TRANSFORM
from seqsetvae.checkpoint.finetuned import load_finetuned
from seqsetvae.checkpoint.record import ARCHITECTURE
from seqsetvae.system.errors import InputError
from tests.training.helpers import fine_tuner


def _write(path: Path, module: Any, without: tuple[str, ...] = ()) -> Path:
    saved = {name: value for name, value in module.hparams.items() if name not in without}
    content = {"state_dict": module.state_dict(), "hyper_parameters": saved}
    module.on_save_checkpoint(content)
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "without",
    [(), ("loss", "optimizer"), (ARCHITECTURE, VALUE_TRANSFORM)],
    ids=["new", "no loss and optimizer", "written before architectures and value transforms"],
)
def test_the_loaded_model_gives_the_logits_of_the_fine_tuner(without, compiled, tmp_path):
    module = fine_tuner(compiled).eval()
    loaded = load_finetuned(_write(tmp_path / "best.ckpt", module, without))
    batch = collate(compiled.split("valid"), np.arange(5))
    with torch.no_grad():
        assert torch.equal(loaded.model(batch, module.embeddings), module(batch))
    assert not loaded.model.training
    assert loaded.trained_on.variables is not None
    assert loaded.trained_on.variables.content_hash == compiled.variables.content_hash
    assert loaded.trained_on.label_name == compiled.label_name
    assert loaded.trained_on.transform == PLAIN
    assert loaded.input_dim == compiled.embeddings.shape[1]


def test_weights_in_double_precision_are_not_rounded(compiled, tmp_path):
    module = fine_tuner(compiled).double()
    with torch.no_grad():
        module.head.net[0].weight[0, 0] = 1 / 3
    path = _write(tmp_path / "best.ckpt", module)
    assert load_finetuned(path, torch.float64).model.head.net[0].weight[0, 0] == 1 / 3


def test_weights_that_contradict_the_recorded_sizes_are_an_error(compiled, tmp_path):
    module = fine_tuner(compiled)
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    content["hyper_parameters"]["sizes"] = module.hparams["sizes"] | {"ff_dim": 24}
    torch.save(content, tmp_path / "best.ckpt")
    with pytest.raises(InputError, match="its weights and its hyper_parameters do not fit together"):
        load_finetuned(tmp_path / "best.ckpt")
