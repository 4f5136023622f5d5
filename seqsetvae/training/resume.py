"""Exact resume: where a run resumes, and checks that its checkpoint is of this run and consistent.

A run resumes from one file. Everything else in its folder (metrics.csv, curves, run_state.json) is written anew from
what that file holds, so a process may be killed at any moment: what it did after the file was written is done again,
and gives the same bits, because order of batches, random numbers and sums are those of the process before.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seqsetvae.checkpoint.file import check_finite, check_kinds, read_file
from seqsetvae.settings.declare import as_plain
from seqsetvae.settings.old_names import current
from seqsetvae.settings.resume import CAN_CHANGE
from seqsetvae.system.console import warn
from seqsetvae.system.errors import InputError, named
from seqsetvae.system.processes import this_process
from seqsetvae.system.schema import fault_of
from seqsetvae.training.run_folder import CONFIG, RunFolder, RunState


@dataclass(frozen=True)
class ResumePoint:
    """Where a run resumes."""

    path: Path  # of the checkpoint
    run: RunState
    stopped: bool  # early stopping has ended the stage
    batches: int  # of the epoch that are done; 0: the epoch is complete
    random_numbers: dict[str, Any] | None  # states of this process; None: the run had fewer processes
    world_size: int  # processes that the run had
    identity: Any = None  # of the run, as `identity` has it; None in files of earlier versions

    def has_finished(self, stage: int, max_epochs: int) -> bool:
        """Whether this stage, or a later one, is done."""
        of_stage = self.run.epochs - self.run.before(stage).epochs
        is_done = self.batches == 0 and (self.stopped or of_stage >= max_epochs)
        return stage < self.run.stage or (stage == self.run.stage and is_done)

    def is_in(self, stage: int) -> bool:
        return self.run.stage == stage

    def __str__(self) -> str:
        if self.batches:
            return f"in epoch {self.run.epochs + 1}, after {self.batches:,} batches"
        return f"after epoch {self.run.epochs}" if self.run.epochs else "at the start"


def read_resume_point(folder: RunFolder) -> ResumePoint | None:
    """Where a run resumes: its last.ckpt, or the one before if that is damaged, and says so; None: at its start.

    Raises:
        InputError: both are damaged, or the run was written by a version that could not resume.
    """
    damaged = []
    for path in (folder.last, folder.previous):
        if not path.exists():
            continue
        try:
            point = _read(path)
        except InputError as error:
            warn(f"{error}")
            damaged.append(path.name)
            continue
        if damaged:
            warn(f"{path.name} is used instead: {point}")
            folder.last.unlink()  # the next save would put it in the place of the file that is used
        return point
    if damaged:
        raise InputError(
            f"{folder.checkpoints}: {' and '.join(damaged)} cannot be read, so the run cannot be resumed. best.ckpt "
            "may still be whole (--mode evaluate); or start a new run."
        )
    return None


def _read(path: Path) -> ResumePoint:
    content = read_file(path)
    try:
        state = content["callbacks"][STATE]
        if fault := fault_of(state, {"stopped": bool, "batches": int}):
            raise ValueError(fault)
        point = ResumePoint(
            path=path,
            run=RunState.from_plain(state["run"]),
            stopped=state["stopped"],
            batches=state["batches"],
            random_numbers=_random_numbers(state["ranks"]),
            world_size=len(state["ranks"]),
            identity=state.get("identity"),
        )
        check_position(content, point.run, point.batches)
        weights = {name: value for name, value in content["state_dict"].items() if isinstance(value, torch.Tensor)}
    except (KeyError, TypeError, IndexError, AttributeError):
        raise InputError(f"{path}: holds no state to resume from; its version could not resume runs.") from None
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}: damaged, {error}.") from None
    check_kinds(weights, path)
    check_finite(weights, path)
    return point


def check_same_inputs(recorded: Mapping[str, Any], current: Mapping[str, Any], folder: Path) -> None:
    """Compare the config.json of a run with what it would be now; says where only the last bits may differ.

    Raises:
        InputError: the data or the pretrained checkpoint have another content, or the file does not say which.
    """
    cohort = recorded.get("cohort")
    if not isinstance(cohort, dict) or "content" not in cohort or "versions" not in recorded:
        raise InputError(f"{folder / CONFIG}: damaged, it does not say which data the run is of. Start a new run.")
    if cohort["content"] != current["cohort"]["content"]:
        raise InputError(
            f"{folder}: the data in {current['cohort']['path']} have changed since the run began, so it cannot be "
            "resumed. Restore the data, or start a new run."
        )
    if recorded.get("pretrained_checksum") != current["pretrained_checksum"]:
        raise InputError(
            f"{folder}: the pretrained checkpoint has changed since the run began, so it cannot be resumed. "
            "Restore the file, or start a new run."
        )
    if recorded["versions"] != current["versions"]:
        before, after = recorded["versions"], current["versions"]
        warn(f"The run began with {before} and is resumed with {after}, so the last digits may differ.")
    if recorded.get("threads", current["threads"]) != current["threads"]:  # not in runs of earlier versions
        warn(
            f"Threads: {recorded['threads']} before, {current['threads']} from now on, so the last digits may differ "
            "(OMP_NUM_THREADS)."
        )


def is_finished(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a run has nothing left to do with these settings; prints so if it has not."""
    run = RunFolder(folder)
    done = run.is_finished and current(run.read_json(CONFIG)["settings"], run.path / CONFIG) == settings
    if done:
        print(f"Nothing to do: the run in {folder} is finished (summary.txt holds its results).")
    return done


