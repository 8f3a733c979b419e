"""How many bytes each kind of number takes in a run."""

from dataclasses import dataclass

FLOAT32, FLOAT16 = 4, 2


@dataclass(frozen=True)
class Precision:
    """Bytes a value.

    Attributes:
        weights: of frozen parameters.
        compute: of activations.
        trainable: of trained parameters as the model holds them.
        gradients: of gradients as they are accumulated and sent.
        master: of a second, float32 copy of trained parameters in the optimizer; 0: none.
        moments: of the optimizer's state for one parameter.
        autocast: 32 bit parameters are cast to `compute` where they are used.
    """

    weights: int
    compute: int
    trainable: int
    gradients: int
    master: int
    moments: int
    autocast: bool

    @classmethod
    def of(cls, *, deepspeed: bool, half: bool, weights: int, moments: int = 8) -> "Precision":
        """The project's own rules.

        DeepSpeed with 16 bit keeps everything in 16 bit, and float32 master copies in its optimizer. Without it,
        trained parameters and their gradients are float32 under autocast, whatever the frozen weights are.

        Args:
            deepspeed: whether DeepSpeed runs the optimizer.
            half: `bf16` or `fp16`.
            weights: bytes of a frozen weight, without DeepSpeed.
            moments: bytes of optimizer state for one parameter, 8 for Adam.
        """
        if deepspeed and half:
            return cls(FLOAT16, FLOAT16, FLOAT16, FLOAT16, FLOAT32, moments, False)
        compute = FLOAT16 if half else weights
        return cls(weights, compute, FLOAT32, FLOAT32, FLOAT32 if deepspeed else 0, moments, half)
