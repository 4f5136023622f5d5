"""The one way to report a problem that the user can mend."""


class InputError(ValueError):
    """Something the user gave is wrong: the message says what, where (file, row, variable) and what to do.

    The commands print it without a traceback and exit with status 2. Our own invariants are asserts instead.
    """


class Terminated(BaseException):
    """SIGTERM, as SLURM sends it before a time limit: what was done is saved, and the process should end now.

    Not an Exception, so that nothing on the way takes it for a failure.
    """
