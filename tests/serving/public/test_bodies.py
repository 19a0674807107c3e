"""The bytes of long bodies that a worker has in hand."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serving.errors import Refusal
from serving.public.bodies import FREE, Bodies
from serving.public.door import Door
from serving.subnets.base import Subnet
from tests.serving.callers import legacy
from tests.serving.fake_triton import FakeTriton, doubled
from tests.serving.fronts import Connected, Front, Holding, opened, until
from tests.serving.processes import raw, status
from tests.serving.tiny import Double, Tiny

LONG = [1.0] * 60_000
"""As JSON some five times `FREE`."""


class Longer(Double):
    """A route that takes long bodies."""

    max_body = 16 * FREE


def longer() -> Subnet:
    subnet = Tiny()
    subnet.routes = (Longer(),)
    return subnet


def test_short_bodies_do_not_count() -> None:
    bodies = Bodies(0)
    assert [bodies.hold(0, size, proven=False) for size in (0, 1, FREE)] == [0, 0, 0]
    with pytest.raises(Refusal) as refused:
        bodies.hold(0, FREE + 1, proven=True)
    assert (refused.value.status, refused.value.code) == (503, "bodies_full")
    assert bodies.held == 0


def test_a_body_counts_as_it_grows_and_what_is_refused_keeps_what_it_had() -> None:
    bodies = Bodies(1000)
    had = bodies.hold(0, FREE + 400, proven=False)
    assert bodies.hold(had, FREE + 300, proven=False) == had == 400
    with pytest.raises(Refusal):
        bodies.hold(had, FREE + 501, proven=False)
    assert bodies.held == 400
    assert bodies.hold(had, FREE + 500, proven=False) == bodies.held == 500
    bodies.drop(500)
    assert bodies.held == 0


def test_half_is_kept_for_connections_that_were_proven() -> None:
    bodies = Bodies(1000)
    bodies.hold(0, FREE + 500, proven=False)
    with pytest.raises(Refusal):
        bodies.hold(0, FREE + 1, proven=False)
    assert bodies.hold(0, FREE + 500, proven=True) == 500


async def begun(front: Front, whole: bytes) -> Connected:
    """A connection over which all but the end of a request went."""
    reader, writer = await front.connect()
    writer.write(whole[:-1])
    await writer.drain()
    return reader, writer


async def test_long_bodies_that_never_end_shut_out_neither_short_ones_nor_proven_connections(tmp_path: Path) -> None:
    whole = raw(legacy("Double", {"x": LONG}, ("x",)))
    size = len(whole.split(b"\r\n\r\n", 1)[1]) - 1 - FREE
    door = Door(bodies=Bodies(most=4 * size))
    async with opened(tmp_path, FakeTriton(tiny_a=doubled), subnet=longer(), door=door) as front:
        reader, writer = await front.connect()
        writer.write(raw(legacy("Double", {"x": [1.0]}, ("x",))))
        assert b"200" in await reader.readline()
        hanging = [await begun(front, whole) for _ in range(2)]
        await until(lambda: door.bodies.held == 2 * size)

        refused = await front.say(whole)
        assert status(refused) == 503
        assert b"connection: close" in refused
        short = raw(legacy("Double", {"x": [1.0]}, ("x",)), Connection="close")
        assert status(await front.say(short)) == 200
        writer.write(raw(legacy("Double", {"x": LONG}, ("x",)), Connection="close"))
        assert (await reader.read()).count(b"HTTP/1.1 200") == 1

        for _, gone in hanging:
            gone.close()
        await until(lambda: door.bodies.held == 0)
        writer.close()


async def test_a_long_body_counts_until_it_is_answered_or_its_caller_gone(tmp_path: Path) -> None:
    whole, triton, door = raw(legacy("Double", {"x": LONG}, ("x",)), Connection="close"), Holding(), Door()
    async with opened(tmp_path, triton, subnet=longer(), door=door) as front:
        _, leaves = await front.connect()
        leaves.write(whole)
        await until(lambda: triton.inside == 1)
        stays = asyncio.create_task(front.say(raw(legacy("Double", {"x": LONG}, ("x",)), Connection="close")))
        await until(lambda: triton.inside == 2)
        assert door.bodies.held > 4 * FREE
        leaves.transport.abort()
        try:
            await until(lambda: triton.inside == 1)
        finally:
            triton.go.set()
        assert status(await stays) == 200
        assert door.bodies.held == 0
