"""This project's own recipe keys: the fields of plain dataclasses, each declared once, with its policy.

Free of torch and transformers, so that `llava-mocle train --help` answers at once. Where LLaVA has a flag for a key,
the key has that flag's name.
"""

import dataclasses
import json
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llava_mocle.errors import ConfigError
from llava_mocle.recipe.policy import option

if TYPE_CHECKING:
    from llava_mocle.data.mixture import DatasetSpec

ADAPTERS = ("mocle", "cluster", "dataset", "lora")


@dataclass
class ModelArguments:
    """Where the model comes from."""

    model_name_or_path: str | None = option(
        None, "A LLaVA folder, a stage-1 folder, or a language model when `vision_tower` is given.", resume="same"
    )
    vision_tower: str | None = option(
        None,
        "A vision tower (folder or name) to join to the language model, or that of an original LLaVA folder.",
        resume="same",
    )
    pretrain_mm_mlp_adapter: str | None = option(
        None,
        "A trained projector: mm_projector.safetensors, LLaVA's mm_projector.bin, or a stage-1 folder.",
        resume="same",
    )
    mm_vision_select_layer: int | None = option(
        None,
        "Which layer of `vision_tower` feeds the projector; none: -2, LLaVA's (-1 for a grid tower).",
        resume="same",
    )
    mm_vision_select_feature: str | None = option(
        None,
        "`patch` drops the tower's class token; none: what the tower needs.",
        choices=("patch", "full"),
        resume="same",
    )
    dtype: str = option(
        "auto",
        "Of the frozen weights; auto: bfloat16 with `bf16` on a GPU, else float32. 16 bit needs `bf16` or `fp16`.",
        choices=("auto", "float32", "bfloat16", "float16"),
        resume="same",
    )
    attn_implementation: str = option(
        "auto", "The attention's implementation; auto: flash_attention_2 where it can run, else sdpa.", resume="free"
    )
    model_config: str | None = option(
        None,
        "A LLaVA config.json that `--dry-run` builds on the meta device when the weights are not at hand.",
        resume="free",
    )


@dataclass
class DataArguments:
    """Which rows, which images, which prompt."""

    datasets: str | None = option(
        None,
        "List of {name, data_path, image_folder, repeat, eval_data_path} in the recipe; as JSON on the command line.",
        resume="data",
    )
    data_path: str | None = option(
        None, "Shorthand for one dataset: its rows (LLaVA JSON or JSONL).", resume="data", excludes="datasets"
    )
    image_folder: str | None = option(
        None, "Shorthand for one dataset: the folder its image paths start from.", resume="data", belongs_to="data_path"
    )
    eval_data_path: str | None = option(
        None, "Shorthand for one dataset: held-out rows for the validation loss.", resume="data", belongs_to="data_path"
    )
    version: str = option("vicuna_v1", "Prompt template: vicuna_v1, plain, llama_2, mistral or chat.", resume="same")
    image_aspect_ratio: str = option(
        "pad",
        "pad: pads images to a square with the processor's mean colour; square: leaves them to the processor.",
        choices=("pad", "square"),
        resume="same",
    )
    model_max_length: int = option(
        2048, "Longest sample in tokens; a row whose image would be cut is dropped.", resume="same"
    )
    corrupt_images: str = option(
        "error", "What to do with an unreadable image met while training.", choices=("error", "skip"), resume="free"
    )

    def dataset_specs(self) -> "list[DatasetSpec]":
        """The datasets of the recipe, whichever way they were given.

        Raises:
            ConfigError: none given, both ways used, or an entry lacks a key or has an unknown one.
        """
        from llava_mocle.data.mixture import DatasetSpec

        entries = self._entries()
        known = DatasetSpec.__dataclass_fields__
        for position, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise ConfigError(f"datasets[{position}]: found {entry!r}, expected keys {', '.join(known)}")
            for key in entry:
                if key not in known:
                    raise ConfigError(f"datasets[{position}]: unknown key {key!r}; known are {', '.join(known)}")
            for key in ("name", "data_path"):
                if not entry.get(key):
                    raise ConfigError(f"datasets[{position}]: {key!r} is missing; every dataset needs one")
        names = [entry["name"] for entry in entries]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"datasets: the name {name!r} is used twice; every dataset needs its own")
        return [DatasetSpec(**entry) for entry in entries]

    def _entries(self) -> list[Any]:
        if self.datasets and self.data_path:
            raise ConfigError("both `datasets` and `data_path` are set; keep one of them")
        if self.datasets:
            for key in ("image_folder", "eval_data_path"):
                if value := getattr(self, key):
                    raise ConfigError(
                        f"{key} is {value!r} beside `datasets`, where it does nothing; put it into the entry of the "
                        "dataset that it belongs to"
                    )
        if self.data_path:
            entry = {"name": "train", "data_path": self.data_path, "image_folder": self.image_folder or ""}
            return [entry | ({"eval_data_path": self.eval_data_path} if self.eval_data_path else {})]
        if not self.datasets:
            raise ConfigError("no data: set `datasets` (a list) or `data_path` and `image_folder`")
        entries = self.datasets
        if isinstance(entries, str):
            try:
                entries = json.loads(entries)
            except json.JSONDecodeError as error:
                raise ConfigError(f"datasets: not JSON ({error}); on the command line it is a JSON list") from error
        if not isinstance(entries, list):
            raise ConfigError(f"datasets: found {type(entries).__name__}, expected a list of datasets")
        return entries


