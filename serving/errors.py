"""The one error that a caller ever sees."""

from __future__ import annotations

UNAVAILABLE = 503
"""The status of a refusal that is worth another try: something is full, missing or away for the moment."""


class Refusal(Exception):
    """An answer that is not 200: a status, a stable code for counters, and one short ASCII line.

    `message` is sent to the caller, so it never holds client text.
    """

    def __init__(self, status: int, code: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after
        """Seconds, for 429 and 503."""

    def __reduce__(self) -> tuple[type[Refusal], tuple[int, str, str]]:
        return type(self), (self.status, self.code, self.message)


class UserError(Exception):
    """Something a person can mend: one clear line saying what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with `exit_code`.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
