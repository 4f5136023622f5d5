"""Commands in two processes of one run on this CPU (gloo), which record what they do."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import train_optimized

# What each process runs: one command after the other, with what the tests change and what they look at.
DRIVER = """
import gc, json, os, sys, time
from pathlib import Path
import numpy as np
import torch
import train_optimized
from model_optimized import SeqSetVAEFineTuner
from seqsetvae.system.errors import InputError
from seqsetvae.system.processes import ENVIRONMENT, this_process
from seqsetvae.batches.sampler import LengthBucketSampler
from seqsetvae.tasks.model import GatheredOutputs
from seqsetvae.tasks.spec import one_label
from seqsetvae.training import feature_cache, stages

gc.freeze()  # what was imported is not searched for garbage
OUT, RANK = Path(os.environ["OUT"]), this_process().rank
STARTED = {name: os.environ[name] for name in ENVIRONMENT}
fit, step, batches_of = stages.Run.fit, SeqSetVAEFineTuner.training_step, feature_cache.pooled_batches
steps, command, computed, stays = 0, {}, [], []
meet = torch.distributed.rendezvous

def meet_again(*arguments, **options):  # each command has its own keys, so that it finds no addresses of the last one
    for store, *others in meet(*arguments, **options):
        yield torch.distributed.PrefixStore(str(number), store), *others

def aurocs():
    found = {}
    for n in range(2, 10):
        label = torch.arange(n) % 2
        logit = torch.randn(n, generator=torch.Generator().manual_seed(n)).double()
        sizes = np.arange(1, n + 1)
        sampler = LengthBucketSampler(np.arange(n), sizes, sizes, batch_size=4, max_events=10**6, shuffle=False,
                                      rank=RANK, world_size=2)
        metric = GatheredOutputs(one_label())
        for stays in sampler:
            rows = torch.from_numpy(np.where(stays < 0, ~stays, stays))
            own = torch.where(torch.from_numpy(stays < 0), -1, label[rows])
            metric.update(torch.stack([-logit[rows] / 2, logit[rows] / 2], dim=1), own)
        found[n] = (float(metric.metrics()["auc"]), label, logit)
    return found

def fit_and_save(self, stage, *arguments, **options):
    fit(self, stage, *arguments, **options)
    content = {"weights": self.module.state_dict(), "rows": [row.metrics for row in self.state.rows]}
    content |= {"computed": computed, "stays": stays, "auroc": aurocs()}
    torch.save(content, OUT / f"command{number}-stage{stage}-rank{RANK}.pt")

def count(*arguments):
    for part in batches_of(*arguments):
        computed.append(len(part[0]))
        yield part

def step_or_fail(self, batch, *arguments):
    global steps
    steps += 1
    stays.append(batch.stay_id.tolist())
    if steps == command["fail_at"] and RANK == 1:
        (OUT / "failed_at").write_text(str(time.time()))
        raise InputError("the second process has failed")
    loss = step(self, batch, *arguments)
    return loss * float("nan") if steps == command["nan_at"] and RANK == 1 else loss

stages.Run.fit, SeqSetVAEFineTuner.training_step = fit_and_save, step_or_fail
feature_cache.pooled_batches, torch.distributed.rendezvous = count, meet_again
for number, command in enumerate(json.loads(os.environ["COMMANDS"])):
    os.environ.update(STARTED)
    words = [str(next(OUT.glob("runs/finetune-*"))) if word == "{run}" else word for word in command["words"]]
    steps = 0
    del computed[:], stays[:]
    try:
        status = train_optimized.main(words)
    except SystemExit as ended:  # where the processes part
        status = ended.code
    (OUT / f"command{number}-stays-rank{RANK}.json").write_text(json.dumps(stays))
    if status != command["status"]:
        sys.exit(status or 99)
"""


def command(words: Sequence[str], status: int = 0, nan_at: int = 0, fail_at: int = 0) -> dict[str, Any]:
    """A command that ends with this status.

    In the second process the loss is NaN in the step `nan_at` (from 1), and the step `fail_at` raises an error.

    The word {run} becomes the folder of the run in `runs`.
    """
    return {"words": list(words), "status": status, "nan_at": nan_at, "fail_at": fail_at}


def torchrun(out: Path, *commands: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """The commands, one after the other, in two processes that torchrun starts; they write to the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "driver.py").write_text(DRIVER, encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    root = str(Path(train_optimized.__file__).parent)
    added = {"OUT": str(out), "PYTHONPATH": root, "COMMANDS": json.dumps(commands)}
    return subprocess.run(
        [*launcher, str(out / "driver.py")],
        env=dict(os.environ) | added,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
