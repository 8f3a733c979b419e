"""LLaVA with a grid vision tower as a model of vLLM. Only vLLM imports this, through `vllm_plugin`."""

from typing import Any

from torch import Tensor, nn
from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaMultiModalProjector,
    LlavaProcessingInfo,
)
from vllm.model_executor.models.utils import init_vllm_registered_model, maybe_prefix
from vllm.model_executor.models.vision import VisionEncoderInfo
from vllm.multimodal import MULTIMODAL_REGISTRY

from llava_mocle.families.grid_tower import GridVisionModel


class GridInfo(VisionEncoderInfo):
    """How many tokens an image becomes: always those of the grid."""

    def get_num_image_tokens(self, *, image_width: int, image_height: int) -> int:
        return self.vision_config.grid_size**2

    def get_image_size(self) -> int:
        return self.vision_config.image_size

    def get_patch_size(self) -> int:
        return self.vision_config.patch_size

    def get_patch_grid_length(self) -> int:
        return self.vision_config.grid_size


class GridProcessingInfo(LlavaProcessingInfo):
    """LLaVA's, with the grid's number of tokens."""

    def get_vision_encoder_info(self) -> GridInfo:
        return GridInfo(self.get_hf_config())


@MULTIMODAL_REGISTRY.register_processor(
    LlavaMultiModalProcessor, info=GridProcessingInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class GridLlava(LlavaForConditionalGeneration):
    """LLaVA's class in vLLM, built around a grid tower."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        nn.Module.__init__(self)  # the parent's builds a tower of its own
        config = vllm_config.model_config.hf_config
        self.config = config
        self.multimodal_config = vllm_config.model_config.multimodal_config
        self.configure_mm_token_handling(
            vocab_size=config.text_config.vocab_size, mm_token_ids=[config.image_token_index]
        )
        with self._mark_tower_model(vllm_config, "image"):
            self.vision_tower = GridVisionModel(config.vision_config).eval()
            self.multi_modal_projector = LlavaMultiModalProjector(
                vision_hidden_size=config.vision_config.hidden_size,
                text_hidden_size=config.text_config.hidden_size,
                projector_hidden_act=config.projector_hidden_act,
                multimodal_projector_bias=config.multimodal_projector_bias,
                quant_config=vllm_config.quant_config,
                prefix=maybe_prefix(prefix, "multi_modal_projector"),
            )
        with self._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config, hf_config=config.text_config, prefix=maybe_prefix(prefix, "language_model")
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def _image_pixels_to_features(self, vision_tower: Any, pixel_values: Any) -> Tensor:
        return vision_tower(pixel_values).last_hidden_state
