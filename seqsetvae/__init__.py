"""Fine-tuning SeqSetVAE: fast, exact, honest. docs/architecture.md shows how the rooms of this package fit together."""

__version__ = "0.1.0"  # pyproject.toml reads it from here
