"""Which hotkeys this home mines with, from the settings and public key material alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from infra.settings import OneMiner, Settings
from serving.errors import UserError

if TYPE_CHECKING:
    from serving.config import MinerSpec


class Identity(NamedTuple):
    """One of our hotkeys, and what it mines."""

    hotkey: str
    netuid: int
    slots: list[str]


def identities(settings: Settings) -> list[Identity]:
    """Every miner of this home, the first one first; raises UserError where a hotkey's public file is missing."""
    return [Identity(_hotkey(settings, miner), miner.netuid, list(miner.slots)) for miner in settings.all_miners]


def miner_specs(settings: Settings) -> list[MinerSpec]:
    """What the gateway is told of each miner; raises UserError for what is missing."""
    from serving.config import MinerSpec
    from serving.subnets.registry import specs

    files, local = settings.neuron_files, settings.profile == "local"
    return [
        MinerSpec(
            hotkey=_hotkey(settings, miner),
            netuid=miner.netuid,
            neurons=str(files[miner.netuid]),
            slots=list(miner.slots),
            subnets=specs(miner.slots, max_price_age=settings.gateway.price_max_age, use_stale=local),
            stake_threshold=miner.stake_threshold,
            allow=list(miner.allow),
            deny=list(miner.deny),
        )
        for miner in settings.all_miners
    ]


def _hotkey(settings: Settings, miner: OneMiner) -> str:
    """Our hotkey, ss58: a dev key in ``local``, else from the wallet's public file."""
    from serving.wire.keys import dev_hotkey

    if settings.profile == "local":
        try:
            return dev_hotkey(miner.hotkey_uri)
        except ValueError:
            raise UserError("hotkey_uri is not a key's URI such as '//Ferdie'") from None  # it may hold a secret
    folder = settings.gateway.wallet_path.expanduser() / miner.wallet_name / "hotkeys"
    return _public_file(folder / f"{miner.wallet_hotkey}pub.txt")


def _public_file(path: Path) -> str:
    try:
        address = json.loads(path.read_text())["ss58Address"]
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: write the hotkey's public file with 'btcli wallet regen-hotkeypub', "
            "or set wallet_name and wallet_hotkey in [gateway] or [[miners]]"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{path} is not a public hotkey file; write it again with 'btcli wallet regen-hotkeypub'"
        ) from None
    return str(address)
