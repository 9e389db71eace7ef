"""The Chromium to drive."""

import os
import shutil
from functools import cache
from pathlib import Path

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


CHROMIUM_ON_MAC = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)


@cache
def find_chromium() -> str | None:
    """The Chromium to drive: STITCHLENS_CHROMIUM if set, else the first found; None where there is
    none."""
    if named := os.environ.get("STITCHLENS_CHROMIUM"):
        return named
    found = (shutil.which(name) for name in CHROMIUM_NAMES)
    return next((path for path in (*found, *CHROMIUM_ON_MAC) if path and Path(path).exists()), None)
