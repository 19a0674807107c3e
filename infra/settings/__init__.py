"""Settings: ``headframe.toml`` and ``HEADFRAME_*``, read once into a frozen object.

Nothing else in Headframe reads the environment. Nested values are spelt with two underscores:
``HEADFRAME_PORTS__GATEWAY=8091``, or ``[ports] gateway = 8091`` in the file.
"""

from infra.settings.paths import ROOT, Paths
from infra.settings.reading import load_settings
from infra.settings.tables import S3, Gateway, Miner, Ports, Prices, TimeCheck, Traffic
from infra.settings.variables import settings_file
from infra.settings.whole import LOOPBACK, NTP_SERVERS, OneMiner, Profile, Settings

__all__ = [
    "LOOPBACK", "NTP_SERVERS", "ROOT", "S3", "Gateway", "Miner", "OneMiner", "Paths", "Ports", "Prices", "Profile",
    "Settings", "TimeCheck", "Traffic", "load_settings", "settings_file",
]  # fmt: skip
