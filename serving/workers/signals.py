"""The signals by which the gateway and its workers are asked to come to an end."""

from __future__ import annotations

import signal


def endings() -> list[signal.Signals]:
    """After these, what was admitted is finished. SIGHUP, which a closed terminal sends, is one, unless under nohup."""
    found = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found
