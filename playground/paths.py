"""Where the demonstration keeps what it fetches and makes; every folder named here is ignored by git."""

import os
from pathlib import Path

PLAYGROUND = Path(__file__).resolve().parent
BASE = PLAYGROUND / "base"
DATA = PLAYGROUND / "data"
DOMAINS = ("natural", "geometry", "medical")


def assets_dir() -> Path:
    """The folder of the fetched parts: `$LLAVA_MOCLE_ASSETS` when set (to share it between clones), else here."""
    override = os.environ.get("LLAVA_MOCLE_ASSETS")
    return Path(override) if override else PLAYGROUND / "assets"
