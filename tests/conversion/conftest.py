import pytest
import torch

from llava_mocle.model import build_llava
from tests.clustering.encoders import make_tiny_encoder
from tests.conversion import authors
from tests.model import parts as llava_parts


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Models this small run slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def parts(tmp_path_factory):
    """An InstructBLIP base, a k-means and a sentence encoder, in one folder; tests only read it."""
    folder = tmp_path_factory.mktemp("parts")
    authors.base_folder(folder / "base")
    authors.write_kmeans(folder / "kmeans.pkl")
    make_tiny_encoder(folder / "encoder")
    return folder


@pytest.fixture(scope="package")
def llava_folder(tmp_path_factory):
    """A LLaVA base folder, with its parts beside it: `language` and `clip`."""
    folder = tmp_path_factory.mktemp("llava")
    llava_parts.save_language_model(folder / "language")
    llava_parts.save_clip(folder / "clip")
    return build_llava(folder / "language", folder / "clip", folder / "base")
