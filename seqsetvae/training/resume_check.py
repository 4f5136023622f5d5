"""Whether a run can go on from a checkpoint: it is of this run, and what it says of its position agrees with itself."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from seqsetvae.settings.resume import CAN_CHANGE
from seqsetvae.system.errors import InputError, named
from seqsetvae.training.run_state import RunState


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What stays the same while a run goes on, from its config.json: settings that cannot change, and its inputs."""
    settings = {name: value for name, value in config["settings"].items() if name not in CAN_CHANGE}
    inputs = {"data": config["cohort"]["content"], "pretrained checkpoint": config["pretrained_checksum"]}
    return json.loads(json.dumps(settings | {"sizes": config["sizes"]} | inputs))


def require_same_run(
    recorded: Any, now: Mapping[str, Any], state: RunState, metrics: Collection[str], path: Path
) -> None:
    """Compare a checkpoint with the run: its identity, where names that only one has are those of another version.

    Raises:
        InputError: the checkpoint is of another run.
    """
    theirs = recorded if isinstance(recorded, Mapping) else {}
    differ = [name for name, value in now.items() if name in theirs and theirs[name] != value]
    if any(not row.metrics.keys() >= set(metrics) for row in state.rows):
        differ.append("metrics")
    if differ:
        raise InputError(
            f"{path}: is a checkpoint of another run: it has another {named(differ)} than {path.parents[1]}. "
            "Put back the file of this run, or start a new run."
        )


def check_position(content: Mapping[str, Any], run: RunState, batches: int) -> None:
    """Compare Lightning's counts in a checkpoint with the state of the run: from others, training might never end.

    Raises:
        ValueError: they do not agree, or one is no count.
    """
    loop, stage_before = content["loops"]["fit_loop"], run.before(run.stage)
    _require_counts(loop)
    epochs, steps = run.epochs - stage_before.epochs, run.steps - stage_before.steps
    for count in ("total", "current"):
        progress = loop["epoch_progress"][count]
        if progress["processed"] != epochs or not epochs <= progress["ready"] <= epochs + 1:
            raise ValueError(
                f"it counts {progress['processed']} epochs of stage {run.stage} and has {epochs} rows of it"
            )
    done = loop["epoch_loop.batch_progress"]["current"]["ready"]
    if batches not in (0, done):
        raise ValueError(f"it counts {done} batches of the epoch, and {batches} in another place")
    optimizer = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"]
    if optimizer != content["global_step"] or optimizer < steps:
        raise ValueError(f"it counts {optimizer} optimizer steps, and {content['global_step']} in another place")


def check_form(restored: Any, fresh: Any, where: str) -> None:
    """Compare a part of a checkpoint with what it is in a new run: the same names and kinds of values.

    Raises:
        ValueError: a value is of another kind, or missing.
    """
    if isinstance(fresh, Mapping):
        if not isinstance(restored, Mapping) or not restored.keys() >= fresh.keys():
            raise ValueError(f"{where} is {restored!r:.60}")
        for name, value in fresh.items():
            check_form(restored[name], value, f"{where}, {name}")
    elif isinstance(fresh, list | tuple):
        if not isinstance(restored, list | tuple) or (fresh and len(restored) != len(fresh)):
            raise ValueError(f"{where} is {restored!r:.60}")
        for one, other in zip(restored, fresh, strict=False):
            check_form(one, other, where)
    elif _kind(fresh) != _kind(restored) and restored is not None and fresh is not None:
        raise ValueError(f"{where} is {restored!r:.60}")


def _kind(value: Any) -> str:
    """A number may be a tensor of one."""
    if isinstance(value, torch.Tensor):
        return "number" if value.numel() == 1 else f"tensor of shape {tuple(value.shape)}"
    return "number" if isinstance(value, bool | int | float) else type(value).__name__


def check_optimizer(restored: torch.optim.Optimizer, fresh: torch.optim.Optimizer) -> None:
    """Raises ValueError unless groups and moments of a restored optimizer have the form of those of a new one."""
    for group, new in zip(restored.param_groups, fresh.param_groups, strict=True):
        own, other = ({name: each[name] for name in each if name != "params"} for each in (group, new))
        check_form(own, other, "the optimizer")
        for parameter in group["params"]:
            for name, moment in restored.state.get(parameter, {}).items():
                shape = moment.shape if isinstance(moment, torch.Tensor) else None
                if name != "step" and shape != parameter.shape:
                    raise ValueError(f"{name} of the optimizer is {moment!r:.60}")


def _require_counts(counts: Any) -> None:
    """Raises ValueError unless these are counts, or dictionaries of them."""
    if isinstance(counts, Mapping):
        for each in counts.values():
            _require_counts(each)
    elif not isinstance(counts, int) or counts < 0:  # a bool is a count, too
        raise ValueError(f"a count is {counts!r:.40}")
