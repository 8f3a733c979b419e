"""`llava-mocle convert` as people type it."""

import json

import joblib
import pytest
import torch
from peft import PeftModel
from sklearn.cluster import KMeans
from transformers import InstructBlipForConditionalGeneration

import llava_mocle.adapter  # noqa: F401  (makes PEFT know MoCLE)
from llava_mocle.cli.main import main
from llava_mocle.model.adapters import load_cluster_model
from tests.clustering.encoders import real_encoder_folder
from tests.conversion import authors

PROMPTS = ["What is in the picture?", "Question: how long is AB? Short answer:", "Describe the scan in detail."]


@pytest.fixture
def files(tmp_path):
    """A checkpoint of D 384 in the authors' format, its k-means over the real encoder's embeddings, and a base."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(real_encoder_folder()), device="cpu")
    kmeans = KMeans(3, n_init=1, random_state=0).fit(encoder.encode(PROMPTS))
    joblib.dump(kmeans, tmp_path / "cluster3.pkl", compress=3)
    state = authors.random_state(authors.bridge_shapes() | authors.expert_shapes(dim=384, clusters=3))
    torch.save({"model": state | authors.buffers()}, tmp_path / "c3_t005.pth")
    authors.base_folder(tmp_path / "base")
    return tmp_path, state, kmeans


@torch.no_grad()
def test_released(files, capsys):
    folder, state, kmeans = files
    flags = ["--released", f"{folder}/c3_t005.pth", "--kmeans", f"{folder}/cluster3.pkl", "--base", f"{folder}/base"]
    assert main(["convert", *flags, "--output", f"{folder}/out"]) == 2
    assert "give --temperature" in capsys.readouterr().err
    assert main(["convert", *flags, "--temperature", "0.05", "--output", f"{folder}/out"]) == 0
    printed = capsys.readouterr().out
    for said in ("K 3, D 384", "alpha 32", "Vicuna-7B v1.1", "all-MiniLM-L6-v2", "left out: position ids"):
        assert said in printed, said

    clusters = load_cluster_model(folder / "out", real_encoder_folder())
    ids = clusters.assign(PROMPTS)[0]
    from sentence_transformers import SentenceTransformer

    theirs = kmeans.predict(SentenceTransformer(str(real_encoder_folder()), device="cpu").encode(PROMPTS))
    assert ids.tolist() == theirs.tolist()
    assert sorted(ids) == [0, 1, 2]

    model = InstructBlipForConditionalGeneration.from_pretrained(folder / "base")
    model = PeftModel.from_pretrained(model, folder / "out").eval()
    batch = authors.batch(rows=3)
    expected = authors.their_logits(folder / "base", state, batch, theirs.tolist())
    found = model(**batch, cluster_ids=torch.from_numpy(ids)).logits
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)


def test_a_hostile_k_means_ends_in_one_line(files, capsys):
    folder, _, kmeans = files

    class Runs:
        def __reduce__(self):
            return eval, (f"open({str(folder / 'it_ran')!r}, 'w').close()",)

    kmeans.random_state = Runs()
    joblib.dump(kmeans, folder / "cluster3.pkl")
    flags = ["--released", f"{folder}/c3_t005.pth", "--kmeans", f"{folder}/cluster3.pkl", "--base", f"{folder}/base"]
    assert main(["convert", *flags, "--temperature", "0.05", "--output", f"{folder}/out"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "cluster3.pkl" in error
    assert "eval" in error
    assert error.count("\n") == 1
    assert not (folder / "it_ran").exists()
    assert not (folder / "out").exists()


def test_lavis_onto_a_base(tmp_path, capsys):
    authors.base_folder(tmp_path / "base")
    torch.save(authors.random_state(authors.bridge_shapes()), tmp_path / "trimmed.pth")
    flags = ["--lavis", f"{tmp_path}/trimmed.pth", "--base", f"{tmp_path}/base", "--output", f"{tmp_path}/out"]
    assert main(["convert", *flags]) == 0
    assert "trimmed.pth ->" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "instructblip"


WRONG = {
    "no kind": ([], "one of the arguments --released --lavis --llava-lora is required"),
    "two kinds": (["--released", "a", "--lavis", "b"], "not allowed with"),
    "no k-means": (["--released", "a", "--base", "b"], "--released needs --kmeans"),
    "no base": (["--llava-lora", "a"], "--llava-lora needs --base"),
    "another kind's flag": (["--lavis", "a", "--base", "b", "--kmeans", "c"], "--kmeans: does not go with --lavis"),
    "no such checkpoint": (["--lavis", "gone.pth", "--base", "b"], "gone.pth"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_flags(tmp_path, capsys, name):
    flags, message = WRONG[name]
    try:
        code = main(["convert", *flags, "--output", str(tmp_path / "out")])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err
