"""All settings together, whichever of variable, file and default each one comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from infra.settings.paths import ROOT, Paths
from infra.settings.tables import S3, Gateway, Miner, Ports, Prices, TimeCheck, Traffic
from infra.settings.variables import PREFIX, settings_file

NTP_SERVERS = ("0.pool.ntp.org", "time.cloudflare.com", "time.google.com")
Profile = Literal["local", "test", "finney"]
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


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


class Settings(BaseSettings):
    """Everything Headframe is told from outside."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", frozen=True, extra="forbid", env_ignore_empty=True
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

    @model_validator(mode="after")
    def _local_miners_have_dev_keys(self) -> Settings:
        if self.profile == "local" and any(miner.hotkey_uri is None for miner in self.miners):
            raise ValueError("every table in [[miners]] needs a hotkey_uri in profile 'local', such as '//Miner'")
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
