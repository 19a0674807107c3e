"""Stops asking what does not answer: a release that hangs, or a Triton that is away.

A few time-outs in a row open a breaker; while it is open nobody asks, so that nobody waits in vain. After a short pause
one asker at a time tries, and the first good answer closes it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import ceil
from typing import Literal

from serving.errors import Refusal
from serving.types import ReleaseId

FAILURES = 5
"""Time-outs in a row that open a release's breaker."""
SERVER_FAILURES = 3
PAUSE_S = 2.0
LEAST_WAIT_S = 1.0
"""A caller that gave less time than this proves nothing by having waited in vain."""
_MAX_RELEASES = 64

_FREE = nullcontext()
State = Literal["closed", "open", "half_open"]


class Breaker:
    """Closed, open, or half-open with one probe at a time."""

    def __init__(self, failures: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.opened = 0
        """How often it went from closed to open."""
        self._limit = failures
        self._clock = clock
        self._failures = 0
        self._open_until: float | None = None
        self._probing = False

    @property
    def state(self) -> State:
        """What an asker would find now."""
        if self._open_until is None:
            return "closed"
        return "open" if self._clock() < self._open_until else "half_open"

    def wait_s(self) -> float:
        """Seconds until asking may be worth it; 0 when it is now."""
        if self._open_until is None:
            return 0.0
        left = self._open_until - self._clock()
        return max(left, PAUSE_S / 2) if left > 0 or self._probing else 0.0

    def asking(self) -> AbstractContextManager[None]:
        """Ask, as the one probe when the pause is over; raises Refusal (503) while nobody may."""
        if self._open_until is None:
            return _FREE
        wait_s = self.wait_s()
        if wait_s > 0:
            raise not_answering(wait_s)
        return self._probe()

    @contextmanager
    def _probe(self) -> Iterator[None]:
        self._probing = True
        try:
            yield
        finally:
            self._probing = False

    def good(self) -> None:
        """An answer came."""
        self._failures, self._open_until = 0, None

    def bad(self) -> None:
        """Somebody waited in vain."""
        self._failures += 1
        if self._failures >= self._limit:
            self.opened += self._open_until is None
            self._open_until = self._clock() + PAUSE_S


class Breakers:
    """One breaker for each release, and one for the server as a whole.

    What may be one release's fault counts against that release alone. Against the server count requests that found it
    away until their deadline, and time-outs of more than one release with no answer in between. Whether it is back, or
    says nothing at all, `serving.admission.liveness` finds out, and tells it here.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.server = Breaker(SERVER_FAILURES, clock=clock)
        self._clock = clock
        self._releases: dict[ReleaseId, Breaker] = {}
        self._late: set[ReleaseId] = set()
        self._away = False
        """What the server did wrong last was to be away."""
        self._believed = False
        """It was taken at its word that it lives, and has answered nobody since."""
        self._quiet = False
        """Nothing came since `listen`."""
        self._silent_until = 0.0

    def of(self, release: ReleaseId) -> Breaker:
        """The release's breaker."""
        found = self._releases.get(release)
        if found is None:
            if len(self._releases) >= _MAX_RELEASES:
                self._releases = {name: one for name, one in self._releases.items() if one.state != "closed"}
            found = self._releases[release] = Breaker(FAILURES, clock=self._clock)
        return found

    def check(self, releases: Iterable[ReleaseId]) -> None:
        """Raise Refusal (503) when the server or all of `releases` may not be asked now; takes nobody's place."""
        if (wait_s := self.server.wait_s()) > 0:
            raise not_answering(wait_s)
        if self._quiet and self.silent:
            raise not_answering(PAUSE_S)
        self.check_releases(releases)

    def check_releases(self, releases: Iterable[ReleaseId]) -> None:
        """The same of the releases alone, for whoever asks the server already."""
        soonest_s = None
        for release in releases:
            wait_s = self.of(release).wait_s()
            if not wait_s:
                return
            soonest_s = wait_s if soonest_s is None else min(wait_s, soonest_s)
        if soonest_s is not None:
            raise not_answering(soonest_s)

    def closed(self, release: ReleaseId) -> bool:
        """Whether nothing is wrong with the release or the server."""
        return self.server.state == "closed" == self.of(release).state and not self.silent

    def good(self, release: ReleaseId) -> None:
        """The release answered, and so did the server."""
        self._believed = self._quiet = False
        self._late.clear()
        self.server.good()
        self.of(release).good()

    def late(self, release: ReleaseId, waited_s: float, usual_s: float | None) -> None:
        """Nothing came for `waited_s`, where the last answers took `usual_s`, if there were any."""
        if waited_s < max(LEAST_WAIT_S, 2.0 * (usual_s or 0.0)):
            return
        self.of(release).bad()
        self._late.add(release)
        if len(self._late) > 1:
            self._away = False
            self.server.bad()

    def away(self, waited_s: float) -> None:
        """The server was not there for a whole request's time."""
        if waited_s >= LEAST_WAIT_S:
            self._away = True
            self.server.bad()

    @property
    def gone(self) -> bool:
        """Whether the server was found away so often that nobody asks."""
        return self._away and self.server.state != "closed"

    @property
    def silent(self) -> bool:
        """Whether the server was found to say nothing, and has said nothing since."""
        return self._quiet and self._clock() < self._silent_until

    def listen(self) -> None:
        """Whatever comes from now on is a word of the server."""
        if not self._quiet:
            self._silent_until = 0.0
        self._quiet = True

    def heard(self, *, there: bool) -> None:
        """It is not silent: the server said that it lives, or it is known not to be `there`.

        Its word ends its absence once: where it then answers nobody all the same, the next answer must.
        """
        self._quiet = False
        if there and self.gone and not self._believed:
            self._believed = True
            self.server.good()

    def nothing_came(self, holds_s: float) -> None:
        """The server did not say whether it lives: it is silent for `holds_s`, unless anything came since `listen`."""
        self._silent_until = self._clock() + holds_s

    def open_ones(self) -> tuple[bool, int]:
        """Whether the server's breaker is open or it is silent, and how many releases' are; half-open ones count."""
        away = self.server.state != "closed" or self.silent
        return away, sum(one.state != "closed" for one in list(self._releases.values()))


def not_answering(wait_s: float) -> Refusal:
    """The refusal of whoever finds a breaker open."""
    return Refusal(503, "breaker_open", "the model does not answer at present", retry_after=max(1, ceil(wait_s)))
