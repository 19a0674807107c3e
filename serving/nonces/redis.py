"""The replay store of several boxes: Redis, with the promises of `serving.nonces.store`.

Nonces lie in sets, one for each minute of their own time, above a barrier; when a set has expired, the barrier rises
over it before it is deleted. Redis' own expiry is not used, since it goes by Redis' clock.

Redis may lose its memory: a restart without persistence, or with a snapshot or log that lacks the last seconds, or a
failover. So every new connection first compares Redis' ``run_id`` with the one noted beside the nonces. When it
differs, or when nothing is noted, the barrier is put above every nonce that may have been accepted before, at the
price of refusing honest callers for the length of `LEAD_NS`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from serving.errors import Refusal, UserError
from serving.nonces.monotonic import Last, advanced
from serving.types import NonceNs
from serving.wire.keys import PublicKey

if TYPE_CHECKING:
    import redis.asyncio

PREFIX = "headframe:replay:"
BARRIER, RUN, SINCE, BUCKETS, SEEN, LAST = (
    PREFIX + name for name in ("barrier", "run", "since", "buckets", "seen:", "last")
)
BUCKET_NS = 60_000_000_000
LEAD_NS = 10_000_000_000
"""How far above now the barrier is put after a loss: every dialect's future bound, and twice what two boxes' clocks may
differ by."""
LIMIT_S = 0.4
"""A request waits no longer for Redis, connecting included; then it is refused."""
AWAY_S = 0.25
"""After a failure Redis is not asked again for this long, so that a flood does not wait in line for it."""
CONNECTIONS = 32
"""Of one worker."""

# Numbers are text of 20 digits, since Lua's own lose the last ones of a nonce; compared as text they keep their order.
_SETTLE = """
local barrier = redis.call('GET', KEYS[1]) or ''
local function raise(to) if to > barrier then barrier = to end end
if barrier == '' or redis.call('GET', KEYS[2]) ~= ARGV[1] then
  raise(ARGV[2])
  redis.call('SET', KEYS[2], ARGV[1])
  redis.call('SET', KEYS[3], barrier)
  redis.call('DEL', KEYS[4])
end
raise(ARGV[3])
redis.call('SET', KEYS[1], barrier)
return barrier
"""
_SPEND = """
local barrier = redis.call('GET', KEYS[1])
if not barrier then return -2 end
if ARGV[1] <= barrier then return -1 end
local fresh = redis.call('SADD', KEYS[2], ARGV[2])
if fresh == 1 and redis.call('SCARD', KEYS[2]) == 1 then redis.call('SADD', KEYS[3], ARGV[3]) end
return fresh
"""
_PURGE = """
local barrier = redis.call('GET', KEYS[1])
if not barrier then return 0 end
if ARGV[1] > barrier then redis.call('SET', KEYS[1], ARGV[1]) end
for i = 3, #KEYS do
  redis.call('UNLINK', KEYS[i])
  redis.call('SREM', KEYS[2], ARGV[i - 1])
end
return 1
"""
_ADVANCE = """
if redis.call('GET', KEYS[2]) ~= ARGV[4] then return -2 end
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""
_LOST = -2
_TOO_OLD = -1


