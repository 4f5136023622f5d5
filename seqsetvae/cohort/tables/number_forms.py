"""Texts that are numbers written in a way that is not read: 85,0 and 1.234,5, 85 bpm and 12%, >90, 1/2, １２.

Taken for categories, each number of a variable would be a category of its own.
"""

import re
import unicodedata
from collections.abc import Collection
from typing import NamedTuple

from seqsetvae.cohort.names import trimmed

_PLAIN = r"(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_COMMA = r"\d*,\d+(?:e[+-]?\d+)?"
_POINTS = r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}"
_THOUSANDS = r"\d{1,3}(?:[,' _]\d{3})+(?:[.,]\d+)?"
_CORE = rf"[+-]? ?(?:{_THOUSANDS}|{_POINTS}|{_COMMA}|{_PLAIN})"
_BOUND = r"(?:[<>≤≥=~≈±]+|(?:less|greater|more) than|above|below|over|under|approx\.?|about|circa|ca\.?)"
_PART = r"(?:[munpkdcfμ]?(?:g|l|mol|eq|u|iu|osm|m)|mcg|kg|hpf|lpf|min|s|h|hr|d|day|24 ?h|1\.73 ?m.?2)"
_UNIT = (  # known ones; others are recognised by several numbers that share one
    r"%|‰|°[cfk]?|deg(?:rees?)?(?: ?[cf])?|celsius|fahrenheit|bpm|rpm|mm ?hg|cm ?h2o|kpa|hpa|torr|mcg|[munpkμ]g|gm"
    r"|grams?|lbs?|oz|[mdcμu]l|cc|lit(?:er|re)s?|lpm|[mcμn]m|inch(?:es)?|ft|[munpμ]?mol|mosm(?:ol)?|meq|[mkμu]?iu|units?"
    r"|secs?|seconds?|mins?|minutes?|hrs?|hours?|days?|weeks?|months?|yrs?|years?|ms|m[va]|hz|kcal|kj|beats|breaths"
    rf"|percent|pct|{_PART}(?: ?/ ?{_PART})+|(?:beats|breaths|cells|copies|units)? ?/ ?{_PART}"
    rf"|[x×]? ?10 ?[\^*e]? ?\d+(?: ?/ ?{_PART})?"
)
_FORMS = {  # how a number is written, in the order of asking
    "number": rf"[+-]? ?{_PLAIN}",
    "comma": rf"[+-]? ?{_COMMA}",
    "points": rf"[+-]? ?(?:{_POINTS})",
    "thousands": rf"[+-]? ?{_THOUSANDS}",
    "bound": rf"{_BOUND} ?{_CORE}(?: ?(?:{_UNIT}))?",
    "fraction": r"\d{1,3} ?/ ?\d{1,3}",
    "unit": rf"[$€£]? ?{_CORE} ?(?:{_UNIT})|[$€£] ?{_CORE}",
}
_ADVICE = {
    "number": "a number in the column of texts; write it in the column of values",
    "comma": "a decimal comma; pass --decimal ,",
    "points": "points between thousands and perhaps a decimal comma; write it without these points, and see --decimal",
    "thousands": "thousands that are separated; write it without the separator",
    "bound": "a bound; write the number alone, or leave the variable out",
    "fraction": "two numbers in one cell; write each as a variable, or their quotient",
    "unit": "a unit beside the number; write the number alone",
    "signs": "unusual digits, signs or marks; write it with the digits 0 to 9 and a point",
    "point": "a decimal point, where --decimal asks for a comma; leave out --decimal",
    "ambiguous": "separated thousands or a decimal comma: write it without the comma, or pass --decimal ,",
}
_WITH_TEXT = re.compile(rf"({_CORE})( ?)([^\d\s.,:+\-/<>=][^\n]*)")
_NO_UNIT = re.compile(r"(?:st|nd|rd|th)\b.*|[ap]\.?m\.?|(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec).*")
_RANGE = re.compile(rf"[\[(]? ?{_CORE} ?(?:-|–|to) ?{_CORE}.*")
SHARED = 3  # numbers with the same text beside them, which then is a unit


class WrittenNumbers(NamedTuple):
    """The levels of a variable that are numbers in another form; `advice` says how the first of them is written."""

    levels: list[str]
    advice: str


def written_numbers(levels: Collection[str], decimal: str = ".") -> WrittenNumbers:
    """Those of these levels, of one variable, that are numbers in a form that is not read with this `decimal`."""
    texts = {level: _plain(level) for level in levels}
    form = {level: _form(level, text, decimal) for level, text in texts.items()}
    if _are_bands(texts, form):
        form = {level: "" if name == "bound" else name for level, name in form.items()}
    form |= dict.fromkeys(_with_shared_text({level: text for level, text in texts.items() if not form[level]}), "unit")
    found = sorted((level for level in levels if form[level]), key=lambda level: form[level] != "comma")
    if not found:
        return WrittenNumbers([], "")
    name = form[found[0]]
    if name == "comma" and all(re.fullmatch(r".*\d,\d{3}", texts[level]) for level in found if form[level] == name):
        name = "thousands" if "thousands" in form.values() else "ambiguous"
    return WrittenNumbers(found, _ADVICE[name])


def _form(level: str, text: str, decimal: str) -> str:
    """A key of _ADVICE; empty if the text is no number."""
    name = next((name for name, form in _FORMS.items() if re.fullmatch(form, text)), "")
    if decimal == "," and name == "number" and "." in text:
        return "point"
    if name == "number" or (name == "comma" and decimal == ","):  # it would be read in a column of values
        return "number" if text == level.casefold() else "signs"
    return name


def _are_bands(texts: dict[str, str], form: dict[str, str]) -> bool:
    """Whether bounds are categories beside others: `<40, 40-60, >60`, and `>7, >8, normal`."""
    n_bounds = list(form.values()).count("bound")
    is_few = n_bounds <= SHARED and "" in form.values()
    return is_few or any(_RANGE.fullmatch(text) for text in texts.values())


def _plain(level: str) -> str:
    """A text with ASCII digits and signs, one kind of spaces, no quotes and no case."""
    text = unicodedata.normalize("NFKC", level)
    text = "".join(str(unicodedata.decimal(each)) if each.isdecimal() else each for each in text)
    text = re.sub(r"\s+", " ", text.translate({0x2212: "-", 0x2044: "/", 0x2019: "'"}))
    return trimmed(re.sub(r"""^="?|^["'`]+|["'`*]+$""", "", trimmed(text))).casefold()


def _with_shared_text(texts: dict[str, str]) -> list[str]:
    """Levels such as `85 foo`, where several numbers have the same text: most of them, or some with decimals."""
    groups: dict[str, dict[str, str]] = {}
    for level, text in texts.items():
        match = _WITH_TEXT.fullmatch(text)
        if match is None or _NO_UNIT.fullmatch(match[3]) or re.match(r"0\d", match[1]):
            continue
        if not re.search(r"\d", match[3]) or match[2] or re.search(r"[/^*]", match[3]):
            groups.setdefault(match[3], {})[match[1]] = level
    return [
        level
        for group in groups.values()
        if len(group) >= SHARED and (2 * len(group) > len(texts) or any(re.search(r"[.,]", number) for number in group))
        for level in group.values()
    ]
