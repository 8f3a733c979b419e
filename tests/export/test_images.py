"""An image that was prepared for an engine becomes the pixels that training saw."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from llava_mocle.data.images import load_image, process_image
from llava_mocle.export.images import image_facts, prepare
from tests.inference import tiny

CONFIG = SimpleNamespace(vision_config=SimpleNamespace(image_size=32))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_same_pixels(kind: str, tmp_path: Path) -> None:
    processor = tiny.tiny_image_processor()
    if kind == "siglip":
        processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    facts = image_facts(CONFIG, processor, "pad", 4)
    for path in tiny.write_images(tmp_path, 3):
        image = load_image(path)
        ready = prepare(image, facts)
        assert ready.size == (32, 32)
        found = processor(images=ready, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(found, process_image(image, processor, "pad"))


def test_left_as_it_is() -> None:
    image = Image.new("RGB", (40, 24))
    processor = tiny.tiny_image_processor()
    assert prepare(image, image_facts(CONFIG, processor, "square", 4)) is image
    # This processor cuts the middle out of a larger image, so it must get the larger one.
    larger = CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 32, "width": 32})
    facts = image_facts(CONFIG, larger, "pad", 4)
    assert facts.resample is None
    assert prepare(image, facts).size == (40, 40)
