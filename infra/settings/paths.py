"""Where everything lies: the checkout, and the files below a home."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout (or site-packages) that holds the five packages."""


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
