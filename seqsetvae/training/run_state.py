"""What a run knows of itself, in one object that is written to the run folder after every validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from seqsetvae.system.schema import fault_of
from seqsetvae.training.feature_pass import FeaturePass
from seqsetvae.training.schedule import Watched

RUN_STATE = "run_state.json"


@dataclass(frozen=True)
class Row:
    """One validation. Times are of the training epoch before it."""

    stage: int
    epoch: int  # counted over both stages, from 1
    step: int  # optimizer steps so far, over both stages
    metrics: dict[str, float]  # train_loss, val_loss, ... in the order in which they are printed
    rates: dict[str, float]  # lr_<part>: learning rate of each part, 0 while frozen
    stays_per_second: float  # training, validation apart
    waiting: float | None  # share of the training time spent waiting for the next batch; None: cached features
    seconds: float  # training epoch

    def as_flat(self) -> dict[str, float | None]:
        """One column per number."""
        columns = asdict(self)
        return {
            **{name: columns[name] for name in ("stage", "epoch", "step")},
            **self.metrics,
            **self.rates,
            **{name: columns[name] for name in ("stays_per_second", "waiting", "seconds")},
        }


def best_row(rows: Sequence[Row], watched: Watched) -> Row:
    """The row of best.ckpt: the first of the best, or the last where nothing is selected."""
    if watched.keep_last:
        return rows[-1]
    better = max if watched.mode == "max" else min
    return better(rows, key=lambda row: row.metrics[watched.metric])


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A run so far, over all its stages; every change makes a new one (`dataclasses.replace`)."""

    stage: int = 0  # the stage that runs or ran last; 0: none has begun
    rows: tuple[Row, ...] = ()
    trained: dict[int, dict[str, int]] = field(default_factory=dict)  # values that train, by stage and part
    passes: tuple[FeaturePass, ...] = ()  # of a frozen backbone over the data
    gpu_busy: tuple[int, ...] = ()  # samples in percent
    best_score: float | None = None  # the watched metric of best.ckpt
    best_path: str | None = None  # of best.ckpt, relative to the run folder
    seconds: float = 0.0  # that the processes before this one trained

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return self.rows[-1].epoch if self.rows else 0

    @property
    def steps(self) -> int:
        """Optimizer steps done."""
        return self.rows[-1].step if self.rows else 0

    def before(self, stage: int) -> RunState:
        """The run before this stage; only its rows differ."""
        return replace(self, rows=tuple(row for row in self.rows if row.stage < stage))

    def as_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"epochs": self.epochs, "steps": self.steps, **asdict(self)}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> RunState:
        """What `as_plain` returned, also after it was written as JSON and read back.

        Raises:
            TypeError, KeyError, ValueError: it was something else.
        """
        if fault := fault_of(plain, cls):
            raise ValueError(fault)
        values = {name: value for name, value in plain.items() if name not in ("epochs", "steps")}
        state = cls(
            **values
            | {
                "rows": tuple(Row(**row) for row in values["rows"]),
                "trained": {int(stage): parts for stage, parts in values["trained"].items()},
                "passes": tuple(FeaturePass(**one) for one in values["passes"]),
                "gpu_busy": tuple(values["gpu_busy"]),
            }
        )
        if [row.epoch for row in state.rows] != list(range(1, len(state.rows) + 1)) or state.stage not in (0, 1, 2):
            raise ValueError("its rows are not those of all epochs")
        if any(row.stage not in (1, 2) or row.stage > state.stage for row in state.rows):
            raise ValueError("its rows are of stages that have not begun")
        return state
