"""Events of variables that a model cannot read, because they have no embedding, are left out and counted.

Only for data that a trained model is applied to: where a model is trained, a variable without an embedding is an error.

Letters: N stays in a chunk, E events (rows) in a chunk.
"""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from seqsetvae.cohort.tidy import Rows, left_out
from seqsetvae.errors import InputError

NO_KNOWN_VARIABLE = "none of its variables has an embedding, so none occurred in the training data"


class MissingEmbeddingsError(InputError):
    """Variables of the data have no embedding."""


def only_known(rows: Rows, known: Collection[str]) -> tuple[Rows, dict[str, int]]:
    """(the rows of known variables, events of each other variable). A stay without known variables goes to `skips`.

    Rows without a name stay, because they are a fault.
    """
    is_known = np.array([name in known or not name.strip() for name in rows.names] + [True])  # the last: no name
    keep = is_known[rows.variable]  # [E]
    if keep.all():
        return rows, {}
    codes, counts = np.unique(rows.variable[~keep], return_counts=True)
    unknown = {rows.names[code]: int(count) for code, count in zip(codes, counts, strict=True)}
    kept = rows.take(np.flatnonzero(keep))
    emptied = np.flatnonzero((kept.n_rows == 0) & (rows.n_rows > 0)).tolist()
    skips = [left_out(rows.stays[at], NO_KNOWN_VARIABLE) for at in emptied]
    kept = kept.without(emptied)
    return replace(kept, skips=[*rows.skips, *skips]), unknown
