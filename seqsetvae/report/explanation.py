"""The section about why: the variables that matter over a split, and the course of the risk of some stays."""

from __future__ import annotations

from seqsetvae.report import plots
from seqsetvae.report.parts import Picture, Section, Table, as_name, number, percent
from seqsetvae.report.run_files import Plain, Run

LEVELS = ("low", "usual", "high", "missing", "present", "absent")


def explanation_section(run: Run) -> Section | None:
    """What `evaluate --explain` wrote into evaluation.json; nothing is computed here."""
    explanation: Plain | None = (run.evaluation or {}).get("explanation")
    if explanation is None:
        return None
    courses, score = explanation["courses"], explanation["of"]
    pictures = [_variables_picture(explanation), *(_course_picture(course, score) for course in courses)]
    tables = [_moved_table(course) for course in courses]
    title, text = "Why: contributions to the risk", _text(explanation)
    return Section("explanation", title, text, pictures, [], [_levels_table(explanation), *tables])


def _text(explanation: Plain) -> list[str]:
    text = (
        f"Contributions to the {explanation['of']} of {explanation['stays']:,.0f} stays. Those of a stay and a base of "
        f"{number(explanation['base'], 2)} add up to its score (largest gap {number(explanation['gap'])}). They say "
        "what the model made of the values, and nothing about causes: treating a value need not change the outcome. "
        "Variables that measure the same share their contribution. Low and high are the lowest and highest quarter of "
        "the training stays."
    )
    test = explanation.get("deletion")
    if test is None:
        return [text]
    return [
        text,
        f"Deletion test: without the {test['variables']:.0f} variables that raise it most, the score falls by "
        f"{number(test['largest'], 2)}; without as many random ones, by {number(test['random'], 2)} (means of "
        f"{test['stays']:,.0f} stays; more in {percent(test['share'])} of them). The larger the "
        "difference, the more the contributions can be trusted.",
    ]


def _shown(entry: Plain) -> str:
    """A variable, and which of its summaries the levels are of."""
    return f"{entry['variable']} ({entry['summary'].strip()})" if entry["summary"].strip() else entry["variable"]


def _variables_picture(explanation: Plain) -> Picture:
    rows = {variable["variable"]: variable for variable in explanation["variables"]}
    told = "; ".join(f"{name} {number(row['mean_absolute'], 2)}" for name, row in rows.items())
    caption = (
        "Bars: mean absolute contribution. Marks: mean contribution of the stays whose value is low, usual, high, ..."
    )
    drawn = plots.contributions(rows, explanation["of"])
    return Picture("contributions", "Variables that matter", caption, f"Mean absolute contributions: {told}.", drawn)


def _levels_table(explanation: Plain) -> Table:
    def cell(level: Plain | None) -> str:
        return "–" if level is None else f"{number(level['mean'], 2)}\n{level['stays']:,.0f} stays"

    rows = [
        [_shown(variable), number(variable["mean_absolute"]), *(cell(variable["levels"].get(name)) for name in LEVELS)]
        for variable in explanation["variables"]
    ]
    return Table("Mean contribution by value", ("variable", "mean absolute", *LEVELS), rows)


def _course_picture(course: Plain, score: str) -> Picture:
    reasons = "; ".join(f"{row['words']} {number(row['contribution'], 2)}" for row in course["reasons"][:3])
    label = "" if course.get("label") is None else f", label {course['label']:g}"
    caption = f"The risk from all events so far, and what each variable contributes. At the end: {reasons}."
    drawn = plots.course(course["hours"], course["risk"], course["variables"], score)
    ends = f"from {number(course['risk'][0])} to {number(course['risk'][-1])} at hour {course['hours'][-1]:.1f}"
    return Picture(
        f"course_{as_name(course['name'])}", f"{course['name']}{label}", caption, f"Risk {ends}.", drawn, wide=True
    )


def _moved_table(course: Plain) -> Table:
    """What changed the score since the row above."""
    rows = [
        [
            f"{hour:.1f}",
            number(risk),
            "; ".join(f"{one['words']} {number(one['contribution'], 2)}" for one in moved) or "–",
        ]
        for hour, risk, moved in zip(course["hours"], course["risk"], course["moved"], strict=True)
    ]
    return Table(
        f"{course['name']}: what moved the risk", ("hour", "risk", "change of contributions"), rows, numeric=False
    )
