"""Variables and levels: which variable each row of a table is about, and which value it has.

A variable that has a number in some row is numeric: its rows without a number are faults, unless the user said
otherwise. A variable without any number is categorical: `variable=level` with the value 1, and where a row has no level
either (a diagnosis, a drug that was given), the variable itself with the value 1.

Letters: R rows of a part, K variable names in it, C codes.
"""

import re
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqsetvae.cohort.names import trimmed
from seqsetvae.cohort.report import most_events
from seqsetvae.cohort.sidefiles import VariableMap
from seqsetvae.cohort.tables.cells import as_text, first_fault, positions, split_values, written_numbers
from seqsetvae.system.errors import InputError, counted, shown

UNNAMED = -1  # the code of a row without a variable
MAX_LEVELS = 1000  # of a variable; more are free text, or numbers written in a way that is not read
KEEP, NO_VALUE, NO_NUMBER, DROP = range(4)  # what becomes of the events of a code
_WITH_COMMA, _LIKE_THOUSANDS = r"^[^,]*,[0-9]+\s*$", r"^\s*[+-]?[0-9]{1,3},[0-9]{3}\s*$"
NO_LEVEL = "none"  # of an empty value, where levels are made of all that is no number
SHOWN = 10  # variables in one message
NON_NUMERIC = ("fault", "leave_out", "level")


class Decision(NamedTuple):
    """What becomes of the events of each code: all [C]."""

    names: list[str]  # the variable that they are of
    value: NDArray[np.float64]  # 1 for levels; NaN = the event's own number
    action: NDArray[np.int8]  # KEEP, DROP, or the fault NO_VALUE or NO_NUMBER
    notes: list[str]  # what is left out, in words


