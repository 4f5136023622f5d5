"""Sections about how a run, or several, came to be: data, training, speed, settings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from seqsetvae.report import plots
from seqsetvae.report.flow import flow_of, flow_picture
from seqsetvae.report.parts import Picture, Section, Table, duration, number, percent
from seqsetvae.report.run_files import Run, Runs

LOSS = "loss"


def data_section(run: Run) -> Section:
    """The data card: counts by split, where labels and embeddings come from, and what was odd."""
    recorded, window = run.recorded, run.config.get("window", "not recorded (a run of an earlier version)")
    text = [f"Label: {run.label_name}. Data folder: {recorded.get('path', 'not recorded')}."]
    text.append(f"Window of the training stays: {window}.")
    unused = [list(item) for item in run.not_used.items()]
    not_used = Table("Variables that the model does not use, or not wholly", ("variable", "why"), unused, numeric=False)
    notices = [f"Notice: {line}." for line in recorded.get("notices") or ()]
    if run.cohort is None:
        text.append("The data are no longer there or have changed, so their counts cannot be shown.")
        return Section("data", "Data", text + notices, folded=[not_used] if run.not_used else [])
    manifest = run.cohort.manifest
    vectors, statistics = (recorded.get(key, "not recorded") for key in ("embeddings", "statistics"))
    text.append(
        f"Source: {manifest.get('source', 'not recorded')}. {len(run.cohort.vocabulary):,} variables, embeddings "
        f"{vectors}, mean and std from: {statistics}."
    )
    head = ["split", "stays", "with label", "positive", "share", "sets", "events", "events per stay"]
    rows = [_split_row(name, counts) for name, counts in manifest["splits"].items()]
    if run.task != "binary":  # the cohort counts another label than this run predicts
        head, *rows = [[*row[:2], *row[5:]] for row in (head, *rows)]
    variables = Table("Variables", ("variable", "mean", "std"), _variables(run), numeric=True)
    folded = [not_used, variables] if run.not_used else [variables]
    flow = flow_of(run)
    pictures = [] if flow is None else [flow_picture(flow)]
    return Section("data", "Data", text + notices, pictures, [Table("Stays by split", head, rows)], folded)


def _split_row(name: str, counts: dict[str, int]) -> list[str]:
    share = percent(counts["positives"] / counts["labelled"]) if counts["labelled"] else "–"
    per_stay = f"{counts['events'] / counts['stays']:,.0f}" if counts["stays"] else "–"
    stays, labelled, positives, sets, events = (
        f"{counts[key]:,}" for key in ("stays", "labelled", "positives", "sets", "events")
    )
    return [name, stays, labelled, positives, share, sets, events, per_stay]


def _variables(run: Run) -> list[list[str]]:
    assert run.cohort is not None
    triples = zip(run.cohort.vocabulary, run.cohort.mean, run.cohort.std, strict=True)
    return [
        [name, *(f"{value:.4g}".replace("-", "−") if value == value else "–" for value in pair)]
        for name, *pair in triples
    ]


def training_section(runs: Runs) -> Section | None:
    """Curves over epochs, of several runs each metric with a line for each; None before the first validation."""
    if len(runs) > 1:
        metrics = dict.fromkeys(name for run in runs.values() for name in run.metrics)
        pictures = [_compared(runs, name) for name in metrics]
        return Section("training", "Training", pictures=pictures) if pictures else None
    (run,) = runs.values()
    if not run.rows:
        return None
    losses = [name for name in run.metrics if name.endswith(LOSS)]
    others = [name for name in run.metrics if name not in losses]
    rates = list(dict.fromkeys(name for row in run.rows for name in row if name.startswith("lr_")))
    pictures = [_curves(run, LOSS, losses, LOSS)] if losses else []
    pictures += [_curves(run, name, [name], name) for name in others]
    pictures += [_curves(run, "learning_rates", rates, "learning rate", log=True)] if rates else []
    best = run.best
    text = [] if best is None else [f"best.ckpt is from epoch {best['epoch']:.0f} of {run.rows[-1]['epoch']:.0f}."]
    head = ["epoch", "stage", *run.metrics]
    rows = [
        [f"{row['epoch']:.0f}", f"{row['stage']:.0f}", *(number(row.get(name), 4) for name in run.metrics)]
        for row in run.rows
    ]
    return Section("training", "Training", text, pictures, folded=[Table("All validations", head, rows)])


def _over_epochs(run: Run, column: str, *, log: bool = False) -> tuple[list[float], list[float]]:
    """(epochs, values) of a column of metrics.csv; a rate of 0 (frozen) is not on a logarithmic axis."""
    rows = [row for row in run.rows if column in row and (row[column] > 0 or not log)]
    return [row["epoch"] for row in rows], [row[column] for row in rows]


def _curves(run: Run, name: str, columns: Sequence[str], label: str, *, log: bool = False) -> Picture:
    """One picture of some columns of metrics.csv."""
    series = {column: _over_epochs(run, column, log=log) for column in columns}
    best = run.best
    drawn = plots.metric_curves(
        series,
        label,
        best_epoch=None if best is None or log else best["epoch"],
        best_name="best epoch" if run.settings.get("keep", "best") == "best" else "last epoch, kept",
        boundaries=[row["epoch"] for row, following in pairwise(run.rows) if row["stage"] != following["stage"]],
        log=log,
    )
    ends = "; ".join(
        f"{column} from {values[0]:.4g} to {values[-1]:.4g}" for column, (_, values) in series.items() if values
    )
    frozen = log and any(row.get(column) == 0 for row in run.rows for column in columns)
    caption = "At the end of each epoch." * log + " A frozen backbone has none." * frozen
    title = label[:1].upper() + label[1:] if name in (LOSS, "learning_rates") else label
    return Picture(name, title, caption, f"{title} over {len(run.rows)} epochs: {ends}.", drawn)


def _compared(runs: Runs, metric: str) -> Picture:
    series = {name: _over_epochs(run, metric) for name, run in runs.items()}
    last = "; ".join(f"{name} {values[-1]:.4g}" for name, (_, values) in series.items() if values)
    alt = f"{metric} over the epochs. At the end: {last}."
    return Picture(metric, metric, "", alt, plots.metric_curves(series, metric))


def speed_section(run: Run) -> Section | None:
    """Time, throughput and device."""
    summary = run.summary
    if summary is None:
        return None
    rows = [["Training time", duration(summary.get("seconds") or 0)]]
    alone = summary.get("head_alone") or ()
    for stage, speed in (summary.get("stays_per_second") or {}).items():
        what = ", head on cached features" if stage in alone else ""
        rows.append([f"Training, stage {stage}{what}", f"{speed:,.0f} stays/s"])
    for one in run.state.get("passes") or ():
        rows.append(["Frozen forward pass", f"{one['stays']:,} stays in {duration(one['seconds'])}"])
    waiting = summary.get("waiting")
    rows.append(["Waiting for data", "–" if waiting is None else f"{percent(waiting)} of the time"])
    rows.append(["Device and memory", str(summary.get("device_use") or "–")])
    for stage, parts in (summary.get("trained") or {}).items():
        counts = ", ".join(f"{part} {count:,}" for part, count in parts.items())
        rows.append([f"Trainable parameters, stage {stage}", counts])
    return Section("speed", "Speed and memory", tables=[Table("This run", ("what", "measured"), rows, numeric=False)])


def configuration_section(run: Run) -> Section:
    """Settings, sizes, what was loaded, and versions."""
    loaded = run.config.get("pretrained")
    tables = [_plain_table("Settings", run.settings), _plain_table("Sizes of the model", run.config.get("sizes"))]
    if isinstance(loaded, dict):
        counts = {name: len(each) if isinstance(each, list) else each for name, each in loaded.items()}
        tables.append(_plain_table("Weights of the checkpoint", counts))
    tables += [_plain_table("How values are read", run.config.get("values"), widest=200)]
    tables += [_plain_table("Versions", run.config.get("versions"))]
    return Section("configuration", "Configuration", folded=[table for table in tables if table.rows])


def _plain_table(caption: str, content: Any, widest: int = 500) -> Table:
    """Names and values; a longer value is cut."""
    items = content.items() if isinstance(content, dict) else ()
    rows = [
        [str(name), str(value) if len(str(value)) <= widest else f"{str(value)[:widest]} …"] for name, value in items
    ]
    return Table(caption, ("name", "value"), rows, numeric=False)


def settings_section(runs: Runs) -> Section | None:
    """The settings in which several runs differ."""
    known = {
        name: {key: str(each) for part in ("settings", "sizes") for key, each in (run.config.get(part) or {}).items()}
        for name, run in runs.items()
    }
    keys = dict.fromkeys(key for values in known.values() for key in values)
    rows = [[key, *(values.get(key, "–") for values in known.values())] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    table = Table("Settings that differ", ("setting", *runs), rows, numeric=False)
    return Section("settings", "What differs", tables=[table]) if rows else None
