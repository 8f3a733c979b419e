"""transformers' processors, as they are for images. They open without torchvision, which only their videos need."""

from pathlib import Path
from typing import Any

import transformers

from llava_mocle.errors import CheckpointError
from llava_mocle.io.jsonl import read_json

_VIDEO = "video_processor"
_OLDER_VIDEO_FILE = "video_preprocessor_config.json"


class VideoSettings(dict):
    """A folder's settings for videos: kept as they are, and written again with a checkpoint."""

    # What transformers asks of every part of a processor.
    model_input_names: tuple[str, ...] = ()
    _auto_class = None


class _ImagesOnly:
    """A processor whose place for videos holds `VideoSettings`."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if isinstance(argument, VideoSettings):
            return VideoSettings
        return super().check_argument_for_proper_class(argument_name, argument)  # type: ignore[misc]


# Each has the name of its parent, which goes into the processor_config.json of checkpoints.
class LlavaOnevisionProcessor(_ImagesOnly, transformers.LlavaOnevisionProcessor):
    """LLaVA-OneVision's."""


class Qwen2VLProcessor(_ImagesOnly, transformers.Qwen2VLProcessor):
    """Qwen2-VL's."""


class Qwen2_5_VLProcessor(_ImagesOnly, transformers.Qwen2_5_VLProcessor):
    """Qwen2.5-VL's."""


class Qwen3VLProcessor(_ImagesOnly, transformers.Qwen3VLProcessor):
    """Qwen3-VL's."""


class InternVLProcessor(_ImagesOnly, transformers.InternVLProcessor):
    """InternVL's."""


class SmolVLMProcessor(transformers.Idefics3Processor):
    """SmolVLM's. It writes images as Idefics3's does; its own differs in videos alone, and needs num2words for them."""


class PixtralProcessor(transformers.ProcessorMixin):
    """Mistral 3's, written here because transformers' own cannot be imported without torchvision.

    An image becomes rows of `[IMG]`, one for each square of `spatial_merge_size` patches a side. `[IMG_BREAK]` ends a
    row, and `[IMG_END]` the last one. A sample's only image has to be more than one token.

    Args:
        patch_size: side of a patch of the vision tower, in pixels.
        spatial_merge_size: how many patches a side become one token.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        patch_size: int = 16,
        spatial_merge_size: int = 1,
        chat_template: Any = None,
        image_token: str = "[IMG]",
        image_break_token: str = "[IMG_BREAK]",
        image_end_token: str = "[IMG_END]",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.patch_size = patch_size
        self.spatial_merge_size = spatial_merge_size
        self.image_token = image_token
        self.image_break_token = image_break_token
        self.image_end_token = image_end_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)

    @property
    def side(self) -> int:
        """Side of what one token stands for, in pixels."""
        return self.patch_size * self.spatial_merge_size

    def _process_images(self, images: Any, **kwargs: Any) -> Any:
        return super()._process_images(images, **kwargs | {"patch_size": self.side})

    def replace_image_token(self, image_inputs: Any, image_idx: int, **kwargs: Any) -> str:
        sizes = image_inputs["image_sizes"]
        height, width = sizes[image_idx]
        if len(sizes) == 1 and max(height, width) <= self.side:
            # transformers' model takes the only token of a batch's images for a whole image, and fails.
            raise ValueError(
                f"a side of it has at most {self.side} pixels, so it is one token, which Mistral 3 cannot read"
            )
        row = self.image_token * int(width // self.side)
        return self.image_break_token.join([row] * int(height // self.side)) + self.image_end_token


def open_processor(
    processor_class: Any, folder: Path, defaults: dict[str, Any], tokenizer: Any, image_processor: Any
) -> Any:
    """The processor of a folder, around a tokenizer and an image processor.

    Args:
        processor_class: which.
        folder: may hold a processor_config.json and a chat template.
        defaults: what holds where the folder does not say.

    Raises:
        CheckpointError: its files are damaged, or tokenizer or image processor are of another kind.
    """
    try:
        settings, _ = processor_class.get_processor_dict(folder)
        parts = {"tokenizer": tokenizer, "image_processor": image_processor}
        if _VIDEO in processor_class.get_attributes():
            parts[_VIDEO] = VideoSettings(settings.get(_VIDEO) or _older_video_settings(folder))
        arguments = [parts[name] for name in processor_class.get_attributes()]
        processor = processor_class.from_args_and_dict(arguments, defaults | settings)
    except Exception as error:
        raise CheckpointError(
            f"{folder}: its processor cannot be opened ({type(error).__name__}: {error}); expected the files of a "
            f"{processor_class.__name__}: tokenizer, preprocessor_config.json, processor_config.json, chat template."
        ) from error
    if processor.chat_template is None:
        processor.chat_template = tokenizer.chat_template
    return processor


def _older_video_settings(folder: Path) -> dict[str, Any]:
    file = folder / _OLDER_VIDEO_FILE
    return read_json(file) if file.is_file() else {}
