import json
import shutil

import pytest

from llava_mocle.cli.main import main
from llava_mocle.inference import Predictor
from tests.clustering.encoders import record_devices
from tests.inference import tiny
from tests.inference.tiny import QUESTIONS


def test_prints_answer_cluster_and_explanation(checkpoint_dir, predictor, images, capsys):
    arguments = ["generate", "--model", str(checkpoint_dir), "--image", str(images[0]), "--prompt", QUESTIONS[0]]
    expected = predictor.predict(images[0], QUESTIONS[0], max_new_tokens=6)
    assert main([*arguments, "--max-new-tokens", "6", "--explain"]) == 0
    printed = capsys.readouterr().out
    assert f"cluster {expected.cluster_id}, distance {expected.cluster_distance:.3f}" in printed
    assert predictor.explain(QUESTIONS[0]).nearest_instructions[0] in printed
    assert "universal" in printed


def test_json_is_one_object(checkpoint_dir, predictor, capsys):
    arguments = ["generate", "--model", str(checkpoint_dir), "--prompt", QUESTIONS[1], "--json", "--explain"]
    assert main([*arguments, "--max-new-tokens", "6"]) == 0
    record = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    expected = predictor.predict(None, QUESTIONS[1], max_new_tokens=6)
    assert record["text"] == expected.text
    assert record["cluster_id"] == expected.cluster_id
    assert record["explanation"]["route_text"] == QUESTIONS[1]


def test_images_of_repeated_flags_are_all_shown(checkpoint_dir, images, capsys):
    files = ["--image", str(images[0]), "--image", str(images[1])]
    arguments = ["generate", "--model", str(checkpoint_dir), *files, "--prompt", "<image> Why?"]
    assert main(arguments) == 2
    assert "2 images" in capsys.readouterr().err


def test_mistakes_end_with_2_and_a_message(checkpoint_dir, base_dir, capsys):
    arguments = ["generate", "--model", str(checkpoint_dir), "--image", "missing.png", "--prompt", "Why?"]
    assert main(arguments) == 2
    assert "missing.png" in capsys.readouterr().err
    assert main(["generate", "--model", str(base_dir), "--prompt", "Why?", "--explain"]) == 2
    assert "no cluster model" in capsys.readouterr().err


@pytest.fixture(scope="module")
def lora_dir(base_dir, encoder_dir, checkpoint_dir, tmp_path_factory):
    """A plain LoRA with the cluster model that its validation losses were grouped by."""
    folder = tiny.write_checkpoint(tmp_path_factory.mktemp("lora") / "lora", base_dir, encoder_dir, router="none")
    shutil.copytree(checkpoint_dir / "clusters", folder / "clusters")
    return folder


def test_a_prompt_that_is_no_text_is_refused_before_the_model_is_loaded(capsys):
    assert main(["generate", "--model", "nowhere", "--prompt", "Why \udcff?"]) == 2
    assert "--prompt 'Why \\udcff?' holds half a surrogate pair (U+DCFF) at character 4" in capsys.readouterr().err


def test_a_plain_lora_says_that_nothing_is_routed(lora_dir, capsys):
    arguments = ["generate", "--model", str(lora_dir), "--prompt", QUESTIONS[0], "--max-new-tokens", "2", "--explain"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "nothing is routed by this cluster" in printed
    assert QUESTIONS[0] in printed
    assert "mean gate" not in printed


def test_a_dataset_is_refused_where_none_routes(checkpoint_dir, lora_dir, capsys):
    for folder, words in ((checkpoint_dir, "is routed by cluster"), (lora_dir, "routes nothing")):
        assert main(["generate", "--model", str(folder), "--prompt", "Why?", "--dataset", "foo"]) == 2
        error = capsys.readouterr().err
        assert "--dataset is 'foo'" in error
        assert words in error


def test_collapse_takes_a_cluster_where_there_are_clusters(checkpoint_dir, lora_dir, tmp_path, capsys):
    out = ["--output", str(tmp_path / "out")]
    for folder, cluster, words in (
        (lora_dir, ["--cluster", "1"], "plain LoRA"),
        (checkpoint_dir, [], "--cluster"),
        (checkpoint_dir, ["--cluster", "3"], "has clusters 0 to 2"),
    ):
        assert main(["collapse", "--model", str(folder), *cluster, *out]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["collapse", "--model", str(lora_dir), *out]) == 0
    assert capsys.readouterr().out == f"{lora_dir} -> {tmp_path / 'out'} (a plain LoRA adapter)\n"


def test_square_brackets_are_text_not_markup(capsys):
    from llava_mocle.cli.generate import _print_text
    from llava_mocle.inference import Prediction

    _print_text(Prediction("[bold]a[/bold] [x]", None, None, 3), None)
    assert "[bold]a[/bold] [x]" in capsys.readouterr().out


@pytest.mark.parametrize("beams", ["0", "-1"])
def test_bad_settings(checkpoint_dir, beams, capsys):
    assert main(["generate", "--model", str(checkpoint_dir), "--prompt", "Why?", "--num-beams", beams]) == 2
    assert "num_beams" in capsys.readouterr().err


def test_the_encoder_runs_where_the_flag_says(checkpoint_dir, monkeypatch, capsys):
    """`--device cpu` beside a GPU leaves it alone."""
    asked = record_devices(monkeypatch)
    words = ["generate", "--model", str(checkpoint_dir), "--prompt", QUESTIONS[0], "--max-new-tokens", "2"]
    assert main([*words, "--device", "cpu"]) == 0
    assert set(asked) == {"cpu"}


@pytest.mark.parametrize("bits", [4, 8])
def test_llavas_flags_store_the_language_model_in_fewer_bits(checkpoint_dir, bits, capsys):
    arguments = [
        "generate",
        "--model",
        str(checkpoint_dir),
        "--prompt",
        QUESTIONS[1],
        "--json",
        "--max-new-tokens",
        "6",
    ]
    assert main([*arguments, f"--load-{bits}bit"]) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out.strip().splitlines()[-1])
    expected = Predictor.from_pretrained(checkpoint_dir, bits=bits).predict(None, QUESTIONS[1], max_new_tokens=6)
    assert (record["text"], record["cluster_id"]) == (expected.text, expected.cluster_id)
    assert "MatMul8bitLt" not in captured.err  # it would be said in every product


def test_one_of_llavas_flags_at_most(checkpoint_dir, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["generate", "--model", str(checkpoint_dir), "--prompt", "Why?", "--load-4bit", "--load-8bit"])
    assert ended.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
