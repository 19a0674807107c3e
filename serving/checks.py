"""What a gateway's config must satisfy before anything starts; each fault is one line that says what to do."""

from __future__ import annotations

import ipaddress
import math
import os
import tempfile
from pathlib import Path

from serving.config import GatewayConfig
from serving.errors import UserError
from serving.miners import Ping, check_hotkey, check_miners, routes_of
from serving.nonces.redis import check_redis
from serving.public.origins import networks
from serving.wire.keys import is_scheme

_AT_LEAST: dict[str, float] = {
    "workers": 1, "in_flight": 1, "burst": 1, "waiting": 0, "shadows": 0, "drain_s": 0, "idle_grace_s": 0,
    "linger_s": 0, "traffic_disk_cap": 0,
    "junk_burst": 1, "connections": 1, "connections_per_address": 1,
}  # fmt: skip
_ABOVE_ZERO = (
    "requests_per_s", "junk_per_s", "routes_max_age", "neurons_max_age", "prices_max_age", "traffic_keep_s",
    "max_skew",
)  # fmt: skip
_MOST_WORKERS = 64


def check(config: GatewayConfig) -> None:
    """Refuse a config that no gateway could run on (UserError); leaves no trace on the disk."""
    check_told(config)
    _folders(config)


def check_told(config: GatewayConfig) -> None:
    """The part of it that needs no look at the disk."""
    check_miners(config.miners)
    if config.redis:
        check_redis(config.redis)
    _wire(config)
    _numbers(config)
    _addresses(config)


def _wire(config: GatewayConfig) -> None:
    for hotkey, scheme in config.schemes.items():
        check_hotkey("schemes", hotkey)
        if not is_scheme(scheme):
            raise UserError(f"gateway: schemes gives {hotkey} {scheme[:64]!r}; it must be sr25519 or ed25519")
    known = {path.decode()[1:] for spec in config.miners for path in routes_of(spec)}
    for synapse in config.monotonic_routes:
        if synapse not in known - {Ping.synapse}:
            raise UserError(f"gateway: monotonic_routes names {synapse[:64]!r}, which no miner here serves")


def _numbers(config: GatewayConfig) -> None:
    for name, least in _AT_LEAST.items():
        value = getattr(config, name)
        if not (math.isfinite(value) and value >= least):
            raise UserError(f"gateway: {name} is {value}; it must be at least {least:g}")
    for name in _ABOVE_ZERO:
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"gateway: {name} is {value}; it must be above 0")
    for spec in config.miners:
        if not (math.isfinite(spec.stake_threshold) and spec.stake_threshold >= 0):
            raise UserError(f"gateway: stake_threshold is {spec.stake_threshold}; it must be at least 0")
    if config.workers > _MOST_WORKERS:
        raise UserError(f"gateway: {config.workers} workers are too many; at most {_MOST_WORKERS}")


def _addresses(config: GatewayConfig) -> None:
    networks(config.trusted_proxies)
    for name, bind in (("bind", config.bind), ("private_bind", config.private_bind)):
        if bind != "localhost" and not _is_address(bind):
            raise UserError(f"gateway: {name} {bind[:64]!r} is no IP address; use 127.0.0.1, or 0.0.0.0 for every one")
    for name, port in (("port", config.port), ("private_port", config.private_port)):
        if not 0 < port < 65536:
            raise UserError(f"gateway: {name} is {port}; it must be 1 to 65535")
    if config.port == config.private_port:
        raise UserError(f"gateway: the public and the private port are both {config.port}; each needs its own")
    host, colon, port_text = config.triton.rpartition(":")
    if not (host and colon and port_text.isdecimal() and 0 < int(port_text) < 65536):
        raise UserError(f"gateway: Triton's address {config.triton[:64]!r} is not host:port")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _folders(config: GatewayConfig) -> None:
    for name in ("traffic", "nonces", "run"):
        _can_be_written(name, Path(getattr(config, name)))
    for name in ("routes", "prices"):
        _lies_in_a_folder(name, Path(getattr(config, name)))
    for spec in config.miners:
        _lies_in_a_folder("neurons", Path(spec.neurons))


def _can_be_written(name: str, folder: Path) -> None:
    """Try it in the folder, or in the nearest one above that is there."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise UserError(f"gateway: {name} folder {folder} cannot be made: {there} is not a folder")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(
            f"gateway: {name} folder {folder} cannot be written ({error.strerror}); use another, or mend its rights"
        ) from None


def _lies_in_a_folder(name: str, file: Path) -> None:
    """The file itself may come later; its folder is where somebody else puts it."""
    if file.is_dir() or not os.access(file.parent, os.R_OK | os.X_OK) or not file.parent.is_dir():
        raise UserError(
            f"gateway: {name} file {file} cannot be there: its folder is missing or cannot be read; "
            "'headframe up' makes it, or set home"
        )