@dataclass
class ClusterArguments:
    """How instructions become clusters."""

    cluster_model: str | None = option(
        None, "The cluster model folder: written by `cluster`, read by `train`.", resume="data"
    )
    cluster_assignments: str | None = option(
        None, "The rows' assignment table; default: assignments.parquet in the cluster model folder.", resume="data"
    )
    num_clusters: int = option(
        4, "K: 4 for LLaVA-1.5, 64 for InstructBLIP in the paper.", resume="data", clustering="num_clusters"
    )
    cluster_encoder: str = option(
        "sentence-transformers/all-MiniLM-L6-v2",
        "The sentence encoder: any sentence-transformers model, a name or a folder.",
        resume="data",
        clustering="encoder",
    )
    instruction_turns: str = option(
        "first",
        "Which human turns route a sample.",
        choices=("first", "all"),
        resume="data",
        clustering="instruction_turns",
    )
    cluster_seed: int = option(0, "Seed of k-means++.", resume="data", clustering="seed")
    cluster_n_init: int = option(
        10, "Restarts of k-means; the lowest inertia wins.", resume="data", clustering="n_init"
    )
    cluster_cache_dir: str | None = option(None, "Where embeddings are kept between runs.", resume="free")


@dataclass
class AdapterArguments:
    """The adapter of stage 2. The defaults are the paper's for LLaVA-1.5 (Table 1)."""

    adapter: str = option(
        "mocle",
        "mocle; cluster (no universal expert); dataset (routes by dataset); lora (one plain LoRA).",
        choices=ADAPTERS,
        resume="same",
    )
    lora_r: int = option(128, "Rank of every expert.", resume="same")
    lora_alpha: int = option(256, "The scaling is lora_alpha / lora_r.", resume="same")
    lora_dropout: float = option(0.0, "Dropout in front of the experts.", resume="same")
    lora_target_modules: str = option(
        "up_proj,down_proj",
        "Names of the language model's linears to adapt: a list, or separated by commas.",
        resume="same",
    )
    num_experts: int = option(4, "E: task experts a site, besides the universal one.", resume="same")
    top_k: int = option(1, "Task experts a sample activates; 2 only without the universal expert.", resume="same")
    gate_temperature: float = option(0.1, "tau: 0.1 for LLaVA-1.5, 0.05 for InstructBLIP in the paper.", resume="same")
    gate_noise_std: float | None = option(
        None,
        "Noise on the gates while training; none: num_experts ** -0.5, or 0.1 under gate_mode released.",
        resume="same",
    )
    gate_mode: str = option(
        "paper", "`released` reproduces the authors' inference code.", choices=("paper", "released"), resume="same"
    )


@dataclass
class StageArguments:
    """What is trained, and the learning rates that differ from `learning_rate`."""

    stage: str = option(
        "finetune",
        "pretrain: the projector alone; finetune: it and the adapter.",
        choices=("pretrain", "finetune"),
        resume="same",
    )
    mm_projector_lr: float | None = option(
        None, "Learning rate of the projector; none: `learning_rate`.", resume="same"
    )
    gate_learning_rate: float | None = option(
        None,
        "Learning rate of gates and cluster embedding; none: `learning_rate`. Short runs need a larger one.",
        resume="same",
    )
    group_by_modality_length: bool = option(True, "Make batches of one modality and similar length.", resume="same")
    resume: str = option(
        "auto", "auto: from the newest checkpoint in output_dir, if any; never; or a checkpoint folder.", resume="free"
    )
    stop_after_steps: int | None = option(
        None,
        "Save a checkpoint and stop at this step, leaving the schedule as it is; `--resume auto` goes on.",
        resume="free",
    )
    universal_checkpoint: bool = option(
        False,
        "Resuming a DeepSpeed run on another number of processes (or another ZeRO stage): convert its optimizer state. "
        "Without it the weights and the schedule go on, and the optimizer starts afresh.",
        resume="free",
    )
    vision_feature_cache: int = option(
        0, "Keep this many images' frozen vision features in memory (towers that offer it); 0: off.", resume="free"
    )


@dataclass
class KeyGroups:
    """The groups of this project's own keys; every list of the groups is derived from this one."""

    model: ModelArguments
    data: DataArguments
    cluster: ClusterArguments
    adapter: AdapterArguments
    stage: StageArguments


GROUPS: dict[str, type] = typing.get_type_hints(KeyGroups)
OWN_KEYS: tuple[str, ...] = tuple(item.name for group in GROUPS.values() for item in dataclasses.fields(group))
