"""What holds of every task: how long its answers may be, and how many questions its files hold."""

import pytest

from llava_mocle.evaluation.registry import all_tasks
from tests.evaluation.tasks.official_files import data_root, make_images
from tests.evaluation.tasks.test_cluster_metric import PICTURES

# LLaVA-1.5 asks for one caption; a letter may come with its option's text; reasoning and open answers are long.
TOKENS = {
    **dict.fromkeys(("flickr30k", "nocaps"), 64),
    **dict.fromkeys(("aokvqa_mc", "iconqa", "mmbench", "mmbench_cn"), 128),
    **dict.fromkeys(("scienceqa", "seed_bench", "seed_bench_image"), 128),
    **dict.fromkeys(("vqa_rad", "slake", "pathvqa"), 128),
    **dict.fromkeys(("geoqa", "llava_bench", "mm_vet"), 1024),
}
# As the benchmarks' authors state them; POPE: three splits of 3,000, MMBench: lines of the files, MME: two an image.
PUBLISHED = {
    "aokvqa_mc": 1145,
    "flickr30k": 1000,
    "geoqa": 754,
    "gqa": 12_578,
    "hatefulmemes": 500,
    "hatefulmemes_test": 1000,
    "iconqa": 6316,
    "mmbench": 4377,
    "mmbench_cn": 4329,
    "mme": 2 * 1187,
    "msrvtt_qa": 72_821,
    "msvd_qa": 13_157,
    "nocaps": 4500,
    "okvqa": 5046,
    "pope": 3 * 3000,
    "scienceqa": 4241,
    "seed_bench_image": 14_233,
    "slake": 1061,
    "textvqa": 5000,
    "visdial": 2064,
    "vizwiz": 8000,
    "vizwiz_val": 4319,
    "vqa_rad": 200 + 251,
    "vqav2": 107_394,
    "vqav2_val": 214_354,
    "vsr": 1222,
}


def test_how_long_answers_may_be():
    assert {name: task.max_new_tokens for name, task in all_tasks().items() if task.max_new_tokens != 16} == TOKENS


def test_how_many_questions_are_published():
    theirs = ("llava_bench", "mm_vet")
    known = {name: task.official_n for name, task in all_tasks().items() if task.official_n and name not in theirs}
    assert known == PUBLISHED


@pytest.mark.parametrize("name", all_tasks())
def test_counting_is_reading_without_writing(tmp_path, name):
    task = all_tasks()[name]()
    root = data_root(tmp_path, task.sources[0].path.split("/")[0])
    make_images(*(root / picture for picture in PICTURES.get(name, ())))
    before = sorted(root.rglob("*"))
    n = task.count(root)
    assert sorted(root.rglob("*")) == before
    assert n == len(task.items(root)) > 0