class RedisNonces:
    """The replay store of all boxes that share one Redis; no cluster, and no proxy that hides a change of server."""

    def __init__(self, url: str, *, retention_s: float, log: Any, wall_ns: Callable[[], int] = time.time_ns) -> None:
        """`retention_s`: at least twice the widest window of any route, in seconds. Connects at the first use."""
        self._retention_ns = int(retention_s * 1e9)
        self._wall_ns = wall_ns
        self._log = log
        self._client = _client(url, self._settle)
        self._spend = self._client.register_script(_SPEND)
        self._purge = self._client.register_script(_PURGE)
        self._advance = self._client.register_script(_ADVANCE)
        self._run = b""
        self._highest = 0
        """The highest nonce that this process had accepted."""
        self._away_until = 0.0
        self._warned = False

    async def spend(self, sender: PublicKey, receiver: PublicKey, nonce: NonceNs, now_ns: int) -> None:
        """See `ReplayStore`."""
        bucket = str(nonce // BUCKET_NS)
        member = sender + receiver + nonce.to_bytes(8, "big")
        found = await self._ask(
            lambda: self._spend(keys=[BARRIER, SEEN + bucket, BUCKETS], args=[_text(nonce), member, bucket])
        )
        if found == _LOST:
            raise await self._lost()
        if found == _TOO_OLD:
            raise Refusal(401, "before_start", "the nonce is older than what this miner remembers")
        if not found:
            raise Refusal(401, "replayed", "this nonce was used already")
        self._highest = max(self._highest, nonce)

    async def advance(self, sender: PublicKey, receiver: PublicKey, uuid: str, nonce: int) -> None:
        """See `ReplayStore`. After a restart of Redis, whoever was there before it must start anew to be accepted."""
        name = sender + receiver
        for _ in range(5):
            since, stored = await self._ask(lambda: self._known(name))
            if since is None:
                raise await self._lost()
            last = msgspec.msgpack.decode(stored, type=Last) if stored else Last({})
            fresh = msgspec.msgpack.encode(advanced(last, uuid, nonce, since=int(since)))
            changed = await self._ask(
                lambda old=stored or b"", new=fresh, at=since: self._advance(  # type: ignore[misc]
                    keys=[LAST, SINCE], args=[name, old, new, at]
                )
            )
            if changed == 1:
                return
        raise Refusal(503, "replay_store_busy", "too many requests of this hotkey at once", retry_after=1)

    async def tick(self, now_ns: int) -> None:
        """Forget what expired by our clock and by Redis' as well, so that one box whose clock runs ahead harms none."""
        with suppress(Refusal):  # told of already, and tried again in a second
            names, (seconds, micros) = await self._ask(self._buckets)
            cutoff = min(now_ns, seconds * 10**9 + micros * 1000) - self._retention_ns
            gone = sorted(bucket for bucket in map(int, names) if (bucket + 1) * BUCKET_NS <= cutoff)
            if gone:
                keys = [BARRIER, BUCKETS, *(f"{SEEN}{bucket}" for bucket in gone)]
                await self._ask(lambda: self._purge(keys=keys, args=[_text((gone[-1] + 1) * BUCKET_NS - 1), *gone]))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def count(self) -> int:
        """Nonces remembered."""
        names, _ = await self._buckets()
        return sum([await self._client.scard(SEEN + name.decode()) for name in names])

    async def _known(self, name: bytes) -> Sequence[Any]:
        async with self._client.pipeline(transaction=True) as both:
            both.get(SINCE)
            both.hget(LAST, name)
            return list(await both.execute())

    async def _buckets(self) -> Sequence[Any]:
        async with self._client.pipeline(transaction=False) as both:
            both.smembers(BUCKETS)
            both.time()
            return list(await both.execute())

    async def _ask(self, question: Callable[[], Awaitable[Any]]) -> Any:
        """Redis' answer in time; raises Refusal (503) otherwise. Nothing is asked twice: it may have been heard."""
        from redis.exceptions import RedisError

        if time.monotonic() < self._away_until:
            raise _down()
        try:
            async with asyncio.timeout(LIMIT_S):
                answer = await question()
        except (RedisError, OSError, TimeoutError) as error:
            if not self._away_until:
                self._log.warning("the replay store does not answer", error=type(error).__name__)
            self._away_until = time.monotonic() + AWAY_S
            raise _down() from None
        if self._away_until:
            self._away_until = 0.0
            self._log.info("the replay store answers again")
        return answer

    async def _lost(self) -> Refusal:
        """Redis was emptied under us: put the barrier up anew, by a new connection."""
        await self._client.connection_pool.disconnect(inuse_connections=False)
        await self._ask(self._client.ping)
        return _down()

    async def _settle(self, connection: Any) -> None:
        """What every connection does first; one that could not is closed, so that none is used unsettled."""
        try:
            await connection.on_connect()
            info = _read_info(await _say(connection, "INFO"))
            run = info["run_id"].encode()
            known = self._highest if run != self._run else 0
            to = max(self._wall_ns() + LEAD_NS, self._highest)
            await _say(
                connection, "EVAL", _SETTLE, 4, BARRIER, RUN, SINCE, LAST, run, _text(to), _text(known)
            )  # fmt: skip
            self._run = run
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._warn(evicts(info))

    def _warn(self, problem: str | None) -> None:
        if problem is not None and not self._warned:
            self._warned = True
            self._log.warning("the replay store may forget", problem=problem)


def check_redis(url: str) -> None:
    """Refuse a setting that names no Redis, in one line (UserError); nothing is connected."""
    try:
        _client(url, None)
    except ImportError:
        raise UserError("[gateway] redis_url needs the Redis client: install headframe[redis]") from None
    except ValueError as error:
        raise UserError(f"[gateway] redis_url: {error}") from None


def read_server(url: str) -> Mapping[str, str]:
    """Redis' INFO, asked once; raises UserError when it does not answer in time."""
    from redis import Redis
    from redis.exceptions import RedisError

    check_redis(url)
    try:
        with Redis.from_url(url, socket_timeout=LIMIT_S, socket_connect_timeout=LIMIT_S) as client:
            return {name: str(value) for name, value in client.info().items()}
    except (RedisError, OSError) as error:
        raise UserError(f"Redis does not answer ({type(error).__name__})") from None


def evicts(info: Mapping[str, str]) -> str | None:
    """Why this Redis (by its INFO) may drop nonces that are still needed, in one line; None when it does not."""
    policy = info.get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys") and info.get("maxmemory", "0") != "0":
        return f"maxmemory-policy is {policy}: set it to noeviction, or nonces are forgotten when memory is short"
    return None


def _client(url: str, settle: Callable[[Any], Awaitable[None]] | None) -> redis.asyncio.Redis:
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    pool = BlockingConnectionPool.from_url(
        url, max_connections=CONNECTIONS, timeout=LIMIT_S, socket_timeout=LIMIT_S, socket_connect_timeout=LIMIT_S,
        retry=Retry(NoBackoff(), 0), redis_connect_func=settle, protocol=2,
    )  # fmt: skip
    return Redis.from_pool(pool)


async def _say(connection: Any, *words: Any) -> Any:
    await connection.send_command(*words)
    return await connection.read_response()


def _read_info(text: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in text.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def _text(number: int) -> str:
    return f"{number:020d}"


def _down() -> Refusal:
    return Refusal(503, "replay_store_down", "the replay store does not answer", retry_after=1)
