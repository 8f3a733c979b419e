"""A language model whose linears are stored in 4 or 8 bit by bitsandbytes: QLoRA (Dettmers et al., 2023), LLM.int8().

Only the linears of the decoder are quantized. The vision tower, the connector, the embeddings and the output layer stay
as they are, as in LLaVA. Experts are added beside the quantized linears in full precision.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from llava_mocle.errors import ConfigError
from llava_mocle.io.libraries import quiet_bitsandbytes

BITS = (4, 8, 16)
QUANT_TYPES = ("nf4", "fp4")


@dataclass(frozen=True)
class Quantization:
    """How the linears of the language model are stored. The names and defaults are those of LLaVA's flags.

    Attributes:
        bits: 4, 8, or 16 for not quantized.
        double_quant: 4 bit: whether the scales of the blocks are quantized as well.
        quant_type: 4 bit: "nf4" or "fp4".
        compute: 4 bit: the dtype that a weight is brought to where it is used; None: that of the other weights.
    """

    bits: int = 16
    double_quant: bool = True
    quant_type: str = "nf4"
    compute: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ConfigError(f"bits is {self.bits!r}, expected one of {', '.join(map(str, BITS))}")
        if self.quant_type not in QUANT_TYPES:
            raise ConfigError(f"quant_type is {self.quant_type!r}, expected one of {', '.join(QUANT_TYPES)}")

    @property
    def is_on(self) -> bool:
        return self.bits < 16


NOT_QUANTIZED = Quantization()


def require_bitsandbytes(bits: int) -> None:
    """
    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"bits is {bits}, and bitsandbytes, which stores weights in {bits} bit, is not installed; "
            "pip install 'llava_mocle[qlora]', or leave it at 16"
        )


def loading_options(
    model_class: Any, config: Any, quantization: Quantization, dtype: torch.dtype, device: torch.device | None
) -> dict[str, Any]:
    """The keywords of `from_pretrained` that quantize a model while it is loaded; empty for 16 bit.

    Args:
        model_class: a transformers class that takes `config` alone.
        config: of the model.
        dtype: of the weights that are not quantized.
        device: where the model goes; None: the current GPU, or the CPU where there is none.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    if not quantization.is_on:
        return {}
    require_bitsandbytes(quantization.bits)
    from transformers import BitsAndBytesConfig

    with torch.device("meta"):
        skipped = parts_kept(model_class(config))
    options: dict[str, Any] = {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=quantization.bits == 4,
            load_in_8bit=quantization.bits == 8,
            llm_int8_skip_modules=skipped,
            bnb_4bit_compute_dtype=quantization.compute or dtype,
            bnb_4bit_use_double_quant=quantization.double_quant,
            bnb_4bit_quant_type=quantization.quant_type,
        )
    }
    return options if device is None else options | {"device_map": {"": str(device)}}


def parts_kept(model: nn.Module) -> list[str]:
    """The names of the parts of a model that are not quantized: all beside its decoder, the output layer among them.

    Raises:
        ConfigError: the decoder is not known.
    """
    decoder = model.get_decoder()  # type: ignore[operator]
    name = next((name for name, module in model.named_modules() if module is decoder), None)
    if not name:
        raise ConfigError(
            f"{type(model).__name__}: which part is its language model is not known, so it cannot be quantized; give "
            "bits 16"
        )
    return list(_beside(model, name))


def _beside(model: nn.Module, name: str) -> Iterator[str]:
    """The names of the children of all ancestors of a module that are not its ancestors themselves."""
    ancestor, prefix = model, ""
    for part in name.split("."):
        for child, _ in ancestor.named_children():
            if child != part:
                yield f"{prefix}{child}"
        ancestor, prefix = ancestor.get_submodule(part), f"{prefix}{part}."


def settle_kernels(model: nn.Module) -> None:
    """Have the 4-bit linears of a quantized model compute alike on every CPU; a full model stays.

    On a CPU with AVX512-BF16, bitsandbytes repacks a weight for inference at the first forward without gradients. It
    has no backward for such a weight, so a run that validates would lose gradients without a word.
    """
    if stored_bits(model) == 16:
        return
    import bitsandbytes

    quiet_bitsandbytes()
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def prepare_for_training(model: nn.Module) -> None:
    """Bring the decoder's norms to float32, as PEFT's `prepare_model_for_kbit_training` does; a full model stays.

    Its other steps are done elsewhere: the base is frozen, and checkpointing is never re-entrant, so that the inputs
    need no gradient. Embeddings and the output layer stay in the dtype that they were loaded in.
    """
    if stored_bits(model) == 16:
        return
    for module in model.get_decoder().modules():  # type: ignore[operator]
        if "norm" in type(module).__name__.lower():
            module.float()


def stored_bits(model: nn.Module) -> int:
    """4 or 8 for a model (or a `PeftModel` around one) whose linears are stored in so many bits, else 16."""
    return next((bits for bits in (4, 8) if getattr(model, f"is_loaded_in_{bits}bit", False)), 16)
