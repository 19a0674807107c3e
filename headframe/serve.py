"""``headframe serve``: the gateway, answering validators until it is told to stop."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.settings import Settings, load_settings
from serving.errors import UserError

if TYPE_CHECKING:
    from serving.config import GatewayConfig


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command(epilog="Example: headframe serve --workers 2")(serve)


def serve(
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Worker processes; the settings' by default.")
    ] = None,
    listen_fd: Annotated[
        int | None,
        typer.Option(min=0, help="A listening socket that a supervisor holds open over the gateway's death."),
    ] = None,
) -> None:
    """Answer validators on the public port, and health and metrics on the private one, until SIGTERM."""
    from serving.listening import take_over
    from serving.server import run

    settings = load_settings()
    config = gateway_config(settings, workers=workers)
    with contextlib.suppress(OSError):  # the gateway says itself what is wrong with a home
        settings.paths.serving.mkdir(exist_ok=True)
    run(config, None if listen_fd is None else take_over(listen_fd, config.port))


def gateway_config(settings: Settings, *, workers: int | None = None) -> GatewayConfig:
    """What the gateway is told, from the settings; raises UserError for what is missing."""
    from infra.ports import endpoints, need, read_ports
    from serving.config import GatewayConfig, MinerSpec
    from serving.subnets.registry import specs

    gateway, paths = settings.gateway, settings.paths
    known = read_ports(paths.ports)
    local = settings.profile == "local"

    def port(name: str) -> int:
        chosen = known.get(name) or int(getattr(settings.ports, name))
        if not chosen:
            raise UserError(f"port {name} is not chosen: start the stack with 'headframe up', or set [ports] {name}")
        return chosen

    return GatewayConfig(
        miners=[
            MinerSpec(
                hotkey=own_hotkey(settings),
                netuid=settings.netuid,
                neurons=str(paths.neurons),
                slots=list(settings.slots),
                subnets=specs(settings.slots, max_price_age=gateway.price_max_age, use_stale=local),
                stake_threshold=gateway.stake_threshold,
                allow=list(gateway.allow),
                deny=list(gateway.deny),
            )
        ],
        port=port("gateway"),
        private_port=port("private"),
        bind=settings.bind,
        private_bind=gateway.private_bind,
        workers=workers or gateway.workers,
        triton=need(endpoints(settings).triton_grpc, "Triton"),
        routes=str(paths.routes),
        prices=str(paths.prices),
        traffic=str(paths.traffic),
        nonces=str(paths.nonces),
        run=str(paths.run),
        pause=str(paths.pause),
        clock=str(paths.clock) if local else None,
        requests_per_s=gateway.requests_per_s,
        burst=gateway.burst,
        in_flight=gateway.in_flight,
        waiting=gateway.waiting,
        trusted_proxies=list(gateway.trusted_proxies),
        junk_per_s=gateway.junk_per_s,
        junk_burst=gateway.junk_burst,
        connections_per_address=gateway.connections_per_address,
        connections=gateway.connections,
        epistula=gateway.epistula,
        schemes=dict(gateway.schemes),
        monotonic_routes=list(gateway.monotonic_routes),
        prices_max_age=gateway.price_max_age,
        traffic_disk_cap=settings.traffic.disk_cap,
        traffic_keep_s=settings.traffic.keep_days * 86400.0,
        traffic_ship=settings.traffic.ship,
        traffic_bodies=settings.traffic.bodies,
    )


def own_hotkey(settings: Settings) -> str:
    """The miner's hotkey, ss58, from public material only: a dev key in ``local``, else the wallet's public file."""
    from serving.wire.keys import dev_hotkey

    gateway = settings.gateway
    if settings.profile == "local":
        return dev_hotkey(gateway.hotkey_uri)
    wallet = gateway.wallet_path.expanduser() / gateway.wallet_name
    return _public_file(wallet / "hotkeys" / f"{gateway.wallet_hotkey}pub.txt")


def _public_file(path: Path) -> str:
    try:
        address = json.loads(path.read_text())["ss58Address"]
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: write the hotkey's public file with 'btcli wallet regen-hotkeypub', "
            "or set [gateway] wallet_name and wallet_hotkey"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{path} is not a public hotkey file; write it again with 'btcli wallet regen-hotkeypub'"
        ) from None
    return str(address)
