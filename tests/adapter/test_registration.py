"""PEFT knows MoCLE by its name, and is quiet about what nobody can change."""

import subprocess
import sys
import warnings

from peft import PeftConfig, get_peft_config, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from llava_mocle.adapter import MocleConfig, MocleModel
from llava_mocle.adapter.registration import register

from .helpers import config, tiny_llama, tiny_peft


def test_pefts_maps_know_the_type():
    assert PEFT_TYPE_TO_CONFIG_MAPPING["MOCLE"] is MocleConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING["MOCLE"] is MocleModel
    assert PEFT_TYPE_TO_PREFIX_MAPPING["MOCLE"] == "mocle_"


def test_peft_makes_and_reads_the_configuration(tmp_path):
    made = get_peft_config(config().to_dict())
    assert isinstance(made, MocleConfig)
    assert isinstance(get_peft_model(tiny_llama(), made).base_model, MocleModel)
    config(r=5).save_pretrained(tmp_path)
    read = PeftConfig.from_pretrained(tmp_path)
    assert isinstance(read, MocleConfig)
    assert read.r == 5


def test_importing_the_package_registers():
    code = "import llava_mocle.adapter, peft.mapping; assert 'MOCLE' in peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_wrapping_a_model_warns_of_nothing():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        register()
        tiny_peft()
    assert [str(warning.message) for warning in caught] == []