class EventCodes:
    """Numbers the pairs (variable, level) in order of appearance. The level "" is no value, and None a number."""

    def __init__(
        self,
        mapping: VariableMap,
        categorical: Collection[str] = (),
        leave_out: Collection[str] = (),
        decimal: str = ".",
    ) -> None:
        """`categorical`: variables whose numbers are levels too. `leave_out`: patterns of variables to leave out."""
        self.mapping, self.decimal = mapping, decimal
        self.categorical, self.patterns = frozenset(map(trimmed, categorical)), tuple(map(trimmed, leave_out))
        self.left_out: Counter[str] = Counter()  # events by variable, of those that the patterns leave out
        self.seen: set[str] = set()  # names as they are in the table, and NAME=level once `decide` ran
        self._targets: set[str] = set()  # names in the cohort
        self._of_levels: set[str] = set()  # those of them that are categorical by the user's word
        self._commas: Counter[str] = Counter()  # numbers with a decimal comma by variable, and those of three decimals
        self._before_three: Counter[str] = Counter()
        self._code: dict[tuple[str, str | None], int] = {}  # by name in the table
        self._out: set[str] = set()  # names in the table whose events are left out
        self._levels: dict[str, set[str]] = {}  # by name in the cohort
        self._count = np.zeros(0, dtype=np.int64)  # [C] events

    def encode(
        self,
        variable: pa.Array,
        value: pa.Array | None,
        text: pa.Array | None = None,
        rows: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """(code [R], number [R] in the unit of the target variable, NaN where there is none).

        `text` is a column of levels beside the numbers; it counts where there is no number. `rows` [R] are those of the
        file, for messages.

        Raises:
            InputError: more than MAX_LEVELS levels of one variable, or a level that holds a line break.
        """
        local, names = _names(variable)
        self.seen.update(names)
        number, level = self._values(names, local, value, text)
        units = np.array([*map(self.mapping.unit, names), (1.0, 0.0)])  # [K + 1, 2] factor and offset
        number = number * units[local, 0] + units[local, 1]
        targets = [self.mapping.target(name) for name in names]
        self._targets.update(targets)
        self._of_levels.update(to for name, to in zip(names, targets, strict=True) if self._is_categorical(name))
        is_out = np.array([self._is_left_out(*pair) for pair in zip(names, targets, strict=True)] + [False])
        self._out.update(name for name, out in zip(names, is_out[:-1], strict=True) if out)
        self.left_out += _counts(names, local[is_out[local]])
        numeric, bare = (np.array([*(self._of(name, kind) for name in names), UNNAMED]) for kind in (None, ""))
        code = np.where(np.isnan(number) | is_out[local], bare[local], numeric[local]).astype(np.int32)
        chosen = np.flatnonzero(~np.asarray(level.is_null()) & (code >= 0) & ~is_out[local])
        levels = level.take(chosen)
        fault = first_fault(levels)
        if fault:
            at = int(chosen[fault[0]])
            row = "" if rows is None else f"row {rows[at]} (counted from 0), "
            raise InputError(f"{row}variable {shown(names[local[at]])}: the cell {fault[1]}")
        code[chosen] = self._level_codes(names, local[chosen], levels)
        counts = np.bincount(code[code >= 0], minlength=len(self._code))
        counts[: len(self._count)] += self._count
        self._count = counts
        return code, number

    def decide(self, non_numeric: str) -> Decision:
        """What becomes of the events, now that all are known. `non_numeric` is one of NON_NUMERIC.

        Raises:
            InputError: variables with most numbers written in a form that is not read.
        """
        count, written = self.counts, self._refuse_written_numbers()
        target = self.mapping.target
        numeric = {target(name) for (name, level), code in self._code.items() if level is None and count[code]}
        names, value = [], np.full(len(self._code), np.nan)
        action = np.full(len(self._code), KEEP, dtype=np.int8)
        dropped: Counter[str] = Counter()
        for (here, level), code in self._code.items():
            name = target(here)
            is_mixed = level is not None and name in numeric
            if here in self._out:
                action[code] = DROP
            elif is_mixed and non_numeric == "level":
                level = level or NO_LEVEL
            elif is_mixed and non_numeric == "fault":
                action[code] = NO_NUMBER if level else NO_VALUE
            elif is_mixed:
                action[code] = DROP
                dropped[name] += int(count[code])
            names.append(self._level_name(f"{name}={level}", code, action) if level else name)
            value[code] = np.nan if level is None else 1.0
        dropped = +dropped  # codes without events
        notes = [f"rows of numeric variables without a number, left out: {most_events(dropped)}"] if dropped else []
        if written and non_numeric == "level":
            what = "numbers in a form that is not read, which become levels beside the other numbers"
            notes.append(f"{what}: {most_events(written)}")
        thousands = Counter({name: n for name, n in self._commas.items() if n == self._before_three[name]})
        if thousands:
            what = "every comma is before three digits, and is read as the decimal comma (150,000 is 150)"
            notes.append(f"{what}: {most_events(thousands)}")
        return Decision(names, value, action, notes)

    def _refuse_written_numbers(self) -> Counter[str]:
        """Events of numbers in a form that is not read, by variable, where more are read. Raises InputError."""
        count, refused, fewer = self.counts, [], Counter[str]()
        levels: dict[str, Counter[str]] = {}
        n_read: Counter[str] = Counter()
        for (here, level), code in self._code.items():
            name = self.mapping.target(here)
            if level is None:
                n_read[name] += int(count[code])
            elif level and name not in self._of_levels:
                full = f"{name}={level}"
                if full not in self.mapping.entries and not self._is_left_out(full):  # else the user named it
                    levels.setdefault(name, Counter())[level] += int(count[code])
        for name, events in levels.items():
            written = written_numbers(events, self.decimal)
            n_written = sum(events[level] for level in written.levels)
            if n_written > n_read[name] and 2 * len(written.levels) > len(events):
                shown, share = written.levels[0][:40], f"{len(written.levels):,} of {counted(len(events), 'level')}"
                refused.append(f"{name[:60]!r}, such as {shown!r} ({share}): {written.advice}")
            elif n_read[name]:
                fewer[name] = n_written
        if refused:
            more = [f"and {len(refused) - SHOWN:,} more"] if len(refused) > SHOWN else []
            raise InputError(
                f"{counted(len(refused), 'variable')} with numbers or dates in a form that is not read, not categories:"
                + "".join(f"\n  {line}" for line in [*refused[:SHOWN], *more])
                + "\nIf they are categories, say so: --categorical NAME ..."
            )
        return +fewer

    def _level_name(self, level: str, code: int, action: NDArray[np.int8]) -> str:
        """The name of `NAME=level` in the cohort; it may be renamed, or left out, by name."""
        target = self.mapping.target(level)
        self.seen.add(level)
        self._targets.add(target)
        if action[code] == KEEP and self._is_left_out(level, target):
            action[code] = DROP
            self.left_out[level] += int(self.counts[code])
        return target

    def unmatched_notes(self, leave_out: Collection[str], categorical: Collection[str]) -> list[str]:
        """Names and patterns of the user that no variable or level of the data has, in words."""
        names = self.seen | self._targets
        unmatched = [each for each in leave_out if not any(_matches(name, trimmed(each)) for name in names)]
        absent = [name for name in categorical if trimmed(name) not in names]
        said = {"--leave_out": unmatched, "--categorical": absent}
        text = "no variable or level of the data is called so, and nothing was changed by it"
        return [f"{flag} {', '.join(map(repr, those))}: {text}" for flag, those in said.items() if those]

    def matching(self, pattern: str) -> list[int]:
        """The codes of the variables whose names, here or in the cohort, match; also of those that are left out."""
        target = self.mapping.target
        names = {name for name in self.seen if _matches(name, pattern) or _matches(target(name), pattern)}
        return [code for (name, _), code in self._code.items() if name in names]

    def table(self) -> pa.Table:
        """Each code, the name of its variable in the table, whether it has numbers, and whether it is left out."""
        rows = [
            {"code": code, "name": name, "numeric": level is None, "left_out": name in self._out}
            for (name, level), code in self._code.items()
        ]
        return pa.Table.from_pylist(rows)

    def left_out_codes(self) -> list[int]:
        """The codes of the variables that the patterns leave out."""
        return [code for (name, _), code in self._code.items() if name in self._out]

    def named(self, name: str) -> NDArray[np.bool_]:
        """[C] Which codes are of this variable, or this level NAME=level: by its name in the cohort, or else here."""
        variable, mark, level = (name := trimmed(name)).partition("=")
        matches = np.zeros(len(self._code), dtype=bool)
        for each in dict.fromkeys((name, self.mapping.target(name), f"{self.mapping.target(variable)}{mark}{level}")):
            matches = np.array([each in self._names_of(*pair) for pair in self._code], dtype=bool)
            if self.counts[matches].any():
                break
        return matches

    def _names_of(self, variable: str, level: str | None) -> tuple[str, ...]:
        """The names of a code: its variable, and that of its level in the table and in the cohort; none if left out."""
        if variable in self._out:
            return ()
        variable = self.mapping.target(variable)
        full = f"{variable}={level}"
        return (variable, full, self.mapping.target(full)) if level else (variable,)

    def has_left_out(self, name: str) -> bool:
        """Whether the patterns left out events of this variable, or of the variable of this level."""
        names = {each for here in self.left_out for each in (here, self.mapping.target(here))}
        return any(name == each or name.startswith(f"{each}=") for each in names)

    def left_out_notes(self) -> list[str]:
        """What the patterns left out, in words; empty if it was nothing."""
        n = counted(len(self.left_out), "variable")
        return [f"{n} left out by name: {most_events(self.left_out)}"] if self.left_out else []

    @property
    def has_values(self) -> bool:
        """Whether an event has a number or a level."""
        return any(self.counts[code] for (_, level), code in self._code.items() if level != "")

    @property
    def has_numbers(self) -> bool:
        """Whether an event has a number."""
        count = self.counts
        return any(count[code] for (_, level), code in self._code.items() if level is None)

    @property
    def counts(self) -> NDArray[np.int64]:
        """[C] Events of each code."""
        return np.append(self._count, np.zeros(len(self._code) - len(self._count), dtype=np.int64))

    def _values(
        self, names: list[str], local: NDArray[np.int32], value: pa.Array | None, text: pa.Array | None
    ) -> tuple[NDArray[np.float64], pa.Array]:
        """(numbers [R] in their own unit, levels [R] where there is no number)."""
        number, level = np.full(len(local), np.nan), pa.nulls(len(local), pa.string())
        if value is not None:
            number, level = split_values(value, self.decimal)
            if self.decimal == ",":
                texts = value.cast(pa.string())
                for counts, form in ((self._commas, _WITH_COMMA), (self._before_three, _LIKE_THOUSANDS)):
                    is_so = np.asarray(pc.match_substring_regex(texts, form).fill_null(False))
                    counts.update(_counts(names, local[is_so]))
        if text is not None:
            level = pc.coalesce(level, as_text(text))
        is_level = np.array([self._is_categorical(name) for name in names] + [False])[local]
        if is_level.any() and value is not None:
            level = pc.if_else(pa.array(is_level), pc.coalesce(level, as_text(value)), level)
        if level.null_count < len(level):
            is_number = ~np.isnan(number) & ~is_level
            level = pc.if_else(pa.array(is_number), None, level)
            number = np.where(is_number, number, np.nan)
        return number, level

    def _is_categorical(self, name: str) -> bool:
        return name in self.categorical or self.mapping.target(name) in self.categorical

    def _is_left_out(self, *names: str) -> bool:
        """Whether a pattern matches one of the names of a variable, in the table or in the cohort."""
        return any(_matches(name, pattern) for pattern in self.patterns for name in names)

    def _of(self, name: str, level: str | None) -> int:
        return self._code.setdefault((name, level), len(self._code))

    def _level_codes(self, names: list[str], local: NDArray[np.int32], level: pa.Array) -> NDArray[np.int32]:
        """The codes of rows with a level."""
        encoded = level.dictionary_encode()
        texts = encoded.dictionary.to_pylist()
        pairs, inverse = np.unique(
            local.astype(np.int64) * len(texts) + encoded.indices.to_numpy(zero_copy_only=False), return_inverse=True
        )
        codes = np.zeros(len(pairs), dtype=np.int32)
        for at, pair in enumerate(pairs.tolist()):
            name, text = names[pair // len(texts)], texts[pair % len(texts)]
            codes[at] = self._of(name, text)
            target = self.mapping.target(name)
            levels = self._levels.setdefault(target, set())
            levels.add(text)
            if len(levels) > MAX_LEVELS:
                raise self._too_many_levels(target, levels, text)
        return codes[inverse]

    def _too_many_levels(self, name: str, levels: set[str], last: str) -> InputError:
        """The error, to be raised."""
        written = written_numbers(levels, self.decimal)
        advice = f"Is it free text? Leave it out: --leave_out {name!r}"
        if 2 * len(written.levels) > len(levels):
            advice = f"They are numbers in a form that is not read, {written.levels[0][:40]!r}: {written.advice}"
        return InputError(
            f"variable {name!r} has more than {MAX_LEVELS:,} different levels, such as {last[:60]!r}. {advice}"
        )


def _matches(name: str, pattern: str) -> bool:
    """Whether a name is that of a pattern, in which * stands for any characters."""
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name, re.DOTALL) is not None


def _names(variable: pa.Array) -> tuple[NDArray[np.int32], list[str]]:
    """(the position of each row's name [R], -1 = it has none; the K names). A blank name is none."""
    if not pa.types.is_dictionary(variable.type):
        kind = variable.type
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        variable = (variable if is_text else as_text(variable)).dictionary_encode()
    texts = [None if text is None else trimmed(text) for text in variable.dictionary.to_pylist()]
    names = list(dict.fromkeys(text for text in texts if text))
    position: dict[str | None, int] = {name: at for at, name in enumerate(names)}
    local = np.array([*(position.get(text, -1) for text in texts), -1], dtype=np.int32)
    return local[positions(variable)], names


def _counts(names: list[str], local: NDArray[np.int32]) -> Counter[str]:
    codes, count = np.unique(local, return_counts=True)
    return Counter({names[at]: int(n) for at, n in zip(codes, count, strict=True) if at >= 0})
