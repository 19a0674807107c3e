"""What the fault tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serving.fake_triton import FakeTritonServer, doubled


@pytest.fixture
def triton() -> Iterator[FakeTritonServer]:
    """A Triton that doubles; its calls can be held back."""
    server = FakeTritonServer(tiny_a=doubled)
    yield server
    server.hold.set()
    server.stop()
