"""The cluster model of a bundle, and a copy of its sentence encoder, so that a router needs nothing else."""

import dataclasses
import logging
import os
import shutil
from pathlib import Path

from llava_mocle.clustering import ClusterModel
from llava_mocle.clustering.cluster_files import CONFIG_FILE
from llava_mocle.clustering.encoder import recorded_encoder
from llava_mocle.errors import AssetError
from llava_mocle.export.bundle import ENCODER_FOLDER
from llava_mocle.io.files import write_text
from llava_mocle.model.folders import CLUSTERS_FOLDER

logger = logging.getLogger(__name__)

# What an encoder's folder may hold besides what is loaded here.
_OTHER_FORMATS = ("onnx", "openvino", "*.h5", "*.ot", "*.onnx", ".git*", ".cache")


def write_clusters(folder: Path, cluster_model: ClusterModel, encoder: str | None) -> None:
    """Write clusters/, and encoder/ where the encoder is found; a warning says where it is not.

    Args:
        folder: the bundle.
        encoder: the encoder's folder, in place of the one that the cluster model names.
    """
    cluster_model.save(folder / CLUSTERS_FOLDER)
    config = cluster_model.config
    if os.path.isabs(config.encoder):
        # The name says where it was on the machine that trained; its hash says what it is.
        named = dataclasses.replace(config, encoder=Path(config.encoder).name)
        write_text(folder / CLUSTERS_FOLDER / CONFIG_FILE, named.to_json())
    reason = _copy(encoder or config.encoder, folder / ENCODER_FOLDER, config.encoder_weight_hash)
    if reason is not None:
        logger.warning(
            "the sentence encoder %r is not copied into the bundle; give its folder (--encoder), here or where the "
            "bundle is served. Why not: %s",
            config.encoder,
            reason,
        )


def _copy(name: str, target: Path, expected: str) -> str | None:
    """Copy an encoder's folder if it is the right one; returns why it was not copied.

    It is looked for wherever `Predictor` looks, so that what routes here routes in the bundle.
    """
    try:
        found = recorded_encoder(name, expected)
        if found.weight_hash != expected:
            return f"{found.folder} is another one"
    except AssetError as error:
        return str(error)
    shutil.copytree(found.folder, target, ignore=shutil.ignore_patterns(*_OTHER_FORMATS))
    return None
