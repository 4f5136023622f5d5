"""Kill a run inside this process at a chosen call of a function, and go on with it by the command."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kills import differences
from tests.command import argv, call, refused, succeeded

BATCH_SIZE = 8
STEPS = 8  # batches of an epoch: 60 stays, 8 at a time
EVERY_STEP = {"save_every_minutes": 0}
FINETUNING = {
    "max_epochs": 4,
    "unfreeze_after": 2,
    "batch_size": BATCH_SIZE,
    "ema_decay": 0.9,
    "gradient_accumulation_steps": 3,
}
PRETRAINING = {  # the sizes of tests.tiny
    "max_epochs": 2, "batch_size": BATCH_SIZE, "reduced_dim": 8, "latent_dim": 32, "levels": 2, "heads": 2, "m": 4,
    "ff_dim": 48, "transformer_heads": 4, "transformer_layers": 2,
}  # fmt: skip


class Killed(BaseException):
    """As if the process had ended: nothing catches it."""


@contextmanager
def killed_at(owner: Any, name: str, number: int) -> Iterator[None]:
    """The process dies in this call of a function of `owner`, counted from 1, before the function does anything."""
    function, calls = getattr(owner, name), 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise Killed
        return function(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, counted)
        with pytest.raises(Killed):
            yield


def pretrain(data_dir: Path, root: Path, **flags: object) -> tuple[int, str, str]:
    words = {"mode": "pretrain", "data_dir": data_dir, "output_root_dir": root, "accelerator": "cpu"}
    return call(argv(**{**words, **PRETRAINING, **flags}))


def resume(run: Path, *words: str) -> str:
    """Go on with a run to its end; what was printed."""
    return succeeded(call(["--resume", str(run), *words]))


def refusal(run: Path, *words: str) -> str:
    """The error of a resume that is refused."""
    return refused(call(["--resume", str(run), *words]))


def assert_same_run(run: Path, whole: Path) -> None:
    """Rows and checkpoints differ in times alone, and no more checkpoints are left than after any run."""
    found = differences(run, whole)
    assert not found, found
    assert sorted(path.name for path in run.rglob("*.ckpt")) == ["best.ckpt", "last.ckpt"]
