"""Events of variables that a model cannot read, because they have no embedding, are left out and counted.

Only for data that a trained model is applied to: where a model is trained, a variable without an embedding is an error.

Letters: N stays in a chunk, E events (rows) in a chunk.
"""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from seqsetvae.cohort.tidy import Rows, Skip
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
    stay = np.repeat(np.arange(len(rows.stays)), rows.n_rows)[keep]
    n_rows = np.bincount(stay, minlength=len(rows.stays)).astype(np.int64)
    emptied = (n_rows == 0) & (rows.n_rows > 0)  # [N]
    skips = [
        Skip(rows.stays[n].file, NO_KNOWN_VARIABLE, is_fault=False, stay_id=rows.stays[n].stay_id)
        for n in np.flatnonzero(emptied).tolist()
    ]
    kept = replace(
        rows,
        stays=[each for each, gone in zip(rows.stays, emptied, strict=True) if not gone],
        n_rows=n_rows[~emptied],
        variable=rows.variable[keep],
        value=rows.value[keep],
        minute=rows.minute[keep],
        set_index=None if rows.set_index is None else rows.set_index[keep],
        has_set_index=rows.has_set_index[~emptied],
        skips=[*rows.skips, *skips],
    )
    return kept, unknown
