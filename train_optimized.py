"""The command: `python train_optimized.py --mode finetune --pretrained_ckpt CKPT --data_dir DIR`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import finetune_config_optimized
from seqsetvae.console import recorded_output
from seqsetvae.errors import InputError
from seqsetvae.memory import keep_freed_memory
from seqsetvae.settings import resolve


def main(argv: Sequence[str] | None = None) -> int:
    """Resolve flags and config into settings and run the mode; 2 for bad input, 1 for a run that failed."""
    with recorded_output():
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    try:
        settings = resolve(finetune_config_optimized, argv)
        keep_freed_memory()
        # Imported only now, so that --help and a mistyped flag do not wait seconds for torch.
        importlib.import_module(f"seqsetvae.modes.{settings.mode}").run(settings)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "interrupted; last.ckpt in the run folder, where there is one, is of the last validation", file=sys.stderr
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
