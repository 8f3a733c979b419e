"""Which kinds of model are known, by the `model_type` of their configuration. Free of torch."""

# model type -> family
MODEL_TYPES = {
    "instructblip": "instructblip",
    "llava": "llava",
    "llava_mocle_grid_instructblip": "instructblip",
}


def is_known(model_type: str | None) -> bool:
    """Whether models of this type can be trained and asked."""
    return model_type in MODEL_TYPES


def known_types() -> list[str]:
    """The model types that are known, sorted."""
    return sorted(MODEL_TYPES)
