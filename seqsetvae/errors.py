"""The one way to report a problem that the user can mend."""


class InputError(ValueError):
    """Something the user gave is wrong: the message says what, where (file, row, variable) and what to do.

    The commands print it without a traceback and exit with status 2. Our own invariants are asserts instead.
    """
