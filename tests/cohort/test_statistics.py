"""Mean and std of each variable by one read of the events."""

import numpy as np

from seqsetvae.cohort.variables import Block, Sums


def blocks(n_blocks: int = 9, size: int = 500) -> list[Block]:
    """Variables 0 to 3, all but the first with means far from 0; variable 2 is in the last block alone; 4 nowhere."""
    rng = np.random.default_rng(0)
    made = []
    for block in range(n_blocks):
        variable = rng.choice([0, 1, 3], size).astype(np.int32)
        if block == n_blocks - 1:
            variable[:40] = 2
        value = rng.normal(np.array([0.0, 1e6, -37.0, 1e9])[variable], np.array([1.0, 30.0, 0.1, 1e-2])[variable])
        made.append((variable, value + block))  # the means of blocks differ
    return made


def test_one_read_by_blocks_gives_the_mean_and_std_of_all_values_together():
    parts = blocks()
    variable, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    mean, std = Sums.from_blocks(iter(parts), 5).mean_and_std()
    for v in range(4):
        np.testing.assert_allclose(mean[v], value[variable == v].mean(), rtol=1e-14)
        np.testing.assert_allclose(std[v], value[variable == v].std(ddof=1), rtol=1e-12)
    assert np.isnan([mean[4], std[4]]).all()
