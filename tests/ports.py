"""Ports for the servers that tests start: never the same in two of the processes that share out the tests.

They lie below those that the kernel lends to outgoing connections, so that a server that is started again finds its
port free.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Iterator

_OURS = (10_000, 15_000)


def share(low: int, high: int) -> tuple[int, int]:
    """This test process's own part of the ports from `low` to below `high`."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = (high - low) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return low + number * size, low + (number + 1) * size


def _in_turn() -> Iterator[int]:
    ports = range(*share(*_OURS))
    first = random.randrange(len(ports))  # another run of the tests may be under way
    return itertools.cycle([*ports[first:], *ports[:first]])


_ports = _in_turn()


def free_port() -> int:
    """A port of 127.0.0.1 that nothing has, and that is not given again for long."""
    for port in itertools.islice(_ports, 5_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("every port is taken")
