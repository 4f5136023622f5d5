"""The architectures, by name. Importing this imports no torch."""

from types import SimpleNamespace
from typing import Any

from seqsetvae.architectures.seqsetvae.sizes import PRESETS, Sizes, problems

ARCHITECTURES: dict[str, Any] = {"seqsetvae": SimpleNamespace(Sizes=Sizes, PRESETS=PRESETS, problems=problems)}
