"""Precision, device and kernels of a run: everything that the last bits of a result depend on besides its inputs."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from seqsetvae.settings.groups import RunSettings
from seqsetvae.system.console import warn
from seqsetvae.system.errors import InputError
from seqsetvae.system.processes import init_distributed
from seqsetvae.system.resources import allowed_cores, fitting_threads


def prepare_device(run: RunSettings) -> torch.device:
    """The device of the setting `accelerator`; also sets deterministic kernels, and threads that fit a CPU limit.

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
    _fit_threads()
    init_distributed(use_gpu)
    device = torch.device("cuda" if use_gpu else "cpu")
    if run.compile_model:
        _require_compiler(device)
    return device


def _fit_threads() -> None:
    """Limit threads to the allowed cores: torch knows the cores of the machine, not the CPU limit of a container."""
    threads, allowed = torch.get_num_threads(), allowed_cores()
    fitting = fitting_threads(threads, allowed)
    if fitting < threads:
        torch.set_num_threads(fitting)
        print(f"Threads: {fitting} in place of {threads}, because this container or job may use {allowed:g} cores")


@cache
def _require_compiler(device: torch.device) -> None:
    """Compile a sum. Raises InputError where that fails, which else a run would find out when it trains."""
    try:
        torch.compile(lambda values: values.cos() + 1)(torch.ones(8, device=device))
    except Exception as error:  # of whatever kind: no compiler, no headers of Python, no folder for its files
        reason = " ".join(str(error).split())
        raise InputError(
            f"compile_model: torch.compile fails here ({type(error).__name__}: {reason:.200}). It needs a C++ compiler "
            "and, on a GPU, the headers of Python. Install them, or leave out --compile_model, which changes the speed "
            "alone."
        ) from None


def effective_precision(run: RunSettings, device: torch.device) -> str:
    """The precision of the run: a CPU does not train in float16, so bfloat16 is used there."""
    return "bf16-mixed" if run.precision == "16-mixed" and device.type == "cpu" else run.precision


def say_precision(run: RunSettings, device: torch.device) -> None:
    """Print a line where the precision differs from the settings."""
    used = effective_precision(run, device)
    if used != run.precision:
        warn(f"precision: {run.precision} needs a GPU; on this CPU it is {used}, so results are not those of a GPU.")


def weight_type(run: RunSettings) -> torch.dtype:
    """Type of a model's weights; that of the values in its batches is `loading.value_type`."""
    return torch.float64 if run.precision == "64-true" else torch.float32


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How a backbone computes, as far as the last bits of its outputs depend on it."""

    device: torch.device
    autocast: torch.dtype | None = None  # type of the matrix products in mixed precision; None: that of the weights
    compiled: bool = False  # its dense parts, by torch.compile

    @classmethod
    def from_settings(cls, run: RunSettings, device: torch.device) -> Precision:
        """The precision that the settings give on this device."""
        mixed = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(effective_precision(run, device))
        return cls(device=device, autocast=mixed, compiled=run.compile_model)

    def context(self) -> AbstractContextManager[Any]:
        """Autocast in mixed precision, else a context without effect."""
        return torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None)

    def as_plain(self) -> dict[str, str | bool | None]:
        """A dictionary for the manifest, with threads and processor: the order of sums changes the last bits."""
        cpu = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
        return {
            "device": self.device.type,
            "processor": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else cpu,
            "autocast": None if self.autocast is None else str(self.autocast),
            "float32 products": torch.get_float32_matmul_precision(),
            "compiled": self.compiled,
            "deterministic kernels": torch.are_deterministic_algorithms_enabled(),
        }
