"""Calibrate the best checkpoint of a fine-tuning run, on the validation predictions that it was chosen by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from seqsetvae.checkpoint.file import read_file
from seqsetvae.evaluation.calibration import calibrate
from seqsetvae.evaluation.predictions import predict, predictions_of
from seqsetvae.training.feature_cache import CachedFeatures
from seqsetvae.training.precision import Precision
from seqsetvae.training.run_folder import best_row
from seqsetvae.training.stages import Run


def calibrate_best(run: Run, module: Any, compute_features: Callable[[], CachedFeatures], precision: Precision) -> None:
    """Write calibration.json for best.ckpt; afterwards the fine-tuner has its weights.

    A checkpoint of stage 1 has the frozen backbone, whose features are cached; for one of stage 2 the validation split
    is run through the backbone once more.
    """
    module.freeze_backbone()
    module.load_state_dict(read_file(run.folder.best)["state_dict"])
    module.to(precision.device).eval()
    is_frozen = best_row(list(run.state.rows), run.watched).stage == 1
    rows = compute_features().rows["valid"] if is_frozen else None
    loader = run.data.loader("valid", rows=rows)
    context = precision.context()
    predictions = predict(
        module.spec, lambda batch, _: module.predicted(batch), module.embeddings, loader, "valid", context
    )
    print(calibrate(run.folder.best, predictions_of(module.spec, run.data.cohort, "valid", *predictions)))
