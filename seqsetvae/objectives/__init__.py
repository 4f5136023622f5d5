"""The pretraining objectives, by name. Importing this imports no torch."""

from typing import Any

from seqsetvae.objectives import reconstruction

OBJECTIVES: dict[str, Any] = {"reconstruction": reconstruction}
