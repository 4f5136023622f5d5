"""Reads the table that --mode evaluate prints."""

import re


def printed_figure(printed: str, name: str) -> str:
    """The value of a figure, as printed.

    >>> printed_figure("  AUROC                     0.8312   0.790 to 0.870", "AUROC")
    '0.8312'
    """
    (value,) = re.findall(rf"^  {name} +(\S+) ", printed, re.MULTILINE)
    return value
