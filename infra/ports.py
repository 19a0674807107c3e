"""Which port each part listens on: chosen once, kept for the home, and looked up by everything else."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from infra.settings import Ports, Settings
from serving.clock import replace_file
from serving.errors import UserError

_GRPC_OFFSET = 10_000  # SeaweedFS puts its gRPC ports there and cannot be told otherwise
_PICKED_FROM = (15_000, 22_700)
"""Below the ports that the kernel lends to outgoing connections, with the offset added too: a part that is started
again finds its port free."""
_PAIRED = frozenset({"s3", "s3_master", "s3_volume", "s3_filer", "s3_admin"})


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether nothing listens on the port, by binding it; raises UserError when `host` is not this machine's."""
    if not 0 < port < 65536:
        return False
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise UserError(
                f"nothing can listen on {host} ({error.strerror}): "
                "bind and private_bind must be addresses of this machine"
            ) from None
    return True


def _pick(name: str, host: str, taken: set[int]) -> int:
    for _ in range(200):
        port = random.randrange(*_PICKED_FROM)
        twin = port + _GRPC_OFFSET
        if port in taken or not is_free(port, host):
            continue
        if name in _PAIRED and (twin in taken or not is_free(twin, host)):
            continue
        return port
    raise UserError(f"no free port found for {name} on {host}; set [ports] {name} in headframe.toml")


def read_ports(path: Path) -> dict[str, int]:
    """The ports chosen for a home, or none when it was never up."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, int])
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return {}


def choose_ports(settings: Settings) -> dict[str, int]:
    """Fix every port for this home and write ``run/ports.json``; only `up` calls this, with the stack down.

    A configured port that is taken raises UserError; a remembered one that is taken is picked again.
    """
    remembered = read_ports(settings.paths.ports)
    binds = {name: settings.bind for name in Ports.model_fields} | {"private": settings.gateway.private_bind}
    chosen: dict[str, int] = {}
    for name in Ports.model_fields:
        wanted = int(getattr(settings.ports, name))
        if wanted:
            if not is_free(wanted, binds[name]):
                raise UserError(
                    f"port {wanted} for {name} is taken on {binds[name]}; stop what listens there, "
                    f"or set [ports] {name} to another port (0 picks a free one)"
                )
            chosen[name] = wanted
    for name in Ports.model_fields:
        if name in chosen:
            continue
        kept = remembered.get(name, 0)
        taken = set(chosen.values()) | {p + _GRPC_OFFSET for n, p in chosen.items() if n in _PAIRED}
        usable = kept and kept not in taken and is_free(kept, binds[name])
        if usable and name in _PAIRED:
            usable = is_free(kept + _GRPC_OFFSET, binds[name])
        chosen[name] = kept if usable else _pick(name, binds[name], taken)
    replace_file(settings.paths.ports, msgspec.json.encode(chosen))
    return chosen


@dataclass(frozen=True)
class Endpoints:
    """Where each part answers; None when this home was never up and nothing is configured."""

    gateway: str | None
    private: str | None
    triton_grpc: str | None
    """host:port, as tritonclient wants it."""
    prefect: str | None
    """Base of the page; the API is below ``/api``."""
    mlflow: str | None
    s3: str | None


def endpoints(settings: Settings, ports: Mapping[str, int] | None = None) -> Endpoints:
    """Addresses of the parts: what is configured from outside first, then the embedded ones.

    `ports` are those chosen for this home, which are looked up where they are not given.
    """
    if ports is None:
        ports = read_ports(settings.paths.ports)

    def local(name: str, scheme: str = "http://", host: str = settings.bind) -> str | None:
        shown = f"[{host}]" if ":" in host else host
        return f"{scheme}{shown}:{ports[name]}" if name in ports else None

    return Endpoints(
        gateway=local("gateway"),
        private=local("private", host=settings.gateway.private_bind),
        triton_grpc=settings.triton_grpc or local("triton_grpc", ""),
        prefect=settings.prefect_url.removesuffix("/api") or local("prefect"),
        mlflow=settings.mlflow_url or local("mlflow"),
        s3=settings.s3.endpoint or local("s3"),
    )


def need(address: str | None, part: str) -> str:
    """The address, or one clear line when the part has none yet."""
    if address is None:
        raise UserError(f"{part} has no address: start the stack with 'headframe up', or configure one")
    return address
