"""Checkpoints: the file, what it records, the weights of a backbone, a fine-tuned model, and data it reads."""

from __future__ import annotations
