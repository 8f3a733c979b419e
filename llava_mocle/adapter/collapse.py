"""One cluster of a MoCLE adapter as a plain PEFT LoRA adapter: at inference a cluster's gates are constants."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import Tensor

from llava_mocle.adapter.card import PAPER, code, public_name, table, write_card
from llava_mocle.adapter.config import MocleConfig
from llava_mocle.adapter.in_place import PEFT_MODEL_PREFIX
from llava_mocle.adapter.layer import MocleLinear, StackedExperts
from llava_mocle.adapter.model import MocleModel
from llava_mocle.adapter.product import collapsed_pair
from llava_mocle.errors import ConfigError
from llava_mocle.io.folders import new_folder, refuse_to_overwrite

# Site -> the A and B of a plain LoRA.
Pairs: TypeAlias = Mapping[str, tuple[Tensor, Tensor]]


def collapse(
    peft_model: PeftModel, cluster: int | None, out_dir: str | os.PathLike[str], adapter_name: str = "default"
) -> Path:
    """Write the plain LoRA adapter that equals `peft_model` for every sample of `cluster`.

    For a site with expert e: A' = [A_e ; A_u] (2r, in) and B' = [G B_e, (1 - G) B_u] (out, 2r) with r' = 2r and
    alpha' = 2 alpha, so the scaling stays (arXiv 2312.12379, eq. 3 with the gates constant). Without a
    universal expert r' = k r. Exact in real arithmetic. The trained `modules_to_save` and
    `parameters_to_save` are written too.

    Args:
        cluster: cluster id; the dataset's index for router="dataset"; None for router="none".
        out_dir: must not exist, or be an empty folder. It is written under another name and renamed when complete.

    Returns:
        `out_dir`, which `PeftModel.from_pretrained` loads without this package.

    Raises:
        RoutingError: there is no such cluster, none was given for a routed adapter, or one for router="none".
        CheckpointError: `out_dir` holds something already.
        ConfigError: this is not a MoCLE model, or there is no such adapter.
    """
    refuse_to_overwrite(out_dir)
    pairs = cluster_pairs(peft_model, cluster, adapter_name)
    tuner = _tuner(peft_model)
    config = cast(MocleConfig, tuner.peft_config[adapter_name])
    sites = list(pairs)
    saved = get_peft_model_state_dict(peft_model, adapter_name=adapter_name)
    weights = {name: tensor for name, tensor in saved.items() if f".{tuner.prefix}" not in name}
    weights |= lora_weights(pairs)
    # Cloned, because safetensors writes neither views nor tensors that share memory.
    weights = {name: tensor.detach().to("cpu").clone().contiguous() for name, tensor in weights.items()}
    rank_factor = config.top_k + int(config.universal_expert)
    lora = LoraConfig(
        r=rank_factor * config.r,
        lora_alpha=rank_factor * config.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules=sites,
        modules_to_save=config.modules_to_save,
        bias="none",
        task_type=config.task_type,
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
        inference_mode=True,
    )
    with new_folder(out_dir) as folder:
        save_file(weights, str(folder / SAFETENSORS_WEIGHTS_NAME), metadata={"format": "pt"})
        lora.save_pretrained(str(folder))
        config.write_base_record(folder)
        _write_card(folder, peft_model, config, lora, cluster)
    return Path(out_dir)


@torch.no_grad()
def cluster_pairs(peft_model: PeftModel, cluster: int | None, adapter_name: str = "default") -> Pairs:
    """The plain LoRA of a cluster: of each site A' (n r, in) and B' (out, n r), for the scaling of the adapter.

    Raises:
        RoutingError, ConfigError: as `collapse`.
    """
    tuner = _tuner(peft_model)
    routing = tuner.cluster_routing(cluster, adapter_name)
    return {
        site: collapsed_pair(experts.experts_A, experts.experts_B, None if routing is None else routing.site(index))
        for index, (site, experts) in enumerate(_experts(tuner, adapter_name))
    }


@torch.no_grad()
def universal_pairs(peft_model: PeftModel, adapter_name: str = "default") -> Pairs:
    """The universal expert alone, with weight 1: of each site A (r, in) and B (out, r), for the same scaling.

    Raises:
        ConfigError: this is not a MoCLE model, or it has no universal expert.
    """
    tuner = _tuner(peft_model)
    if not cast(MocleConfig, tuner.peft_config[adapter_name]).universal_expert:
        raise ConfigError(f"adapter {adapter_name!r} has no universal expert, so there is none to collapse to.")
    return {
        site: collapsed_pair(experts.experts_A[-1:], experts.experts_B[-1:], None)
        for site, experts in _experts(tuner, adapter_name)
    }


def lora_weights(pairs: Pairs) -> dict[str, Tensor]:
    """The same under the names that PEFT gives a plain LoRA's weights."""
    weights = {}
    for site, (pair_A, pair_B) in pairs.items():
        weights[f"{PEFT_MODEL_PREFIX}{site}.lora_A.weight"] = pair_A
        weights[f"{PEFT_MODEL_PREFIX}{site}.lora_B.weight"] = pair_B
    return weights


def _tuner(peft_model: PeftModel) -> MocleModel:
    tuner = getattr(peft_model, "base_model", None)
    if not isinstance(tuner, MocleModel):
        raise ConfigError(f"collapse needs a PeftModel with a MoCLE adapter, found {type(peft_model).__name__}.")
    return tuner


def _experts(tuner: MocleModel, adapter_name: str) -> Iterator[tuple[str, StackedExperts]]:
    """The sites, in the order of the gates, and their experts."""
    for site in cast(MocleConfig, tuner.peft_config[adapter_name]).sites or []:
        layer = cast(MocleLinear, tuner.model.get_submodule(site))
        yield site, cast(StackedExperts, layer.mocle_experts[adapter_name])


def _write_card(
    folder: Path, peft_model: PeftModel, config: MocleConfig, lora: LoraConfig, cluster: int | None
) -> None:
    base = public_name(lora.base_model_name_or_path)
    kind = type(peft_model.get_base_model()).__name__
    part = "the whole adapter" if cluster is None else f"{config.router} {cluster} of {config.num_clusters}"
    beside = [*(config.modules_to_save or []), *(config.parameters_to_save or [])]
    write_card(
        folder,
        f"{base}: {part} as a plain LoRA",
        base,
        ["lora"],
        [
            f"Exported from a MoCLE adapter ({PAPER}) by `llava-mocle collapse`. At inference the gates of a cluster "
            "are constants, so its task expert and the universal expert are one LoRA; the modules that were trained "
            "beside them are here too. PEFT loads it. `llava-mocle export` writes what inference engines load.",
            table(
                [
                    ("base", base),
                    ("part", part),
                    ("rank, alpha", f"{lora.r}, {lora.lora_alpha:g}"),
                    ("experts of the original", f"{config.num_slots} of rank {config.r}"),
                    ("adapted", ", ".join(sorted({site.rpartition(".")[2] for site in config.sites or []}))),
                    ("trained beside them", ", ".join(beside)),
                ]
            ),
            "## Load",
            "In this folder, with `transformers` and `peft` alone:",
            code(
                "from peft import PeftConfig, PeftModel",
                f"from transformers import {kind}",
                "",
                'base = PeftConfig.from_pretrained(".").base_model_name_or_path  # or the place that it has moved to',
                f'model = PeftModel.from_pretrained({kind}.from_pretrained(base), ".").eval()',
            ),
        ],
    )
