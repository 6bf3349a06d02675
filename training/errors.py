"""The one error that a person caused and can mend."""


class UserError(ValueError):
    """A user's mistake, told in one sentence that names the file and the field and says what would be right.

    The command line prints the sentence and exits with code 2; the traceback is for ``--debug``.
    """


class Diverged(RuntimeError):
    """Training produced a loss or a weight that is not a finite number; the trial ends as failed."""


class Stopped(RuntimeError):
    """Work ended early because it was asked to; ``why`` is ``signal``, ``cancelled``, ``pruned`` or ``time``."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
