"""What `doctor` looks at on behalf of the gateway: the clock by time servers, Redis, and which miner mines what."""

from __future__ import annotations

from collections.abc import Iterator

from infra import ntp
from infra.settings import Settings
from infra.stack.checks import Check
from serving.errors import UserError
from serving.nonces.redis import evicts, read_server
from serving.subnets.registry import make, specs


def gateway_checks(settings: Settings) -> Iterator[Check]:
    """Every one of them; none raises."""
    yield miners(settings)
    if settings.ntp_servers:
        yield skew(settings)
    if settings.gateway.redis_url:
        yield replay_store(settings)


def miners(settings: Settings) -> Check:
    """Each miner's slots are of the subnet that it is registered in, as far as the main network goes."""
    told, odd = [], []
    for miner in settings.all_miners:
        told.append(f"subnet {miner.netuid}: {', '.join(miner.slots)}")
        try:
            subnets = make(specs(miner.slots, max_price_age=settings.gateway.price_max_age, use_stale=True))
        except UserError as error:
            return Check("miners", "fail", str(error), "mend slots in headframe.toml")
        odd += [
            f"{subnet.name} is subnet {subnet.netuid}, not {miner.netuid}"
            for subnet in subnets
            if subnet.netuid != miner.netuid and settings.profile != "test"
        ]
    if odd:
        return Check("miners", "warn", "; ".join(odd), "mend netuid or slots in headframe.toml, if that is not meant")
    return Check("miners", "ok", "; ".join(told))


def skew(settings: Settings) -> Check:
    """The clock agrees with time servers."""
    found = ntp.measure(settings.ntp_servers)
    if found.skew_s is None:
        return Check("clock skew", "warn", found.text(), "let UDP port 123 out, or set [clock] ntp_servers")
    if abs(found.skew_s) > settings.clock.max_skew:
        return Check("clock skew", "fail", found.text(), "set the clock: run an NTP client such as chrony")
    return Check("clock skew", "ok", found.text())


def replay_store(settings: Settings) -> Check:
    """Redis answers, and forgets nothing by itself."""
    name, remedy = "replay store", "start Redis, or mend [gateway] redis_url; until then every request is refused"
    try:
        info = read_server(settings.gateway.redis_url)
    except UserError as error:
        return Check(name, "fail", str(error), remedy)
    problem = evicts(info)
    if problem is not None:
        return Check(name, "warn", problem, "CONFIG SET maxmemory-policy noeviction")
    return Check(name, "ok", f"Redis {info.get('redis_version', '?')}")
