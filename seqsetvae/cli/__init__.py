"""The modes of train_optimized.py, by name, in the order of --help. Importing them imports no torch.

A mode is a module with HELP, NEEDS, BODY, Settings and problems(settings): see cli/command_line.Mode.
"""

from seqsetvae.cli import (
    config,
    crossvalidate,
    demo,
    embed,
    evaluate,
    export,
    finetune,
    predict,
    pretrain,
    report,
    reproduce,
)
from seqsetvae.cli.command_line import Mode

MODES: dict[str, Mode] = {
    "finetune": finetune,
    "pretrain": pretrain,
    "crossvalidate": crossvalidate,
    "evaluate": evaluate,
    "predict": predict,
    "report": report,
    "reproduce": reproduce,
    "embed": embed,
    "export": export,
    "demo": demo,
    "config": config,
}
