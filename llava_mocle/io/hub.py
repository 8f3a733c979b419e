"""Folders of models on the Hugging Face hub, by name: downloaded, or found in the local cache."""

from collections.abc import Sequence
from pathlib import Path


def find_snapshot(name: str, ignore: Sequence[str] = (), download: bool = True) -> tuple[Path | None, str]:
    """The local folder of a model on the hub, or the reason why there is none.

    The hub is asked first, which completes a partial download and updates an old one: the local cache alone cannot tell
    a whole model from a part of one. The cache is used as it is where HF_HUB_OFFLINE is set or the download fails.

    Args:
        name: `ORG/NAME`, or `NAME` of a model without an organisation.
        ignore: patterns of files that are not needed.
        download: off: the hub is not asked, and the cache is used as it is.

    Returns:
        (folder, ""), or (None, the reason).
    """
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        return None, "it is a path, not the name of a model on the hub"
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE

    ignored = list(ignore) or None
    reason = "HF_HUB_OFFLINE is set" if download else "nothing is downloaded for a check"
    if download and not HF_HUB_OFFLINE:
        try:
            return Path(snapshot_download(name, ignore_patterns=ignored)), ""
        except Exception as error:
            reason = f"the download failed ({type(error).__name__})"
    try:
        return Path(snapshot_download(name, ignore_patterns=ignored, local_files_only=True)), ""
    except Exception as error:
        return None, f"{reason}, and it is not in the local cache ({type(error).__name__})"
