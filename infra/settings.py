"""Settings: ``headframe.toml`` and ``HEADFRAME_*``, read once into a frozen object.

Nothing else in Headframe reads the environment. Nested values are spelt with two underscores:
``HEADFRAME_PORTS__GATEWAY=8091``, or ``[ports] gateway = 8091`` in the file.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from serving.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
"""The checkout (or site-packages) that holds the five packages."""

NTP_SERVERS = ("0.pool.ntp.org", "time.cloudflare.com", "time.google.com")
Profile = Literal["local", "test", "finney"]
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


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


class OneMiner(NamedTuple):
    """All of a miner's settings, whether said or taken over."""

    netuid: int
    slots: tuple[str, ...]
    wallet_name: str
    wallet_hotkey: str
    hotkey_uri: str
    stake_threshold: float
    allow: tuple[str, ...]
    deny: tuple[str, ...]


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


class Settings(BaseSettings):
    """Everything Headframe is told from outside."""

    model_config = SettingsConfigDict(
        env_prefix="HEADFRAME_", env_nested_delimiter="__", frozen=True, extra="forbid", env_ignore_empty=True
    )

    profile: Profile = "local"
    home: Path = ROOT / "var"
    bind: str = "127.0.0.1"
    netuid: int = Field(default=50, ge=0)
    slots: tuple[str, ...] = ("synth-high", "synth-low")
    ports: Ports = Ports()
    s3: S3 = S3()
    gateway: Gateway = Gateway()
    miners: tuple[Miner, ...] = ()
    """Hotkeys beside the first, which `netuid`, `slots` and `gateway` describe."""
    clock: TimeCheck = TimeCheck()
    prices: Prices = Prices()
    traffic: Traffic = Traffic()
    ledger_url: str = ""
    """SQLAlchemy URL; empty means SQLite below home."""
    mlflow_url: str = ""
    """Tracking server; empty means the embedded one."""
    prefect_url: str = ""
    """Prefect API; empty means the embedded one."""
    triton_grpc: str = ""
    """host:port of Triton; empty means the embedded one."""
    venv_triton: Path = ROOT / ".venv-triton"

    @field_validator("home", "venv_triton")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @model_validator(mode="after")
    def _local_is_loopback(self) -> Settings:
        for bind in (self.bind, self.gateway.private_bind):
            if self.profile == "local" and bind not in LOOPBACK:
                raise ValueError(f"profile 'local' binds loopback only, not {bind}; choose 'test' or 'finney'")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=settings_file())

    @model_validator(mode="after")
    def _local_miners_have_dev_keys(self) -> Settings:
        if self.profile == "local" and any(miner.hotkey_uri is None for miner in self.miners):
            raise ValueError("every table in [[miners]] needs a hotkey_uri in profile 'local', such as '//Miner'")
        return self

    @property
    def paths(self) -> Paths:
        """Every file and folder below home."""
        return Paths(self.home)

    @property
    def all_miners(self) -> tuple[OneMiner, ...]:
        """Every miner of this home, the first one first."""
        said = self.gateway
        first = OneMiner(
            self.netuid, self.slots, said.wallet_name, said.wallet_hotkey, said.hotkey_uri, said.stake_threshold,
            said.allow, said.deny,
        )  # fmt: skip
        return (first, *(first._replace(**miner.model_dump(exclude_none=True)) for miner in self.miners))

    @property
    def all_slots(self) -> tuple[str, ...]:
        """The slots of all miners, the first one's first."""
        return tuple(dict.fromkeys(slot for miner in self.all_miners for slot in miner.slots))

    @property
    def neuron_files(self) -> dict[int, Path]:
        """Where the neurons of each subnet lie, by netuid, the first miner's first."""
        others = (miner.netuid for miner in self.miners if miner.netuid != self.netuid)
        return {self.netuid: self.paths.neurons} | {
            netuid: self.paths.serving / f"neurons-{netuid}.json" for netuid in others
        }

    @property
    def ntp_servers(self) -> tuple[str, ...]:
        """The time servers to ask."""
        if self.clock.ntp_servers is None:
            return () if self.profile == "local" else NTP_SERVERS
        return self.clock.ntp_servers


class Paths:
    """The layout of ``HEADFRAME_HOME``. A property makes nothing; whoever writes makes its folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.clock = home / "clock.json"
        self.ports = home / "run" / "ports.json"
        self.run = home / "run"
        self.log = home / "log"
        self.serving = home / "serving"
        self.routes = home / "serving" / "routes.json"
        self.neurons = home / "serving" / "neurons.json"
        self.prices = home / "serving" / "prices.json"
        self.pause = home / "serving" / "pause.json"
        self.skew = home / "serving" / "clock-skew.json"
        self.traffic = home / "traffic"
        self.nonces = home / "nonces.lmdb"
        self.models = home / "triton" / "models"
        self.triton = home / "triton"
        self.ledger = home / "ledger.db"
        self.s3 = home / "s3"
        self.mlflow = home / "mlflow"
        self.prefect = home / "prefect"
        self.cache = home / "cache"


def settings_file() -> Path:
    """The file that settings are read from."""
    return Path(os.environ.get("HEADFRAME_CONFIG", "headframe.toml"))


def load_settings() -> Settings:
    """Read the settings; raises pydantic.ValidationError, which the command line turns into one line each.

    Raises UserError for a file or a variable that cannot be read at all, and for a home that is no folder.
    """
    file = settings_file()
    if file.is_dir() or ("HEADFRAME_CONFIG" in os.environ and not file.exists()):
        raise UserError(f"there is no settings file {file}; HEADFRAME_CONFIG names it", exit_code=2)
    try:
        settings = Settings()
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file} is not TOML: {error}", exit_code=2) from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not TOML: its text is not UTF-8", exit_code=2) from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}", exit_code=2) from None
    except SettingsError as error:
        field = str(error).split('"')[1]
        raise UserError(
            f"setting {field}: a variable HEADFRAME_{field.upper()}... holds no JSON, which lists and tables are "
            """written in, such as '["a", "b"]'""",
            exit_code=2,
        ) from None
    if settings.home.exists() and not settings.home.is_dir():
        raise UserError(f"cannot write below {settings.home}: it is no folder: set HEADFRAME_HOME to one you may write")
    return settings
