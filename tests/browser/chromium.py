"""Headless Chromium: a picture of a page, and the page as it stands once its scripts have run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--virtual-time-budget=15000",
)  # fmt: skip


def find() -> str | None:
    """The first Chromium on the path."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One browser program; every look starts it anew with an empty profile below `folder`."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._looks = 0

    def picture(self, url: str, out: Path, width: int, height: int) -> Path:
        """A PNG of the page in a window of that many pixels."""
        out.parent.mkdir(parents=True, exist_ok=True)
        out.unlink(missing_ok=True)
        self._look(url, f"--window-size={width},{height}", f"--screenshot={out}")
        return out

    def text(self, url: str) -> str:
        """The page's DOM as HTML."""
        return self._look(url, "--window-size=1600,2400", "--dump-dom")

    def _look(self, url: str, *flags: str) -> str:
        self._looks += 1
        profile = self._folder / f"profile-{self._looks}"
        argv = (self._program, *_FLAGS, f"--user-data-dir={profile}", *flags, url)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"Chromium failed on {url}: {done.stderr[-2000:]}")
        shutil.rmtree(profile, ignore_errors=True)
        return done.stdout
