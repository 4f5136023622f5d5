"""Boosted trees on a table of summaries: a second opinion beside the network.

Legend: n stays, c columns. Training is deterministic, also over numbers of CPU cores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from seqsetvae.errors import InputError
from seqsetvae.tree_text import checked_text

TREES = "trees"  # in the hyper_parameters of a checkpoint
MAX_STAYS = 100_000  # training stays that trees are grown on; memory is n x c x 4 bytes, some 600 MB here
# Few leaves, few columns and few stays for each tree, because the summaries are many and alike (docs/quality.md).
PARAMETERS: dict[str, Any] = {
    "objective": "binary",
    "num_leaves": 8,
    "bagging_fraction": 0.6,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
    "verbose": -1,
    "deterministic": True,
    "force_row_wise": True,
}
LEAF, OF_STAYS = 20, 6000  # fewest stays in a leaf of trees of so many stays; fewer in proportion, see `of_size`
COLUMNS, LEAST_SHARE = 70, 0.05  # columns that a tree chooses from, and their least share
ROUNDS, RATE = 1600, 0.01
# Every other model splits at random thresholds (Geurts et al., 2006): it errs elsewhere, so the average gains. Each of
# its trees fits less, so that it has twice as many.
KINDS: tuple[tuple[int, dict[str, Any]], ...] = ((1, {}), (2, {"extra_trees": True}))  # times ROUNDS, parameters
NETWORK_WEIGHT = 0.3  # of the network's log-odds in the average; from 0.3 to 0.5 there is hardly a difference


class BoostedTrees:
    """Gradient-boosted trees with several seeds, every other one with random thresholds; their mean log-odds counts."""

    def __init__(self, models: list[str]) -> None:
        """Models as LightGBM writes them. Raises InputError if one is none."""
        library, self.models = lightgbm(), models
        try:
            if not isinstance(models, list) or not models:
                raise ValueError("there are none")
            checked = [checked_text(model) for model in models]
            self._boosters = [library.Booster(model_str=text) for text, _ in checked]
        except (ValueError, library.basic.LightGBMError) as error:
            raise InputError(f"the boosted trees of the checkpoint are damaged ({error}). Use another copy.") from error
        self._columns = {columns for _, columns in checked}

    @classmethod
    def fit(cls, table: np.ndarray, label: np.ndarray, models: int) -> BoostedTrees:
        """Trees on a table [n, c] with NaN for missing, and labels [n]; a fixed size, so that nothing is selected."""
        kinds = [(seed, *KINDS[seed % len(KINDS)]) for seed in range(models)]
        boosters = [_train(table, label, seed, times * ROUNDS, kind) for seed, times, kind in kinds]
        return cls([booster.model_to_string() for booster in boosters])

    def log_odds(self, table: np.ndarray) -> np.ndarray:
        """[n, c] → [n]. Raises InputError if the trees were grown on a table of another width."""
        if self._columns != {table.shape[1]}:
            raise InputError(
                f"the boosted trees of the checkpoint are damaged (they split {sorted(self._columns)} columns, and its "
                f"table has {table.shape[1]}). Use another copy."
            )
        return np.mean([booster.predict(table, raw_score=True) for booster in self._boosters], axis=0)

    def as_plain(self) -> list[str]:
        """For a checkpoint."""
        return self.models

    def __deepcopy__(self, memo: Any) -> BoostedTrees:
        """They never change, and averaging of weights copies the module that holds them."""
        return self


def average_with_trees(logits: torch.Tensor, trees: BoostedTrees, table: np.ndarray) -> torch.Tensor:
    """Logits [N, 2] of the weighted mean log-odds of network (`logits` [N, 2]) and trees (their table [N, c])."""
    of_trees = torch.from_numpy(trees.log_odds(table)).to(logits)
    mean = NETWORK_WEIGHT * (logits[:, 1] - logits[:, 0]) + (1 - NETWORK_WEIGHT) * of_trees
    return torch.stack([-mean / 2, mean / 2], dim=1)


def trees_alone(average: np.ndarray, network: np.ndarray) -> np.ndarray:
    """Log-odds of the trees, from those of the average and of the network: [n] each."""
    return (average - NETWORK_WEIGHT * network) / (1 - NETWORK_WEIGHT)


def _train(table: np.ndarray, label: np.ndarray, seed: int, rounds: int, kind: dict[str, Any]) -> Any:
    parameters = PARAMETERS | {"seed": seed, "learning_rate": RATE, "num_threads": torch.get_num_threads()}
    parameters |= of_size(*table.shape) | kind
    return lightgbm().train(parameters, lightgbm().Dataset(table, label), rounds)


def of_size(n_stays: int, n_columns: int) -> dict[str, Any]:
    """Parameters that depend on the size of a table: with fixed ones a fact of few stays is never split off."""
    leaf = max(1, min(LEAF, LEAF * n_stays // OF_STAYS))
    share = max(LEAST_SHARE, min(1.0, COLUMNS / n_columns))
    return {"min_data_in_leaf": leaf, "min_data_in_bin": min(3, leaf), "feature_fraction": share}


def lightgbm() -> Any:
    """The library. Raises InputError where it is not installed, or cannot be imported."""
    try:
        import lightgbm as library
    except ImportError as error:
        raise InputError(
            "lightgbm is not installed; boosted trees (tree_models, baselines) need it: pip install lightgbm"
        ) from error
    except Exception as error:  # of whatever kind: no docstrings, no OpenMP
        raise InputError(
            f"lightgbm cannot be imported ({type(error).__name__}: {error}); boosted trees (tree_models, baselines) "
            "need it. It needs docstrings (no python -OO) and OpenMP (libgomp1, on macOS libomp)."
        ) from error
    return library
