"""What no cell holds: line breaks, NUL characters, more characters than a name has, rows of its own table."""

LONGEST_CELL = 10_000  # characters of an id, time, variable, level or label; real ones have a few hundred at most


def cell_fault(text: str) -> str | None:
    """What is wrong with the text of an id, time, variable, level or label, in words."""
    if len(text) > LONGEST_CELL:
        return f"has {len(text):,} characters; allowed: {LONGEST_CELL:,}. {_QUOTE}"
    if "\n" in text or "\r" in text:
        return f"holds a line break. {_QUOTE}"
    return "holds a NUL character. Is the file damaged?" if "\0" in text else None


def swallows_rows(cell: str, delimiter: str, n_columns: int) -> bool:
    """Whether lines of the cell are rows of its table: an open quote swallows all up to the next quote."""
    lines = sum(bool(line.strip()) for line in cell.split("\n")[1:])
    return lines > 0 and n_columns > 1 and cell.count(delimiter) == lines * (n_columns - 1)


_QUOTE = "Is a quotation mark not closed, so that rows were read as a part of the cell?"
