"""What can be wrong with a release."""

from __future__ import annotations

from serving.errors import UserError


class ReleaseError(UserError):
    """A release that is not what its name says: the line names the file."""


def one_line(error: Exception) -> str:
    """What an error says, short enough to stand in a line."""
    return " ".join(str(error).split())[:200]
