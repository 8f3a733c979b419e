"""Which kinds of model are known, by the `model_type` of their configuration. Free of torch."""

# model type -> family
MODEL_TYPES = {
    "llava": "llava",
    "instructblip": "instructblip",
    "llava_mocle_grid_instructblip": "instructblip",
    "llava_next": "processor",
    "llava_onevision": "processor",
    "qwen2_vl": "processor",
    "qwen2_5_vl": "processor",
    "qwen3_vl": "processor",
    "internvl": "processor",
    "smolvlm": "processor",
    "idefics3": "processor",
    "gemma3": "processor",
    "paligemma": "processor",
    "mistral3": "processor",
}


def is_known(model_type: str | None) -> bool:
    """Whether models of this type can be trained and asked."""
    return model_type in MODEL_TYPES


def known_types() -> list[str]:
    """The model types that are known, sorted."""
    return sorted(MODEL_TYPES)
