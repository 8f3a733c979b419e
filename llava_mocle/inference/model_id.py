"""Which model wrote an answer: a name for people and a fingerprint of the weights."""

import hashlib
import json
import os
from pathlib import Path

_CHUNK = 64 * 1024
_SAMPLES = 64
_WHAT_ANSWERS_DEPEND_ON = (
    "*.safetensors",
    "pytorch_model*.bin",
    "adapter_config.json",
    "mm_projector_config.json",
    "config.json",
    "generation_config.json",
    "llava_mocle.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer*.json",
    "tokenizer.model",
    "chat_template.jinja",
    "recipe.yaml",
    "clusters/config.json",
    "clusters/centroids.safetensors",
)


def model_id(path: str | os.PathLike[str], base: str | os.PathLike[str] | None = None) -> str:
    """Name and fingerprint of a model folder, such as `mocle@5f3a09c1` or `mocle_checkpoint-40@77b0e1d2`.

    The name is that of the folder; for a `checkpoint-N` the parent's name goes in front, as in LLaVA. The fingerprint
    covers weights, configuration, tokenizer and cluster model of the folder and of the base folder that it names. It
    changes when a model is trained again in the same place. Of large files it covers the size, the head, the tail
    and 62 places between them: any training step changes these.
    """
    folder = Path(path).resolve()
    name = f"{folder.parent.name}_{folder.name}" if folder.name.startswith("checkpoint-") else folder.name
    digest = hashlib.sha256()
    seen: list[Path] = []
    under: Path | None = folder
    while under is not None and under.is_dir() and under not in seen:
        _update(digest, under)
        seen.append(under)
        under = Path(base).resolve() if base is not None and under == folder else _named_base(under)
    return f"{name}@{digest.hexdigest()[:8]}"


def _named_base(folder: Path) -> Path | None:
    for config in ("adapter_config.json", "mm_projector_config.json"):
        if (folder / config).is_file():
            named = json.loads((folder / config).read_text(encoding="utf-8")).get("base_model_name_or_path")
            if not named:
                return None
            found = next((path for path in (Path(named), folder / named) if path.is_dir()), None)
            return found.resolve() if found else None
    return None


def _update(digest: "hashlib._Hash", folder: Path) -> None:
    files = {file for pattern in _WHAT_ANSWERS_DEPEND_ON for file in folder.glob(pattern)}
    for file in sorted(files):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder).as_posix()} {size}\n".encode())
        with open(file, "rb") as stream:
            for offset in _offsets(size):
                stream.seek(offset)
                digest.update(stream.read(_CHUNK))


def _offsets(size: int) -> list[int]:
    if size <= _SAMPLES * _CHUNK:
        return list(range(0, size, _CHUNK))
    step = (size - _CHUNK) / (_SAMPLES - 1)
    return [round(index * step) for index in range(_SAMPLES)]
