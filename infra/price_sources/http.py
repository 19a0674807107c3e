"""GET with patience: retries with back-off, a cap on the whole, and one line for what went wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from infra.price_sources import SourceError

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class Refused(SourceError):
    """The server answered, and the answer is no: asking the same again will not help."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(SourceError):
    """The server gives no usable answer for now; asking for something else will not help either."""


class Patient:
    """An HTTP client that waits out passing trouble.

    Args:
        base: Base URL.
        headers: Sent with every request.
        tries: At most so many requests for one answer.
        patience: Seconds of waiting, over all tries, after which it gives up.
        sleep: How it waits.
    """

    def __init__(
        self,
        base: str,
        *,
        headers: dict[str, str] | None = None,
        tries: int = 4,
        patience: float = 75.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.base = base.rstrip("/")
        self._client = httpx.Client(timeout=httpx.Timeout(10.0, connect=3.0), headers=headers, follow_redirects=True)
        self._tries = tries
        self._patience = patience
        self._sleep = sleep

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def get(self, path: str, params: Sequence[tuple[str, str | int]]) -> Any:
        """The JSON document at `path`; raises Refused for a 4xx that stays, Unreachable for trouble that stays."""
        waited = 0.0
        for attempt in range(1, self._tries + 1):
            trouble, wait = self._once(path, params)
            if isinstance(trouble, _Good):
                return trouble.value
            wait = max(wait or 0.0, min(8.0, 0.5 * 2.0 ** (attempt - 1)))
            if attempt == self._tries or waited + wait > self._patience:
                asked = f", and asks to wait {wait:.0f} s" if waited + wait > self._patience else ""
                raise Unreachable(f"{self.base}{path}: {trouble}{asked}; tried {attempt} times")
            self._sleep(wait)
            waited += wait
        raise AssertionError("unreachable")

    def _once(self, path: str, params: Sequence[tuple[str, str | int]]) -> tuple[_Good | str, float | None]:
        try:
            answer = self._client.get(self.base + path, params=list(params))
        except httpx.HTTPError as error:
            return f"no answer ({type(error).__name__})", None
        if answer.status_code in _PASSING:
            return f"answered {answer.status_code}", _retry_after(answer)
        if answer.status_code >= 400:
            text = " ".join(answer.text.split())[:120]
            raise Refused(f"{self.base}{path}: answered {answer.status_code}: {text}", answer.status_code)
        try:
            return _Good(answer.json()), None
        except ValueError:
            return "answered what is not JSON", None


class _Good:
    def __init__(self, value: Any) -> None:
        self.value = value


def _retry_after(answer: httpx.Response) -> float | None:
    try:
        return max(0.0, float(answer.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None