def earlier_run(mode: str, settings: Any, data_hash: str) -> tuple[Path | None, bool]:
    """The newest run that a killed process left: of this mode, with these settings, on a cohort of this data hash.

    Returns:
        (folder, whether it is finished); (None, False) if there is none.
    """
    plain = {"mode": mode, **as_plain(settings)}
    for file in sorted(settings.run.output_root_dir.glob(f"{mode}-*/{CONFIG}"), reverse=True):
        config = RunFolder(file.parent).read_json(CONFIG)
        if current(config.get("settings", {}), file) == plain and config["cohort"].get("data") == data_hash:
            return file.parent, is_finished(file.parent, plain)
    return None, False


# ------------------------------------------------------------------ whether a checkpoint can be used


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What stays the same when a run is resumed, from its config.json: settings that cannot change, and its inputs."""
    settings = {name: value for name, value in config["settings"].items() if name not in CAN_CHANGE}
    inputs = {"data": config["cohort"]["content"], "pretrained checkpoint": config["pretrained_checksum"]}
    return json.loads(json.dumps(settings | {"sizes": config["sizes"]} | inputs))


def require_same_run(
    recorded: Any, current: Mapping[str, Any], state: RunState, metrics: Collection[str], path: Path
) -> None:
    """Compare a checkpoint with the run: its identity, where names that only one has are those of another version.

    Raises:
        InputError: the checkpoint is of another run.
    """
    theirs = recorded if isinstance(recorded, Mapping) else {}
    differ = [name for name, value in current.items() if name in theirs and theirs[name] != value]
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
    """The kind of a value: a tensor with one element counts as a number."""
    if isinstance(value, torch.Tensor):
        return "number" if value.numel() == 1 else f"tensor of shape {tuple(value.shape)}"
    return "number" if isinstance(value, bool | int | float) else type(value).__name__


def check_optimizer(restored: torch.optim.Optimizer, fresh: torch.optim.Optimizer) -> None:
    """Raises ValueError unless groups and moments of a restored optimizer have the form of those of a new one."""
    for group, new in zip(restored.param_groups, fresh.param_groups, strict=True):
        own, other = ({name: options[name] for name in options if name != "params"} for options in (group, new))
        check_form(own, other, "the optimizer")
        for parameter in group["params"]:
            for name, moment in restored.state.get(parameter, {}).items():
                shape = moment.shape if isinstance(moment, torch.Tensor) else None
                if name != "step" and shape != parameter.shape:
                    raise ValueError(f"{name} of the optimizer is {moment!r:.60}")


def _require_counts(counts: Any) -> None:
    """Raises ValueError unless these are counts, or dictionaries of them."""
    if isinstance(counts, Mapping):
        for count in counts.values():
            _require_counts(count)
    elif not isinstance(counts, int) or counts < 0:  # a bool is a count, too
        raise ValueError(f"a count is {counts!r:.40}")


STATE = "LastCheckpoint"  # key of the callback's state in a checkpoint


def _random_numbers(ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Random state of this process from a checkpoint; a process that it does not have starts from its own seed."""
    rank = this_process().rank
    return ranks[rank]["random_numbers"] if rank < len(ranks) else None
