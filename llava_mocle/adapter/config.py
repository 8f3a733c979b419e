"""MocleConfig: the settings of an adapter. They make it MoCLE, one of its ablations, or a baseline."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft.config import PeftConfig

from llava_mocle.adapter.options import LEARNED_ROUTERS, check_options
from llava_mocle.errors import ConfigError, RoutingError
from llava_mocle.io.files import write_text

PEFT_TYPE = "MOCLE"
# Beside adapter_config.json: the identity of the base that the adapter was trained on (see `model/base_identity.py`).
BASE_RECORD = "base_fingerprint.json"
ROUTERS = ("cluster", "dataset", "token", "sentence", "none")
GATE_MODES = ("paper", "released")
DEFAULT_DATASET_DIM = 384
RELEASED_NOISE_STD = 0.1


@dataclass
class MocleConfig(PeftConfig):
    """Configuration of a MoCLE adapter (arXiv 2312.12379), for `peft.get_peft_model`.

    With E task experts, a universal expert and a cluster c per sample, an adapted linear computes

        y = W0 x + lora_alpha / r * (sum_e G_e B_e A_e x + (1 - G_max) B_u A_u x)

    Args:
        r: rank of every expert.
        lora_alpha: numerator of the scaling `lora_alpha / r`.
        lora_dropout: dropout on the input of the experts; one mask for all of them.
        target_modules: the `nn.Linear` modules to adapt: ends of their names, or one regular expression that matches
            whole names.
        exclude_modules: modules that are not adapted, named in the same way.
        num_experts: E, the number of task experts.
        universal_expert: add an expert that every sample uses and trains, with weight 1 - G_max.
        router: "cluster" (`cluster_ids`), "dataset" (`dataset_ids`), "sentence" (`instruction_ids`: gates on the mean
            word embedding of the instruction), "token" (every token for itself, at every site) or "none" (a plain LoRA:
            one expert, gate 1). "token" and "sentence" have no universal expert.
        num_clusters: K; read from `centroids` when None. For router="dataset", the number of datasets.
        dataset_groups: for router="dataset", the group of each dataset, from 0 without a gap. Datasets of one group
            share a row of the embedding, and so have the same experts. None: each dataset is a group of its own.
        cluster_dim: D; read from `centroids` when None. For router="dataset" the default is 384.
        top_k: task experts per sample, 1 or 2; kept gates are not renormalised. 2 needs universal_expert=False.
        temperature: tau in softmax(logits / tau).
        gate_mode: "paper", or "released" for the formula of the authors' published code: G^2 W_e + (1 - G) W_u (G W_e
            without a universal expert), a cluster embedding per site, gates with a bias, the softmax in fp16.
        gate_noise_std: std of the noise on the gate logits while training. None: num_experts ** -0.5 under "paper",
            0.1 under "released".
        gate_sharing: of the token and sentence routers: one gate a "site"; one for the sites of a "block", such as an
            MLP (the token router's sees the input of the block's first site); one a "model" (sentence only).
        gate_bias: of the token and sentence routers: whether gates have a bias.
        expert_weight: of the token and sentence routers: a chosen expert is multiplied by its "probability" G; by
            "one" (top_k=1); or by its probability "renormalized" over the chosen ones (top_k=2).
        balance_loss_weight: of the token and sentence routers: what the balance loss is multiplied by in training;
            `MocleModel.balance_losses` gives it.
        gates: "learned"; or "fixed": the id of the cluster (of the dataset's group) is that of the expert, whose weight
            is 1. Nothing routes that could be trained. It needs num_experts = K and universal_expert=False.
        gate_init: how learned gates start: "random", or "balanced" (see `gate_start`): each group of near clusters with
            a preference for an expert of its own, the samples evenly divided.
        train_cluster_embedding: False leaves the cluster embedding C at its start, the centroids; only the gates train.
        centroids: a cluster model folder or a .safetensors file with the tensor "centroids" (K, D). It is read when
            a new adapter is made. It is not written to adapter_config.json: a saved adapter holds its embedding.
        modules_to_save: modules trained and saved beside the adapter.
        parameters_to_save: bare parameters of the base model, such as InstructBLIP's "query_tokens", by the ends of
            their names. They are trained in place, and saved and loaded with the adapter. There is no second copy of
            them: `disable_adapter()` and `unload()` leave them as trained, and the adapter must be the model's only
            one.
        bias: only "none".
        init_lora_weights: True leaves B at zero, so that the adapter starts as the identity; False draws B as well.
        layers_to_transform, layers_pattern: as in `peft.LoraConfig`.
        sites: names of the adapted modules in the order of the gates; filled at injection, checked when loading.

    Attributes:
        base_record: the text of `base_fingerprint.json`, which goes wherever the adapter is saved; None: there is none.

    Raises:
        ConfigError: a value is out of range, or two fields contradict each other.
    """

    r: int = 8
    lora_alpha: float = 16
    lora_dropout: float = 0.0
    target_modules: list[str] | set[str] | str | None = None
    exclude_modules: list[str] | set[str] | str | None = None
    num_experts: int = 4
    universal_expert: bool = True
    router: str = "cluster"
    num_clusters: int | None = None
    cluster_dim: int | None = None
    top_k: int = 1
    temperature: float = 0.05
    gate_mode: str = "paper"
    gate_noise_std: float | None = None
    gate_sharing: str = "site"
    gate_bias: bool = False
    expert_weight: str = "probability"
    balance_loss_weight: float = 0.0
    gates: str = "learned"
    gate_init: str = "random"
    train_cluster_embedding: bool = True
    dataset_groups: list[int] | None = None
    centroids: str | None = None
    modules_to_save: list[str] | None = None
    parameters_to_save: list[str] | None = None
    bias: str = "none"
    init_lora_weights: bool = True
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    sites: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PEFT_TYPE
        self.base_record: str | None = None
        if isinstance(self.target_modules, (list, tuple)):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, (list, tuple)):
            self.exclude_modules = set(self.exclude_modules)
        if self.centroids is not None:
            self.centroids = str(self.centroids)
        self._check_router()
        self._check_numbers()
        self._check_mixture()
        check_options(self)
        if isinstance(self.parameters_to_save, str):
            raise ConfigError(f"parameters_to_save={self.parameters_to_save!r} must be a list of names.")

    def _check_router(self) -> None:
        if self.router not in ROUTERS:
            raise ConfigError(f"router={self.router!r} is unknown; choose one of {', '.join(ROUTERS)}.")
        if self.router == "none":
            for name, expected in (("num_experts", 1), ("universal_expert", False), ("top_k", 1)):
                if getattr(self, name) != expected:
                    raise ConfigError(
                        f"router='none' is a plain LoRA with one expert, but {name}={getattr(self, name)!r}; "
                        "set num_experts=1, universal_expert=False, top_k=1."
                    )
        if self.router == "dataset":
            if self.centroids is not None:
                raise ConfigError(f"router='dataset' uses no cluster model, but centroids={self.centroids!r}; drop it.")
            if self.num_clusters is None:
                raise ConfigError("router='dataset' needs num_clusters: the number of datasets.")
            self.cluster_dim = self.cluster_dim or DEFAULT_DATASET_DIM
        if self.router == "cluster" and self.centroids is None and None in (self.num_clusters, self.cluster_dim):
            raise ConfigError(
                "router='cluster' needs `centroids` (a cluster model folder), or both num_clusters and cluster_dim; "
                f"found num_clusters={self.num_clusters}, cluster_dim={self.cluster_dim}."
            )

    def _check_numbers(self) -> None:
        for name in ("r", "lora_alpha", "num_experts", "temperature"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name)!r} must be above 0.")
        for name in ("num_clusters", "cluster_dim"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value!r} must be at least 1.")
        if not 0 <= self.lora_dropout < 1:
            raise ConfigError(f"lora_dropout={self.lora_dropout!r} must lie in [0, 1).")
        if self.gate_noise_std is not None and self.gate_noise_std < 0:
            raise ConfigError(f"gate_noise_std={self.gate_noise_std!r} must be 0 or above, or None for the default.")

    def _check_mixture(self) -> None:
        if self.gate_mode not in GATE_MODES:
            raise ConfigError(f"gate_mode={self.gate_mode!r} is unknown; choose one of {', '.join(GATE_MODES)}.")
        if self.top_k not in (1, 2):
            raise ConfigError(f"top_k={self.top_k!r} must be 1 or 2.")
        if self.top_k > self.num_experts:
            raise ConfigError(f"top_k={self.top_k} is above num_experts={self.num_experts}.")
        if self.universal_expert and self.top_k != 1:
            raise ConfigError(
                f"top_k={self.top_k} and universal_expert=True exclude each other: the universal expert takes what "
                "the single gate leaves over. Set top_k=1 or universal_expert=False."
            )
        if self.bias != "none":
            raise ConfigError(f"bias={self.bias!r} is not supported; only 'none' is.")

    @property
    def has_gates_of_ids(self) -> bool:
        """Whether a sample's gates follow from an id alone, so that those of a cluster (or dataset) can be told."""
        return self.router in ("cluster", "dataset")

    def check_cluster(self, cluster: int | None) -> None:
        """Check the cluster whose gates are asked for (the dataset of router="dataset"); it needs no weights.

        Raises:
            RoutingError: none was given, there is no such one, or one was given for router="none"; or the router is
                "token" or "sentence".
        """
        if self.router in LEARNED_ROUTERS:
            what = "token" if self.router == "token" else "instruction"
            raise RoutingError(
                f"this adapter has router={self.router!r}: it decides for every {what} anew, so it has no clusters, "
                "and none of its gates is a constant that could be shown, collapsed or merged. Use it as it is."
            )
        if self.router == "none":
            if cluster is not None:
                raise RoutingError(f"cluster is {cluster!r}, but this adapter is a plain LoRA: leave the cluster out.")
            return
        last = (self.num_clusters or 0) - 1
        if cluster is None:
            raise RoutingError(
                f"the gates of one {self.router} are needed, 0 to {last}: pass cluster=c (--cluster on the command "
                "line)."
            )
        if isinstance(cluster, int) and not 0 <= cluster <= last:
            raise RoutingError(
                f"cluster is {cluster}, but this adapter has {self.router}s 0 to {last}: choose one of them."
            )

    @property
    def num_groups(self) -> int | None:
        """How many clusters, or groups of datasets, the router tells apart; None where K is still to be read."""
        return self.num_clusters if self.dataset_groups is None else 1 + max(self.dataset_groups)

    @property
    def scaling(self) -> float:
        """lora_alpha / r, the factor on every expert's output."""
        return self.lora_alpha / self.r

    @property
    def num_slots(self) -> int:
        """The number of experts at a site: E, and one more (the last) for the universal expert."""
        return self.num_experts + int(self.universal_expert)

    @property
    def noise_std(self) -> float:
        """The std of the gate noise in training, with the default resolved; 0 where gates are fixed."""
        if self.gates == "fixed":
            return 0.0
        if self.gate_noise_std is not None:
            return self.gate_noise_std
        return RELEASED_NOISE_STD if self.gate_mode == "released" else self.num_experts**-0.5

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str, subfolder: str | None = None, **kwargs: Any
    ) -> MocleConfig:
        """PEFT's, with the record of the base that lies beside adapter_config.json."""
        config = super().from_pretrained(pretrained_model_name_or_path, subfolder, **kwargs)
        path = Path(pretrained_model_name_or_path, subfolder or "", BASE_RECORD)
        if path.is_file():
            config.base_record = path.read_text(encoding="utf-8")
        return config

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """PEFT's, with the record of the base."""
        super().save_pretrained(save_directory, **kwargs)
        self.write_base_record(save_directory)

    def write_base_record(self, folder: str | os.PathLike[str]) -> None:
        """Write `base_fingerprint.json` into an adapter's folder, if there is a record."""
        if self.base_record is not None:
            write_text(Path(folder) / BASE_RECORD, self.base_record)

    def to_dict(self) -> dict[str, Any]:
        """The dictionary that is saved: sets are sorted, and `centroids`, which only a new adapter reads, is None."""
        values = {key: sorted(value) if isinstance(value, set) else value for key, value in super().to_dict().items()}
        values["centroids"] = None
        return values
