"""The model card beside an exported model, in Markdown: what its run knows, and questions where it knows nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from seqsetvae.evaluation.findings import verdict
from seqsetvae.tasks.scores import title_of

Plain = Mapping[str, Any]
HUB_METRICS = {"auroc": "roc_auc", "auprc": "average_precision", "brier": "brier_score"}  # as model hubs call them
UNKNOWN = {  # what no file of a run says, by section
    "Intended use": "To be answered by the authors: for which patients, at which moment of care and for whose decision "
    "is the model meant, and where must it not be used?",
    "Training data": "To be answered by the authors: where and when were the data recorded, which patients were "
    "included, how was the label defined, and what licence and ethical approval apply?",
    "Limits": "Nothing here says how the model does in another hospital, in later years or in a trial.",
}


def model_card(card: Plain, evaluation: Plain | None) -> str:
    """The text of a model card, from the content of card.json and, where there is one, of evaluation.json."""
    sections = {
        "Model": list(_model(card)),
        "Intended use": [*_use(card), UNKNOWN["Intended use"]],
        "Training data": [*_data(card), UNKNOWN["Training data"]],
        "Results": list(_results(card, evaluation)),
        "Limits": [*_limits(card, evaluation), UNKNOWN["Limits"]],
    }
    parts = [f"# {card['architecture']}: {card['label'] or 'pretrained, without a label'}"]
    parts += [f"## {title}\n\n" + "\n\n".join(lines) for title, lines in sections.items()]
    return "\n\n".join(parts) + "\n"


def hub_metadata(card: Plain, evaluation: Plain | None) -> str:
    """The YAML that model hubs read at the beginning of a model card; each value is JSON, which YAML contains."""
    task = "tabular-regression" if card["task"] == "regression" else "tabular-classification"
    content: dict[str, Any] = {
        "library_name": "seqsetvae-finetuning",
        "tags": ["electronic-health-records", "clinical-prediction", card["architecture"]],
    }
    if card["task"] is not None:
        content["pipeline_tag"] = task
    if card["task"] is not None and evaluation is not None:
        metrics = [
            {"type": HUB_METRICS.get(name, name), "name": title_of(name), "value": metric["value"]}
            for name, metric in evaluation["figures"].items()
            if metric.get("value") is not None
        ]
        data = {"type": f"cohort-{card['trained_on'].get('data', 'unknown')[:12]}", "name": card["label"]}
        result = {"task": {"type": task}, "dataset": {**data, "split": evaluation["split"]}, "metrics": metrics}
        content["model-index"] = [{"name": f"{card['architecture']} {card['label']}", "results": [result]}]
    lines = (f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items())
    return "\n".join(["---", *lines, "---", "", ""])


def _model(card: Plain) -> Iterator[str]:
    what = f"predicts {card['label']} ({card['task']})" if card["task"] else "pretrained backbone, to be fine-tuned"
    versions = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    yield f"{card['architecture']}, {what}. {card['parameters']:,} numbers as weights; written by {versions}."


def _use(card: Plain) -> Iterator[str]:
    if card["task"]:
        yield (
            "`seqsetvae predict --ckpt THIS_FOLDER --data_dir NEW_STAYS --output predictions.csv`, where NEW_STAYS has "
            f"the variables of the training data ({len(card['variables']):,}, in the JSON file beside this card)."
        )


def _data(card: Plain) -> Iterator[str]:
    splits = card["trained_on"].get("splits") or {}
    for name, counts in splits.items():
        yield f"{name}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items())
    if not splits:
        yield "The number of stays is not known: the model was exported without the data of its run."


def _results(card: Plain, evaluation: Plain | None) -> Iterator[str]:
    if evaluation is None:
        best = card["trained_on"].get("best")
        yield "Not evaluated on stays that took no part in training or in choosing the checkpoint."
        if best:
            values = ", ".join(f"{name} {value:.4g}" for name, value in best.items() if isinstance(value, int | float))
            yield f"On the validation split, which chose the checkpoint and is therefore optimistic: {values}."
        return
    positive = f", {evaluation['positives']:,.0f} positive" if "positives" in evaluation else ""
    over = evaluation.get("resampled", "stays")
    yield f"Split {evaluation['split']}: {evaluation['stays']:,.0f} stays{positive}. Intervals are 95 %, over {over}."
    rows = [f"| {title_of(name)} | {_with_interval(metric)} |" for name, metric in evaluation["figures"].items()]
    yield "\n".join(["| metric | value (95 % interval) |", "| --- | --- |", *rows])
    yield str(evaluation.get("verdict") or verdict(evaluation))


def _with_interval(metric: Plain) -> str:
    if metric.get("value") is None:
        return "not defined"
    if metric.get("low") is None or metric.get("high") is None:
        return f"{metric['value']:.4f} (no interval)"
    return f"{metric['value']:.4f} ({metric['low']:.4f} to {metric['high']:.4f})"


def _limits(card: Plain, evaluation: Plain | None) -> Iterator[str]:
    findings = (evaluation or {}).get("findings") or ()
    texts = [f"{finding['text']} {finding.get('action') or ''}".strip() for finding in findings]
    yield from (f"- {text}" for text in [*texts, *card["notes"]])
