"""Which model wrote an answer: a name for people and a fingerprint of the weights."""

import hashlib
from pathlib import Path

from llava_mocle.io.samples import sample_places

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


def model_id(path: Path, base: Path, tower: Path | None = None) -> str:
    """Name and fingerprint of a model, such as `mocle@5f3a09c1` or `mocle_checkpoint-40@77b0e1d2`.

    The name is that of the folder; for a `checkpoint-N` the parent's name goes in front, as in LLaVA. The fingerprint
    covers weights, configuration, tokenizer and cluster model. It changes when a model is trained again in the same
    place. Of large files it covers the size, the head, the tail and 62 places between them: any training step changes
    these.

    Args:
        path: the folder of the model.
        base: the folder under it that holds the whole model; `path` itself where that does.
        tower: the vision tower's folder, where the base is an original folder with its tower beside it.
    """
    folder = path.resolve()
    name = f"{folder.parent.name}_{folder.name}" if folder.name.startswith("checkpoint-") else folder.name
    digest = hashlib.sha256()
    for part in dict.fromkeys([folder, base.resolve(), *([tower.resolve()] if tower else [])]):
        _update(digest, part)
    return f"{name}@{digest.hexdigest()[:8]}"


def _update(digest: "hashlib._Hash", folder: Path) -> None:
    files = {file for pattern in _WHAT_ANSWERS_DEPEND_ON for file in folder.glob(pattern)}
    for file in sorted(files):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder).as_posix()} {size}\n".encode())
        with open(file, "rb") as stream:
            for offset, length in sample_places(size, _CHUNK, _SAMPLES):
                stream.seek(offset)
                digest.update(stream.read(length))
