import argparse
import inspect

from llava_mocle.inference import Predictor
from llava_mocle.inference.flags import add_predictor_flags, predictor_options


def test_flags_are_all_that_a_predictor_takes():
    parser = argparse.ArgumentParser()
    add_predictor_flags(parser)
    words = ["--device", "cpu", "--dtype", "float32", "--load-4bit", "--allow-other-base", "--vision-tower", "tower"]
    args = parser.parse_args([*words, "--encoder", "encoder", "--far-to-universal", "--soft-assignment", "0.5"])
    assert predictor_options(args) == {
        "device": "cpu",
        "dtype": "float32",
        "bits": 4,
        "allow_other_base": True,
        "vision_tower": "tower",
        "encoder": "encoder",
        "far_to_universal": True,
        "soft_assignment": 0.5,
        "universal_beyond": None,
    }
    assert predictor_options(parser.parse_args(["--ood", "universal"]))["universal_beyond"] == 0.95
    # Each program has its own names for the rest.
    taken = inspect.signature(Predictor.from_pretrained).parameters
    assert set(taken) - set(predictor_options(args)) == {"path", "base", "template"}


def test_without_flags_a_predictor_is_as_without_options():
    parser = argparse.ArgumentParser()
    add_predictor_flags(parser)
    taken = inspect.signature(Predictor.from_pretrained).parameters
    for name, value in predictor_options(parser.parse_args([])).items():
        assert value == taken[name].default, name
