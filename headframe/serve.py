"""``headframe serve``: the gateway, answering validators until it is told to stop."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from headframe.miners import miner_specs
from infra.settings import Ports, Settings, load_settings
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
    from serving.public.listening import take_over
    from serving.server import run

    settings = load_settings()
    config = gateway_config(settings, workers=workers)
    check_clock(settings)
    with contextlib.suppress(OSError):  # the gateway says itself what is wrong with a home
        settings.paths.serving.mkdir(exist_ok=True)
    run(config, None if listen_fd is None else take_over(listen_fd, config.port))


def vet(settings: Settings) -> None:
    """Refuse (UserError) settings that no gateway could start on, before a port is chosen or a part is started."""
    from infra.ports import read_ports
    from serving.checks import check_told

    stand_ins = {name: number for number, name in enumerate(Ports.model_fields, start=1)}
    check_told(gateway_config(settings, ports=stand_ins | read_ports(settings.paths.ports)))


def gateway_config(
    settings: Settings, *, workers: int | None = None, ports: Mapping[str, int] | None = None
) -> GatewayConfig:
    """What the gateway is told, from the settings; raises UserError for what is missing.

    `ports` are those chosen for this home, which are looked up where they are not given.
    """
    from infra.ports import endpoints, need, read_ports
    from serving.config import GatewayConfig

    gateway, paths = settings.gateway, settings.paths
    known = read_ports(paths.ports) if ports is None else ports
    local = settings.profile == "local"

    def port(name: str) -> int:
        chosen = known.get(name) or int(getattr(settings.ports, name))
        if not chosen:
            raise UserError(f"port {name} is not chosen: start the stack with 'headframe up', or set [ports] {name}")
        return chosen

    return GatewayConfig(
        miners=miner_specs(settings),
        port=port("gateway"),
        private_port=port("private"),
        bind=settings.bind,
        private_bind=gateway.private_bind,
        workers=workers or gateway.workers,
        triton=need(endpoints(settings, known).triton_grpc, "Triton"),
        routes=str(paths.routes),
        prices=str(paths.prices),
        traffic=str(paths.traffic),
        nonces=str(paths.nonces),
        redis=gateway.redis_url,
        run=str(paths.run),
        pause=str(paths.pause),
        clock=str(paths.clock) if local else None,
        skew=str(paths.skew) if settings.ntp_servers else None,
        max_skew=settings.clock.max_skew,
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


def check_clock(settings: Settings) -> None:
    """Refuse (UserError) to start by a clock that is too far off; tell, and start, where no time server answers."""
    from infra.ntp import measure

    if not settings.ntp_servers:
        return
    found = measure(settings.ntp_servers)
    if found.skew_s is None:
        typer.echo(f"Warning: this machine's clock could not be checked: {found.text()}", err=True)
    elif abs(found.skew_s) > settings.clock.max_skew:
        raise UserError(
            f"this machine's clock is {found.text()}; by such a clock validators' requests look stale: set it (run an "
            f"NTP client such as chrony), then start again ([clock] max_skew is {settings.clock.max_skew:g} s)"
        )
