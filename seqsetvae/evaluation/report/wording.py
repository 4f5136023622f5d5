"""Numbers and names as a report writes them."""

from __future__ import annotations

from pathlib import PurePath

from seqsetvae.evaluation.report.evaluation_file import Estimate

FIGURE_NAMES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "brier": "Brier score",
    "calibration_slope": "Calibration slope",
    "calibration_intercept": "Calibration intercept",
    "ece": "Expected calibration error",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "Positive predictive value",
    "npv": "Negative predictive value",
}
BEST_VALUE = {
    "auroc": "1; chance 0.5",
    "auprc": "1; chance: the prevalence",
    "brier": "0",
    "calibration_slope": "1",
    "calibration_intercept": "0",
    "ece": "0",
}
MODEL = "This model"


def number(value: float | None, digits: int = 3) -> str:
    """With a real minus sign; a dash for no value.

    >>> number(-0.01234), number(None)
    ('−0.012', '–')
    """
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.removeprefix("-")


def interval(estimate: Estimate | None, digits: int = 3) -> str:
    """The 95 % interval alone.

    >>> interval(Estimate(0.5, 0.4, 0.6), 2)
    '0.40 to 0.60'
    """
    if estimate is None or estimate.low is None:
        return "–"
    return f"{number(estimate.low, digits)} to {number(estimate.high, digits)}"


def with_interval(estimate: Estimate | None, digits: int = 3) -> str:
    """A figure and its 95 % interval.

    >>> with_interval(Estimate(0.5, 0.4, 0.6), 2), with_interval(Estimate(0.5))
    ('0.50 (0.40 to 0.60)', '0.500')
    """
    if estimate is None or estimate.low is None:
        return number(None if estimate is None else estimate.value, digits)
    return f"{number(estimate.value, digits)} ({interval(estimate, digits)})"


def stacked(estimate: Estimate | None, digits: int = 3) -> str:
    """A figure and, on a second line, its 95 % interval.

    >>> stacked(Estimate(0.5, 0.4, 0.6), 2)
    '0.50\\n0.40 to 0.60'
    """
    if estimate is None or estimate.low is None:
        return with_interval(estimate, digits)
    return f"{number(estimate.value, digits)}\n{interval(estimate, digits)}"


def percent(share: float) -> str:
    """
    >>> percent(0.1402)
    '14.0 %'
    """
    return f"{share:.1%}".replace("%", " %")


def figure_name(name: str) -> str:
    """
    >>> figure_name("ppv"), figure_name("other_score")
    ('Positive predictive value', 'other score')
    """
    return FIGURE_NAMES.get(name, name.replace("_", " "))


def model_name(name: str) -> str:
    """A baseline's name as a reader says it; of another run's checkpoint, the run.

    >>> model_name("boosted_trees"), model_name("outputs/run_1/checkpoints/best.ckpt")
    ('Boosted trees', 'run_1')
    """
    if "/" in name or name.endswith(".ckpt"):
        return PurePath(name.removesuffix("/checkpoints/best.ckpt")).name
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def counted(count: int, thing: str) -> str:
    """
    >>> counted(1, "stay"), counted(2000, "stay")
    ('1 stay', '2,000 stays')
    """
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """
    >>> duration(40), duration(75), duration(7320)
    ('40 s', '1 min 15 s', '2 h 2 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
