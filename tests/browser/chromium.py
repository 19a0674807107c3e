"""Headless Chromium: a picture of a page, and its words as they stand once its scripts have run."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
BUDGETS_MS = (15_000, 30_000, 60_000, 120_000)
"""How far the page's own clock may run before the look; a busy box needs another look, and a longer one."""
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


def find() -> str | None:
    """The first Chromium on the path."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One browser program; every look starts it anew with an empty profile below `folder`."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder

    def look(self, url: str, out: Path, width: int, height: int, *, wanted: Collection[str]) -> str:
        """Take a PNG of the page in a window of that many pixels, and give the words of that very page.

        Looks again, longer, while any of `wanted` is not among the words; the caller judges what the last look saw.
        """
        out.parent.mkdir(parents=True, exist_ok=True)
        words = ""
        for budget in BUDGETS_MS:
            out.unlink(missing_ok=True)
            words = _words(self._page(url, out, width, height, budget))
            if all(each in words for each in wanted):
                break
        return words

    def _page(self, url: str, out: Path, width: int, height: int, budget: int) -> str:
        profile = self._folder / "profile"
        argv = (
            self._program, *_FLAGS, f"--user-data-dir={profile}", f"--virtual-time-budget={budget}",
            f"--window-size={width},{height}", f"--screenshot={out}", "--dump-dom", url,
        )  # fmt: skip
        done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
        shutil.rmtree(profile, ignore_errors=True)
        if done.returncode != 0:
            raise RuntimeError(f"Chromium failed on {url}: {done.stderr[-2000:]}")
        return done.stdout


def _words(html: str) -> str:
    """The text of a page, tags and scripts taken out."""
    without = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", without))
