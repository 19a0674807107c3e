"""The tables of ``headframe.toml``: what each part of Headframe can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Port = Annotated[int, Field(ge=0, le=65535)]


class Ports(_Part):
    """TCP ports on the bind address, 0 to 65535; 0 picks a free one and keeps it for this home."""

    gateway: Port = 0
    private: Port = 0
    triton_grpc: Port = 0
    triton_http: Port = 0
    triton_metrics: Port = 0
    prefect: Port = 0
    mlflow: Port = 0
    s3: Port = 0
    s3_master: Port = 0
    s3_volume: Port = 0
    s3_filer: Port = 0
    s3_admin: Port = 0
    s3_metrics: Port = 0

    @model_validator(mode="after")
    def _each_its_own(self) -> Ports:
        chosen: dict[int, str] = {}
        for name in type(self).model_fields:
            port = int(getattr(self, name))
            if port and port in chosen:
                raise ValueError(f"{chosen[port]} and {name} are both {port}; each needs its own")
            chosen[port] = name
        return self


class S3(_Part):
    """The object store; an empty endpoint means the embedded one."""

    endpoint: str = ""
    bucket: str = "headframe"
    mlflow_bucket: str = "mlflow"
    access_key: str = "headframe"
    secret_key: str = "headframe-local-only"
    region: str = "us-east-1"


class Gateway(_Part):
    """The validator-facing server."""

    workers: int = Field(default=2, ge=1, le=64)
    private_bind: str = "127.0.0.1"
    """Where health and metrics listen; another address lets a Prometheus elsewhere ask, and everybody else too."""
    stake_threshold: float = Field(default=1000.0, ge=0, allow_inf_nan=False)
    """TAO of stake weight below which a permitted validator is still refused."""
    allow: tuple[str, ...] = ()
    """Hotkeys that need neither permit nor stake."""
    deny: tuple[str, ...] = ()
    """Hotkeys refused whatever their stake."""
    requests_per_s: float = Field(default=50.0, gt=0, allow_inf_nan=False)
    """Of one hotkey, sustained."""
    burst: int = Field(default=200, ge=1)
    """Requests that one hotkey may send at once."""
    in_flight: int = Field(default=16, ge=1)
    """Requests that one worker has in Triton at a time, shared by the slots."""
    waiting: int = Field(default=64, ge=0)
    """Requests of each slot that may wait in one worker for a place in Triton."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of our own reverse proxies, whose X-Forwarded-For is believed."""
    junk_per_s: float = Field(default=20.0, gt=0, allow_inf_nan=False)
    """Requests without a good signature that one address may send to one worker, sustained."""
    junk_burst: int = Field(default=200, ge=1)
    """The same, at once."""
    connections_per_address: int = Field(default=512, ge=1)
    """To one worker, not counting those over which a good signature came."""
    connections: int = Field(default=4096, ge=1)
    """To one worker, as far as its limit of open files allows."""
    epistula: bool = False
    """Speak Epistula 2 beside the legacy dialect and btauth."""
    schemes: dict[str, Literal["sr25519", "ed25519"]] = Field(default_factory=dict)
    """By hotkey, the one scheme that it may sign btauth by."""
    monotonic_routes: tuple[str, ...] = ()
    """Synapses that callers before SDK 7.2 may call, such as ``TextSynapse``."""
    wallet_name: str = "default"
    wallet_hotkey: str = "default"
    wallet_path: Path = Path("~/.bittensor/wallets")
    hotkey_uri: str = "//Ferdie"
    """Profile ``local`` only: the dev key whose public key is the miner's hotkey."""
    price_max_age: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    """Seconds; in ``local`` an older price is used and marked stale_price."""
    redis_url: str = ""
    """The Redis that remembers nonces for several boxes; empty means the store of this box."""


class Miner(_Part):
    """A further hotkey of ours behind the same port; what is not said here is as in ``[gateway]``."""

    netuid: int = Field(ge=0)
    slots: tuple[str, ...] = Field(min_length=1)
    wallet_name: str | None = None
    wallet_hotkey: str | None = None
    hotkey_uri: str | None = None
    """Profile ``local`` only, and needed there: the dev key."""
    stake_threshold: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] | None = None


class TimeCheck(_Part):
    """How this machine's clock is watched: signatures expire by it within seconds."""

    ntp_servers: tuple[str, ...] | None = None
    """Hosts, with ``:port`` if it is not 123; an empty list asks none. By default public ones, none in ``local``."""
    max_skew: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    """Seconds; ``headframe serve`` does not start with a clock that is further off."""


class Traffic(_Part):
    """The traffic record: what is kept of each answered request, where and how long."""

    bodies: bool = True
    """Keep requests and tensors, without which nothing can be answered again or scored."""
    disk_cap: int = Field(default=2_000_000_000, ge=0)
    """Bytes on this disk; above it shipped segments go, then the oldest bodies; digest rows stay until shipped."""
    keep_days: float = Field(default=14.0, gt=0, allow_inf_nan=False)
    """How long shipped records stay on this disk."""
    ship: bool = True
    """Ship closed segments to the object store as Parquet; without it, records go after `keep_days`."""
    s3_keep_days: int = Field(default=0, ge=0)
    """How long shipped records stay in the object store; 0 is for ever."""


class Prices(_Part):
    """Where prices come from, by asset; an asset that is in none is simulated in ``local``."""

    packaged: bool = True
    folder: Path | None = None
    folder_timezone: str = ""
    """IANA name of the zone that text times without an offset are in; empty refuses them."""
    pyth: bool = False
    pyth_spot_url: str = "https://hermes.pyth.network"
    pyth_history_url: str = "https://benchmarks.pyth.network"
    pyth_api_key: str = ""
    """Pyth's bearer token; Hermes asks for one since August 2026."""
    pyth_history_days: float = Field(default=7.0, gt=0, allow_inf_nan=False)
    """How far back the first ingest goes."""
    record: bool = False
    """Let the sidecar record what the live source says."""
    record_every: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    simulate: bool = True
