"""A convolutional vision tower: EfficientNet-Lite whose last feature map, pooled to a grid, becomes the image tokens.

It fits `LlavaForConditionalGeneration` unchanged with `vision_feature_select_strategy="full"` and
`vision_feature_layer=-1`. It needs the package `efficientnet-lite-pytorch` (extra `demo`).
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from llava_mocle.errors import AssetError, ConfigError

# All of EfficientNet-Lite keeps its head at this width and halves the image five times.
_HEAD_CHANNELS = 1280
_TOTAL_STRIDE = 32
_BACKBONES = tuple(f"efficientnet-lite{i}" for i in range(5))


class GridVisionConfig(PreTrainedConfig):
    """Configuration of `GridVisionModel`.

    Args:
        backbone: one of `efficientnet-lite0` to `efficientnet-lite4`.
        image_size: height and width of the input in pixels.
        grid_size: the feature map is average-pooled to grid_size x grid_size tokens.
        hidden_size: channels of a token; fixed by the backbone.
        feature_cache_size: images whose frozen features are kept in memory (0: none). An entry takes
            grid_size ** 2 * 5 KiB in float32, 80 KiB on a 4 x 4 grid.
        standardize: subtract each channel's mean and divide by its deviation; `calibrate` sets both.
    """

    model_type = "llava_mocle_grid"
    base_config_key = "vision_config"

    backbone: str = "efficientnet-lite0"
    image_size: int = 224
    grid_size: int = 4
    num_channels: int = 3
    hidden_size: int = _HEAD_CHANNELS
    feature_cache_size: int = 0
    standardize: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        native = math.ceil(self.image_size / _TOTAL_STRIDE)
        if self.backbone not in _BACKBONES:
            raise ConfigError(f"GridVisionConfig: backbone is {self.backbone!r}; use one of {', '.join(_BACKBONES)}.")
        if not 1 <= self.grid_size <= native:
            raise ConfigError(
                f"GridVisionConfig: grid_size is {self.grid_size}, but an image of {self.image_size} px gives a "
                f"{native} x {native} feature map; choose 1 to {native}, or a larger image_size."
            )
        if self.hidden_size != _HEAD_CHANNELS or self.num_channels != 3:
            raise ConfigError(
                f"GridVisionConfig: hidden_size is {self.hidden_size} and num_channels {self.num_channels}, but "
                f"{self.backbone} turns 3 channels into {_HEAD_CHANNELS}; leave both out."
            )
        if self.feature_cache_size < 0:
            raise ConfigError(f"GridVisionConfig: feature_cache_size is {self.feature_cache_size}; it cannot be < 0.")

    @property
    def patch_size(self) -> int:
        """Pixels a token covers along a side, as `LlavaProcessor` counts image tokens."""
        return self.image_size // self.grid_size


class GridVisionModel(PreTrainedModel):
    """EfficientNet-Lite as a vision tower: pixel_values (N, 3, H, W) -> (N, grid_size ** 2, 1280).

    The backbone always runs in inference mode (running statistics of BatchNorm, no stochastic depth), also under
    `train()`. Where no gradient is needed each image goes through it alone and outside autocast, so its features
    depend on nothing but its pixels: neither on the batch around it nor on whether the cache already held them.
    """

    config_class = GridVisionConfig
    base_model_prefix = "grid"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # There is no attention here; any implementation chosen for the language model is fine.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules: list[str] = []  # noqa: RUF012

    def __init__(self, config: GridVisionConfig):
        super().__init__(config)
        self.backbone: Any = _build_backbone(config)
        if config.standardize:
            self.register_buffer("feature_mean", torch.zeros(config.hidden_size))
            self.register_buffer("feature_std", torch.ones(config.hidden_size))
        self.feature_cache_size = config.feature_cache_size
        self._cache: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._cache_stamp: int | None = None
        self.post_init()
        self.backbone.eval()

    @classmethod
    def from_backbone_weights(
        cls,
        weights: Mapping[str, torch.Tensor],
        grid_size: int = 4,
        *,
        backbone: str = "efficientnet-lite0",
        **config_fields: Any,
    ) -> "GridVisionModel":
        """Build from published backbone weights; the classifier (`_fc`) is left out.

        Raises:
            AssetError: they are not the weights of this backbone.
        """
        model = cls(GridVisionConfig(backbone=backbone, grid_size=grid_size, **config_fields))
        state = {name: value for name, value in weights.items() if not name.startswith("_fc.")}
        try:
            model.backbone.load_state_dict(state)
        except RuntimeError as error:
            raise AssetError(f"not the weights of {backbone}: {str(error).splitlines()[-1].strip()}") from error
        return model.eval()

    @torch.no_grad()
    def calibrate(self, images: Iterable[torch.Tensor]) -> None:
        """Set the mean and standard deviation of every channel from these images (each (3, H, W)).

        The features are positive and mostly the same for all images. A projector learns their differences several
        times faster without that common part. Needs `config.standardize`.
        """
        features = torch.cat([self._frozen_features(image[None])[0] for image in images]).double()
        self.feature_mean.copy_(features.mean(dim=0))
        # A lower limit, so that a channel that is almost always zero is not divided by almost zero.
        self.feature_std.copy_(features.std(dim=0).clamp(min=0.05))

    def train(self, mode: bool = True) -> "GridVisionModel":
        super().train(mode)
        # BatchNorm would otherwise learn the statistics of a few images and change the frozen features.
        self.backbone.eval()
        return self

    def _apply(self, *args: Any, **kwargs: Any) -> "GridVisionModel":
        self.clear_cache()
        return super()._apply(*args, **kwargs)

    def clear_cache(self) -> None:
        """Forget the cached features."""
        self._cache.clear()

    @property
    def cached_images(self) -> int:
        """How many images' features are held."""
        return len(self._cache)

    def forward(self, pixel_values: torch.Tensor, return_dict: bool | None = None, **kwargs: Any) -> Any:
        """Features of a batch.

        Args:
            pixel_values: (N, 3, H, W), any floating dtype; H = W = `config.image_size`.

        Returns:
            `last_hidden_state` (N, grid_size ** 2, 1280), row-major over the grid, in the dtype of the weights;
            `hidden_states` is the tuple of that one tensor; `pooler_output` (N, 1280) its mean.
        """
        size = self.config.image_size
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != (3, size, size):
            raise ValueError(f"pixel_values has shape {tuple(pixel_values.shape)}, expected (N, 3, {size}, {size})")
        pixel_values = pixel_values.to(dtype=self.backbone._conv_head.weight.dtype)
        if self._needs_grad(pixel_values) or self._is_partitioned():
            features = self._features(pixel_values)
        else:
            features = self._frozen_features(pixel_values)
        if self.config.standardize:
            features = (features - self.feature_mean) / self.feature_std
        output = BaseModelOutputWithPooling(
            last_hidden_state=features, pooler_output=features.mean(dim=1), hidden_states=(features,)
        )
        return output.to_tuple() if return_dict is False else output

    def _features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, grid_size ** 2, 1280)."""
        grid = self.backbone.extract_features(pixel_values)
        grid = nn.functional.adaptive_avg_pool2d(grid, self.config.grid_size)
        return grid.flatten(2).transpose(1, 2).contiguous()

    @torch.no_grad()
    def _frozen_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        use_cache = self.feature_cache_size > 0
        if use_cache:
            self._drop_stale_cache()
        rows = []
        with torch.autocast(pixel_values.device.type, enabled=False):
            for image in pixel_values:
                key = _content_key(image) if use_cache else b""
                row = self._cache.pop(key, None)
                if row is None:
                    row = self._features(image[None])[0]
                if use_cache:
                    self._cache[key] = row  # the last in the order, so the last to be dropped
                    if len(self._cache) > self.feature_cache_size:
                        self._cache.popitem(last=False)
                rows.append(row)
        if not rows:
            return pixel_values.new_zeros(0, self.config.grid_size**2, self.config.hidden_size)
        return torch.stack(rows)

    def _needs_grad(self, pixel_values: torch.Tensor) -> bool:
        if not torch.is_grad_enabled():
            return False
        return pixel_values.requires_grad or any(p.requires_grad for p in self.backbone.parameters())

    def _is_partitioned(self) -> bool:
        # Under ZeRO-3 all ranks must call a module equally often; otherwise they wait for each other for ever.
        return hasattr(self.backbone._conv_head.weight, "ds_id")

    def _drop_stale_cache(self) -> None:
        tensors = [*self.backbone.parameters(), *self.backbone.buffers()]
        stamp = hash(tuple((id(t), 0 if t.is_inference() else t._version) for t in tensors))
        if stamp != self._cache_stamp:
            self.clear_cache()
            self._cache_stamp = stamp


def _content_key(image: torch.Tensor) -> bytes:
    """Digest of one image's values; its shape and dtype are fixed by the model."""
    raw = image.detach().contiguous().cpu().view(torch.uint8).numpy()
    return hashlib.blake2b(raw.data, digest_size=16).digest()


def _build_backbone(config: GridVisionConfig) -> nn.Module:
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise AssetError(
            "The grid vision tower needs the package efficientnet-lite-pytorch, which is not installed: "
            "pip install 'llava_mocle[demo]'"
        ) from error
    backbone = EfficientNet.from_name(config.backbone, image_size=config.image_size)
    # The classifier is never used; it would add a million weights to every checkpoint.
    backbone._fc = nn.Identity()
    return backbone


def register() -> None:
    """Make the tower known to `AutoConfig` and `AutoModel` (done on importing `llava_mocle.model`)."""
    AutoConfig.register(GridVisionConfig.model_type, GridVisionConfig, exist_ok=True)
    AutoModel.register(GridVisionConfig, GridVisionModel, exist_ok=True)
