"""`transformers.TrainingArguments` with this project's own keys and defaults (paper, appendix A.2)."""

import typing
from dataclasses import dataclass, field
from importlib.util import find_spec

from transformers import TrainingArguments

from llava_mocle.recipe.keys import StageArguments


@dataclass
class MocleTrainingArguments(TrainingArguments, StageArguments):
    """Everything `transformers.Trainer` takes, plus `StageArguments`.

    Defaults follow the paper: learning rate 1e-4, cosine to 0, weight decay 0, one pass. `warmup_ratio` (the paper's
    3 %) and `gradient_checkpointing` are kept as LLaVA users know them; transformers calls them `warmup_steps` below
    1 and `activation_checkpointing` now.
    """

    learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate of the experts."})
    weight_decay: float = field(default=0.0, metadata={"help": "Weight decay."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_ratio: float | None = field(default=None, metadata={"help": "Warm-up as a share of all steps: 0.03."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the mixture."})
    logging_steps: float = field(default=1, metadata={"help": "Log every so many steps."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Off: a loss of nan is logged as it is."})
    report_to: str | None = field(
        default="auto", metadata={"help": "auto: tensorboard when installed; wandb, tensorboard or none."}
    )
    activation_checkpointing: bool | None = field(default=None, metadata={"help": "Recompute activations."})
    activation_checkpointing_kwargs: dict | str | None = field(default=None, metadata={"help": "Its options, as JSON."})
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "LLaVA's name of activation_checkpointing; non-reentrant."}
    )
    gradient_checkpointing_kwargs: dict | str | None = field(default=None, metadata={"help": "Likewise its options."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Off: every trained parameter takes part in every step."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Off: routing inputs are columns."})

    def __post_init__(self) -> None:
        if self.warmup_ratio is not None:
            self.warmup_steps = self.warmup_ratio
        if self.gradient_checkpointing is not None and self.activation_checkpointing is None:
            self.activation_checkpointing, self.gradient_checkpointing = self.gradient_checkpointing, None
        if self.gradient_checkpointing_kwargs is not None and self.activation_checkpointing_kwargs is None:
            self.activation_checkpointing_kwargs = self.gradient_checkpointing_kwargs
            self.gradient_checkpointing_kwargs = None
        if self.report_to == "auto":
            self.report_to = "tensorboard" if find_spec("tensorboard") else "none"
        super().__post_init__()
        if self.activation_checkpointing:
            # Re-entrant checkpointing would recompute outside the forward that set the routing.
            self.activation_checkpointing_kwargs = {
                "use_reentrant": False,
                **typing.cast(dict, self.activation_checkpointing_kwargs or {}),
            }
        # One process drives one GPU: with several visible ones Trainer would wrap the model in DataParallel, whose
        # replicas cannot share one routing. torchrun starts a process a GPU.
        if self.n_gpu > 1:
            self._n_gpu = 1
