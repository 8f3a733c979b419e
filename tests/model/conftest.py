import os

import pytest
import torch
from peft import get_peft_model
from transformers import LlavaForConditionalGeneration

from llava_mocle.model import build_llava, load_model
from tests.clustering.encoders import FakeEncoder
from tests.model import parts
from tests.model.checkpoints import INSTRUCTIONS, TARGETS, logits_of, randomise, write_extras


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Models this small run slower on several threads, and far slower beside other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def usual_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def language_model(tmp_path_factory):
    return parts.save_language_model(tmp_path_factory.mktemp("parts") / "llama")


@pytest.fixture(scope="session")
def clip_tower(tmp_path_factory):
    return parts.save_clip(tmp_path_factory.mktemp("parts") / "clip")


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory, language_model, clip_tower):
    """A tiny LLaVA base folder; tests only read it."""
    return build_llava(language_model, clip_tower, tmp_path_factory.mktemp("base") / "llava")


@pytest.fixture
def llava(base_folder):
    return LlavaForConditionalGeneration.from_pretrained(base_folder).eval()


@pytest.fixture(scope="session")
def cluster_model():
    from llava_mocle.clustering import ClusterModel

    return ClusterModel.fit(INSTRUCTIONS, 3, encoder=FakeEncoder(), progress=False)


@pytest.fixture(scope="session")
def mocle_folder(tmp_path_factory, base_folder, cluster_model):
    return write_mocle(tmp_path_factory.mktemp("run") / "checkpoint-5", base_folder, cluster_model)


def write_mocle(folder, base_folder, cluster_model):
    """A MoCLE checkpoint with random experts and a changed projector, and the logits its writer saw."""
    from llava_mocle.adapter import MocleConfig

    loaded = load_model(base_folder)
    cluster_model.save(folder / "clusters")
    config = MocleConfig(
        task_type="CAUSAL_LM", target_modules=TARGETS, modules_to_save=["multi_modal_projector"], r=4,
        centroids=str(folder / "clusters"),
    )  # fmt: skip
    model = get_peft_model(loaded.model, config).eval()
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    randomise(model, trainable.__contains__)
    model.save_pretrained(folder)
    write_extras(folder, loaded, version="llama_2", image_aspect_ratio="square", model_max_length=99)
    logits = logits_of(model, loaded.image_token_id, cluster_ids=torch.tensor([0, 2, 1]))
    return folder, logits
