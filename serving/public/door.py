"""What stands before the road: origins of requests, books of junk, and bounds on connections and long bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.config import GatewayConfig
from serving.public.bodies import Bodies
from serving.public.connections import SPARE_FILES, Connections, open_files
from serving.public.junk import JunkBudgets
from serving.public.origins import Address, Origins


class Door:
    """The door of one worker; others keep books of their own."""

    def __init__(
        self, *, origins: Origins | None = None, junk: JunkBudgets | None = None,
        connections: Connections | None = None, bodies: Bodies | None = None,
    ) -> None:  # fmt: skip
        self.origins = origins or Origins()
        self.junk = JunkBudgets(per_s=20.0, burst=200) if junk is None else junk
        self.connections = connections or Connections()
        self.bodies = bodies or Bodies()

    def address(self, scope: Mapping[str, Any]) -> Address:
        """Where a request comes from, by its ASGI scope."""
        client = scope.get("client")
        return self.origins.behind(self.origins.peer(client[0] if client else None), scope["headers"])


def door_of(config: GatewayConfig) -> Door:
    """The door that a config describes; raises this process's limit of open files to what is allowed."""
    most = max(SPARE_FILES, open_files() - SPARE_FILES)
    return Door(
        origins=Origins(config.trusted_proxies),
        junk=JunkBudgets(per_s=config.junk_per_s, burst=config.junk_burst),
        connections=Connections(total=min(config.connections, most), per_address=config.connections_per_address),
    )
