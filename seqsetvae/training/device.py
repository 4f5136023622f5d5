"""The device and the precision of a run."""

from __future__ import annotations

import os

import torch

from seqsetvae.errors import InputError
from seqsetvae.settings.groups import RunSettings
from seqsetvae.training.features import Arithmetic


def prepare_device(run: RunSettings) -> torch.device:
    """The device of the setting `accelerator`; also sets deterministic kernels.

    A Trainer would set them only when it starts, which is after the features of a frozen backbone are computed.

    Raises:
        InputError: the setting is gpu and there is none.
    """
    if run.accelerator == "gpu" and not torch.cuda.is_available():
        raise InputError(
            "accelerator: received 'gpu', but torch.cuda.is_available() is False; use --accelerator cpu, or install a "
            "CUDA build of torch"
        )
    use_gpu = run.accelerator != "cpu" and torch.cuda.is_available()
    if run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    torch.use_deterministic_algorithms(run.deterministic)
    return torch.device("cuda" if use_gpu else "cpu")


def effective_precision(run: RunSettings, device: torch.device) -> str:
    """The precision of the run: a CPU does not train in float16, so bfloat16 is used there."""
    return "bf16-mixed" if run.precision == "16-mixed" and device.type == "cpu" else run.precision


def arithmetic(run: RunSettings, device: torch.device) -> Arithmetic:
    """Precision and compilation of the backbone on this device."""
    mixed = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(effective_precision(run, device))
    return Arithmetic(device=device, autocast=mixed, compiled=run.compile_model)
