"""How a backbone knows the variables of a cohort, and what it computes of a batch in the data loader.

Legend: V variables of the cohort, I embedding width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from seqsetvae.cohort import Cohort
from seqsetvae.loading import Prepare, value_type
from seqsetvae.settings.groups import RunSettings


def embedding_table(cohort: Cohort, run: RunSettings) -> torch.Tensor:
    """Embeddings of the cohort's variables, in the precision of the run: [V, I]."""
    return torch.from_numpy(np.array(cohort.embeddings, dtype=value_type(run)))


def variable_table(backbone: Any, cohort: Cohort, run: RunSettings) -> torch.Tensor:
    """How the backbone knows the cohort's variables: its own table, or else their embeddings [V, I]."""
    own = getattr(backbone, "variable_table", None)
    return embedding_table(cohort, run) if own is None else own(cohort)


def host_work(backbone: Any, variables: torch.Tensor, again: bool = False) -> Prepare | None:
    """What the backbone computes of a batch on the host, in the loader; None: nothing.

    With `again` the same stays are read many times, so what was computed of them is kept, if it all fits in memory.
    """
    summarizer = getattr(backbone, "kept_summarizer" if again else "summarizer", None)
    return None if summarizer is None else summarizer(variables)
