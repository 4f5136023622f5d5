"""How a backbone knows the variables of a cohort, and what it computes of a batch in the data loader.

Legend: V variables of the cohort, I embedding width.
"""

from __future__ import annotations

import numpy as np
import torch

from seqsetvae.batches.loading import CohortDataModule, value_type
from seqsetvae.batches.transform import ValueTransform
from seqsetvae.cohort import Cohort
from seqsetvae.models.backbone import BackboneBase
from seqsetvae.models.beside import VALUES, BesideSummaries
from seqsetvae.settings.groups import RunSettings


def variable_table(backbone: BackboneBase, cohort: Cohort, run: RunSettings) -> torch.Tensor:
    """How the backbone knows the cohort's variables: its own table, or else their embeddings [V, I].

    They are in the precision of the run.
    """
    own = backbone.variable_table(cohort)
    return torch.from_numpy(np.array(cohort.embeddings, dtype=value_type(run))) if own is None else own


def with_host_work(
    data: CohortDataModule, backbone: BackboneBase, variables: torch.Tensor, again: bool = False
) -> CohortDataModule:
    """A copy of the loaders whose batches hold what the backbone computes on the host, if anything.

    With `again` the same stays are read many times, so what was computed of them is kept, if it all fits in memory.
    """
    transform = None
    if isinstance(backbone, BesideSummaries):
        backbone, transform = backbone.summaries, VALUES
        variables = backbone.variable_table(data.cohort)
    prepare = backbone.kept_summarizer(variables) if again else backbone.summarizer(variables)
    return data.with_prepare(prepare, transform=transform)


def not_used(backbone: BackboneBase, cohort: Cohort, transform: ValueTransform) -> dict[str, str]:
    """Variables of a cohort that a model does not use, or not wholly, and why; the backbone is fitted or loaded."""
    left_out = cohort.manifest["report"].get("unknown_variables", {}).values()
    reasons = {name: "has no embedding, so its events were left out" for of_split in left_out for name in of_split}
    rare = "has too few training values (min_count): that it occurred is used, its values are not"
    reasons |= {name: rare for name in _numbers(cohort) if not transform.values_read(name)}
    reasons |= {name: why for name, why in backbone.unused_variables().items() if name in cohort.vocabulary}
    known = getattr(backbone.sizes, "vocabulary", None)
    if known is not None:
        unknown = set(cohort.vocabulary) - set(known)
        reasons |= dict.fromkeys(unknown, "is unknown to the pretrained checkpoint")
    return dict(sorted(reasons.items()))


def reads_no_value(cohort: Cohort, transform: ValueTransform) -> bool:
    """Whether there are numbers, beside levels of categories, and a model reads none of them."""
    numbers = _numbers(cohort)
    return bool(numbers) and not any(map(transform.values_read, numbers))


def _numbers(cohort: Cohort) -> list[str]:
    """Variables that are numbers. Levels of categories have the value 1, and so mean 0 and std 1."""
    statistics = zip(cohort.vocabulary, cohort.mean.tolist(), cohort.std.tolist(), strict=True)
    return [name for name, mean, std in statistics if (mean, std) != (0, 1)]
