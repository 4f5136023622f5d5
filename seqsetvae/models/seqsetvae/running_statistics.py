"""Statistics of each variable of a stay from its first set up to each set, mapped into the history encoder.

The set encoder describes one set; that a value has risen for hours has to be remembered by attention over sets, which a
few thousand stays do not teach. Here it is an input. The map starts at zero, so that a model which was trained without
it stays what it was until this part has been trained.

Legend: E events, S sets, V variables, I embedding width, D width of a state, K = 9 statistics; M measurements: the
events of one variable in one set, which count as one with their mean; C cells: a set, and a variable that has been
measured in its stay up to it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from seqsetvae.batches.batch import Batch
from seqsetvae.ops.grouped import grouped_products
from seqsetvae.ops.rowwise import dropout

STATISTICS = (
    "log count",
    "last",
    "mean",
    "min",
    "max",
    "decayed mean",
    "last minus first",
    "log hours since the last",
    "1: has been measured",
)
LOG_COUNT, LOG_HOURS = (1.5, 0.5), (1.5, 1.0)  # usual mean and spread, which put these two on the scale of the values
LIMIT = 10.0  # values beyond are set to this: a typing error must not fill all that follows
HALF_LIFE = 6.0  # hours in which the weight of a value in the decayed mean halves
DROPOUT = 0.5  # of single statistics, in training


class RunningStatistics(nn.Module):
    """The statistics of a set's variables → what is added to its input of the history encoder.

    A variable has a matrix [K, D], linear in its embedding, and a set gets the sum over its cells.
    """

    is_pretrained = False  # whether the map was not zero when fine-tuning began; a resumed run must not look again

    def __init__(self, input_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.of_variable = nn.Linear(input_dim, len(STATISTICS) * latent_dim, bias=False)
        nn.init.zeros_(self.of_variable.weight)

    def forward(self, batch: Batch, embeddings: torch.Tensor) -> torch.Tensor:
        """[S, D]; the row of a set depends on no later set."""
        variables, groups, of_set, statistics = cells(batch)
        statistics = dropout(statistics.to(embeddings.dtype), DROPOUT, self.training)
        vectors = of_one_length(embeddings[variables], 1 / embeddings.shape[1])
        matrices = self.of_variable(vectors).unflatten(1, (len(STATISTICS), -1))
        rows = grouped_products(statistics, matrices.to(statistics.dtype), groups)
        return rows.new_zeros(batch.n_sets, rows.shape[1]).index_add(0, of_set, rows)


def of_one_length(embeddings: torch.Tensor, of_entries: float) -> torch.Tensor:
    """Embeddings [V, I] brought to the length of one whose entries are `of_entries`, for a linear map.

    A step of Adam changes each weight by the learning rate, and so an output of the map by this rate times the sum of
    an embedding's absolute entries, which is then near I times `of_entries` however long the embeddings are.
    """
    return F.normalize(embeddings) * (of_entries * embeddings.shape[1] ** 0.5)


def cells(batch: Batch) -> tuple[torch.Tensor, list[tuple[int, int]], torch.Tensor, torch.Tensor]:
    """The cells of a batch by variable.

    Returns:
        (the variables that occur [G], (position there, its number of cells), set of each cell [C], statistics [C, K])
    """
    of_event = batch.set_of_event
    n_sets, n_stays, device = batch.n_sets, batch.n_stays, batch.value.device
    pair_of_event = batch.variable * n_stays + batch.stay_of_set[of_event]
    key, measurement = torch.unique(pair_of_event * n_sets + of_event, return_inverse=True)  # [M] by pair, then time
    value = _mean_of_each(batch.value.clamp(-LIMIT, LIMIT), measurement, len(key))
    pair, of_measurement = key // n_sets, key % n_sets
    hour = batch.minute[of_measurement] / 60
    pairs, n_measured = torch.unique_consecutive(pair, return_counts=True)
    start = n_measured.cumsum(0) - n_measured
    place = torch.arange(len(key), device=device) - start.repeat_interleave(n_measured)  # [M] in its pair
    up_to = _up_to_each(value, hour, place)
    last = batch.sets_per_stay.cumsum(0)[pairs % n_stays]  # [P] one after the last set of the pair's stay
    n_cells = last - of_measurement[start]
    first_cell = n_cells.cumsum(0) - n_cells
    of_cell = torch.arange(len(pairs), device=device).repeat_interleave(n_cells)  # its pair
    cell = torch.arange(len(of_cell), device=device)
    of_set = of_measurement[start][of_cell] + cell - first_cell[of_cell]
    newest = torch.searchsorted(key, pairs[of_cell] * n_sets + of_set, right=True) - 1  # measurement up to the set
    since = _scaled((batch.minute[of_set] / 60 - hour[newest]).clamp_min(0).log1p().to(value.dtype), LOG_HOURS)
    variables, group = torch.unique_consecutive(pairs // n_stays, return_inverse=True)
    counts = torch.bincount(group, weights=n_cells.double()).long()
    statistics = torch.cat([up_to[newest], torch.stack([since, torch.ones_like(since)], dim=1)], dim=1)
    return variables, list(enumerate(counts.tolist())), of_set, statistics


def _scaled(value: torch.Tensor, usual: tuple[float, float]) -> torch.Tensor:
    mean, spread = usual
    return (value - mean) / spread


def _mean_of_each(value: torch.Tensor, group: torch.Tensor, n_groups: int) -> torch.Tensor:
    total = value.new_zeros(n_groups).index_add(0, group, value)
    return total / torch.bincount(group, minlength=n_groups)


def _up_to_each(value: torch.Tensor, hour: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """The first K - 2 statistics of each measurement and those before it of its pair: [M, K - 2].

    By doubling: after a step of 2^i each row holds what its 2^(i+1) newest measurements add up to. So the number of
    steps grows with the logarithm of the longest pair, and nothing overflows or cancels.
    """
    since = (hour - torch.cat([hour[:1], hour[:-1]])).clamp_min(0)
    fades = torch.exp2(-since / HALF_LIFE).to(value.dtype)  # of what was before; rows of a first one never use it
    sums = torch.stack([value, value, torch.ones_like(value)], dim=1)  # of values; of weighted values; of weights
    factor = torch.stack([torch.ones_like(fades), fades, fades], dim=1)
    extremes = torch.stack([-value, value], dim=1)
    step, most = 1, int(place.max())
    while step <= most:
        inside = (place >= step)[step:, None]
        earlier_sums = torch.where(inside, factor[step:] * sums[:-step], 0.0)
        earlier_factor = torch.where(inside, factor[:-step], 1.0)
        higher = torch.where(inside, torch.maximum(extremes[step:], extremes[:-step]), extremes[step:])
        sums = torch.cat([sums[:step], sums[step:] + earlier_sums])
        factor = torch.cat([factor[:step], factor[step:] * earlier_factor])
        extremes = torch.cat([extremes[:step], higher])
        step *= 2
    count = (place + 1).to(value.dtype)
    first = value[torch.arange(len(value), device=value.device) - place]
    columns = (
        _scaled(count.log1p(), LOG_COUNT),
        value,
        sums[:, 0] / count,
        -extremes[:, 0],
        extremes[:, 1],
        sums[:, 1] / sums[:, 2],
        value - first,
    )
    return torch.stack(columns, dim=1)
