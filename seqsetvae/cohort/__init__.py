"""Patients on disk: sources are compiled once into a cohort of memory-mapped arrays. Nothing in here imports torch."""

from seqsetvae.cohort.compile import compile_cohort
from seqsetvae.cohort.format import Cohort, Split, is_compiled, open_cohort
from seqsetvae.cohort.open import content_key, open_or_compile, require_classes
from seqsetvae.cohort.report import notices, summary

__all__ = [
    "Cohort",
    "Split",
    "compile_cohort",
    "content_key",
    "is_compiled",
    "notices",
    "open_cohort",
    "open_or_compile",
    "require_classes",
    "summary",
]
