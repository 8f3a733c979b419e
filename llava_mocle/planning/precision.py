"""How many bytes each kind of number takes in a run."""

from dataclasses import dataclass

FLOAT32, FLOAT16 = 4, 2
# bitsandbytes' own: 4-bit values have a scale for each block of so many, and quantized scales one for each group.
_BLOCK, _GROUP = 64, 256


def quantized_bytes(weights: int, rows: int, bits: int, double_quant: bool) -> int:
    """Bytes of linears that bitsandbytes stores in 4 or 8 bit; its tables (about 1 KB a linear) are left out.

    Args:
        weights: their values.
        rows: their output features, each of which has a scale in 8 bit.
        bits: 4 or 8.
        double_quant: 4 bit: whether the scales are quantized to a byte.
    """
    if bits == 8:
        return weights + rows * FLOAT32
    blocks = -(-weights // _BLOCK)
    scales = blocks + -(-blocks // _GROUP) * FLOAT32 if double_quant else blocks * FLOAT32
    return -(-weights // 2) + scales


@dataclass(frozen=True)
class Precision:
    """Bytes a value.

    Attributes:
        weights: of frozen parameters that are not quantized.
        compute: of activations.
        trainable: of trained parameters as the model holds them.
        gradients: of gradients as they are accumulated and sent.
        master: of a second, float32 copy of trained parameters in the optimizer; 0: none.
        moments: of the optimizer's state for one parameter.
        autocast: 32 bit parameters are cast to `compute` where they are used.
        stream: of the hidden states between the layers' linears.
        bits: 4 or 8: the frozen linears of the language model's layers are stored in so many bits; 16: as `weights`.
        double_quant: as the recipe key.
    """

    weights: int
    compute: int
    trainable: int
    gradients: int
    master: int
    moments: int
    autocast: bool
    stream: int
    bits: int = 16
    double_quant: bool = True

    @property
    def quantized(self) -> bool:
        return self.bits < 16

    @classmethod
    def of(
        cls,
        *,
        deepspeed: bool,
        half: bool,
        weights: int,
        moments: int = 8,
        bits: int = 16,
        double_quant: bool = True,
    ) -> "Precision":
        """The project's own rules.

        DeepSpeed with 16 bit keeps everything in 16 bit, and float32 master copies in its optimizer. Without it,
        trained parameters and their gradients are float32 under autocast, whatever the frozen weights are. The norms
        beside quantized linears are float32 then, and a quantized linear gives back the dtype that it is given.

        Args:
            deepspeed: whether DeepSpeed runs the optimizer.
            half: `bf16` or `fp16`.
            weights: bytes of a frozen weight, without DeepSpeed.
            moments: bytes of optimizer state for one parameter, 8 for Adam.
            bits, double_quant: as the recipe keys.
        """
        if deepspeed and half:
            return cls(FLOAT16, FLOAT16, FLOAT16, FLOAT16, FLOAT32, moments, False, FLOAT16, bits, double_quant)
        compute = FLOAT16 if half else weights
        stream = FLOAT32 if bits < 16 else compute
        master = FLOAT32 if deepspeed else 0
        return cls(weights, compute, FLOAT32, FLOAT32, master, moments, half, stream, bits, double_quant)
