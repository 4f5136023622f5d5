"""Warnings of the reconstruction objective, which follow from the figures of the run itself."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from seqsetvae.cohort.variables import Sums, Variables
from seqsetvae.objectives import reconstruction
from seqsetvae.objectives.reconstruction import huge_values

SETTINGS = reconstruction.Settings(max_beta=0.1, beta_warmup_steps=5000, free_bits=0.1)
SIZES: Any = SimpleNamespace(latent_dim=64)
NAMES = ("HR", "Lactate", "Temp")


def _values(z: list[float], variable: list[int]) -> Any:
    """A cohort whose training values are 100 + 10 z."""
    sums = Sums.from_blocks([(np.array(variable, np.int32), 100 + 10 * np.array(z))], len(NAMES))
    variables = Variables(NAMES, np.full(3, 100.0), np.full(3, 10.0))
    return SimpleNamespace(vocabulary=NAMES, variables=variables, sums={"train": sums}.get)


def _advice(beta: float = 0.1, active: float = 60.0, step: int = 5000, epoch: int = 1, train: Any = None) -> list[str]:
    metrics = {"beta": beta, "val_active_units": active}
    return reconstruction.advice(SETTINGS, SIZES, metrics, step, epoch, train or _values([1.0], [0]))


def test_a_beta_that_never_rose_is_reported_with_the_epochs_that_it_needs():
    (line,) = _advice(beta=0.004, step=200, epoch=2)
    assert "beta reached 0.004 of max_beta 0.1: the run had 200 optimizer steps, beta_warmup_steps is 5,000" in line
    assert "at least 50 epochs" in line
    assert _advice(beta=0.1, step=5000) == []


@pytest.mark.parametrize(
    ("z", "steps", "cause"),
    [
        ([25_000.0, -3.0, 1200.0], 5000, "'HR' (|z| up to 25,000), 'Temp' (|z| up to 1,200)"),
        ([1.0, -3.0, 5.0], 26, "after 26 optimizer steps, which are too few to judge"),
        ([1.0, -3.0, 5.0], 5000, "Posterior collapse: only 2 of 64 dimensions"),
    ],
)
def test_few_active_dimensions_name_their_cause(z, steps, cause):
    line = _advice(active=2.0, step=steps, train=_values(z, [0, 1, 2]))[-1]
    assert cause in line
    assert ("max_beta" in line) == line.startswith("Posterior collapse")  # blamed only where nothing else is found


def test_enough_active_dimensions_are_no_warning():
    assert _advice(active=60.0, train=_values([25_000.0], [0])) == []


def test_huge_values_are_those_furthest_from_the_mean_in_either_direction():
    assert huge_values(_values([1e3, 2.0, -5e4, 999.0, 2e3], [0, 0, 2, 1, 0])) == {"Temp": 5e4, "HR": 2e3}
    assert huge_values(_values([1e3], [0])) == {"HR": 1e3}
