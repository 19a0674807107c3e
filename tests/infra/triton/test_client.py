"""How a release is loaded again, without a Triton."""

from __future__ import annotations

from typing import Any

import pytest

from infra.triton import Triton, TritonError

STALLED = "Triton at x: load failed: Stub process 'tiny-a_0_1' is not healthy."


class Loads:
    """Every load takes `each_s` and fails with `reason`; the limit that each was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, reason: str, each_s: float) -> None:
        self.limits: list[float] = []
        self._now, self._reason, self._each_s = 1000.0, reason, each_s
        monkeypatch.setattr("infra.triton.client.time.monotonic", lambda: self._now)
        monkeypatch.setattr(Triton, "_ask", self._ask)

    def _ask(self, call: str, *args: Any, client_timeout: float) -> Any:
        assert call == "load_model"
        self.limits.append(client_timeout)
        self._now += self._each_s
        raise TritonError(self._reason)


@pytest.mark.parametrize(
    ("reason", "each_s", "limits"),
    [
        (STALLED, 10.0, [120.0, 110.0, 100.0]),
        (STALLED, 70.0, [120.0, 50.0]),
        (STALLED, 120.0, [120.0]),
        ("Triton at x: no answer in time", 10.0, [120.0]),
        ("Triton at x: load failed: bad parameters", 10.0, [120.0]),
    ],
)
def test_only_a_release_that_stalled_is_loaded_again_and_all_tries_share_one_limit(
    monkeypatch: pytest.MonkeyPatch, reason: str, each_s: float, limits: list[float]
) -> None:
    loads = Loads(monkeypatch, reason, each_s)
    with pytest.raises(TritonError, match=reason[:20]):
        Triton("127.0.0.1:9").load("tiny-a")
    assert loads.limits == limits
