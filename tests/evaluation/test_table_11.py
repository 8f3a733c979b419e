"""Every prompt of the paper's Table 11, as the paper writes it; and which of its benchmarks rank their candidates.

Source: Gou et al., Mixture of Cluster-conditional LoRA Experts for Vision-language Instruction Tuning, Table 11. What
is ranked: InstructBLIP (arXiv 2305.06500), "Inference Methods": ScienceQA, IconQA, A-OKVQA's choices, HatefulMemes and
Visual Dialog, and more words for the classes of binary tasks, of which VSR is one. (MSVD and MSRVTT are ranked there
too, among the answers of training; here they are answered in words.)
"""

import re

import pytest

from llava_mocle.evaluation.registry import all_tasks
from tests.evaluation.tasks.official_files import data_root, make_images
from tests.evaluation.tasks.test_cluster_metric import PICTURES

SHORT = "Question: {} Short answer:"
CHOICE = "Question: {} Options: {}. Short answer:"
CAPTION = "A short image description:"
TABLE_11 = {
    **dict.fromkeys(("gqa", "ivqa", "msvd_qa", "msrvtt_qa", "okvqa", "vqav2", "vqav2_val", "aokvqa_direct"), SHORT),
    **dict.fromkeys(("aokvqa_mc", "iconqa"), CHOICE),
    **dict.fromkeys(("nocaps", "flickr30k"), CAPTION),
    "textvqa": "OCR tokens: {}. Question: {} Short answer:",
    "scienceqa": "Context: {} Question: {} Options: {}. Answer:",
    "hatefulmemes": 'This is an image with: "{}" written on it. Is it hateful? Answer:',
    "vsr": 'Based on the image, is this statement true or false? "{}" Answer:',
    "visdial": "Dialog history: {}\n Question: {} Short answer:",
}
RANKED = {"aokvqa_mc", "iconqa", "scienceqa", "hatefulmemes", "visdial", "vsr"}


def items_of(name: str, tmp_path):
    task = all_tasks()[name]()
    root = data_root(tmp_path, task.sources[0].path.split("/")[0])
    make_images(*(root / picture for picture in PICTURES.get(name, ())))
    return task.items(root, "instructblip")


@pytest.mark.parametrize("name", TABLE_11)
def test_prompts_are_those_of_the_paper(tmp_path, name: str) -> None:
    # Marks of images stand for nothing. A problem of ScienceQA may have no hint, a dialog of one round no history.
    written = TABLE_11[name]
    prompts = [item.question.prompt.removeprefix("<image>\n") for item in items_of(name, tmp_path)]
    templates = [written, written.removeprefix("Context: {} ")] if name == "scienceqa" else [written]

    def fits(prompt: str, template: str, gap: str) -> bool:
        return re.fullmatch(re.escape(template).replace(r"\{\}", gap), prompt, re.DOTALL) is not None

    assert all(any(fits(prompt, template, ".*") for template in templates) for prompt in prompts), prompts
    assert any(fits(prompt, written, ".+") for prompt in prompts)


@pytest.mark.parametrize("name", TABLE_11)
def test_what_is_ranked(tmp_path, name: str) -> None:
    assert {bool(item.question.candidates) for item in items_of(name, tmp_path)} == {name in RANKED}


def test_options_are_listed_as_in_training(tmp_path) -> None:
    """Table 10's caption: (a) option 1 (b) option 2."""
    prompts = [item.question.prompt for item in items_of("aokvqa_mc", tmp_path)]
    assert all(re.search(r" Options: \(a\) .+ \(b\) .+\. Short answer:$", prompt) for prompt in prompts)
