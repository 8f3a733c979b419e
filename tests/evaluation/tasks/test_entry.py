"""What `results.json` holds of every task, on its fixture."""

import json

import pytest

from llava_mocle.evaluation.registry import all_tasks
from llava_mocle.evaluation.suite import score_task
from tests.evaluation.tasks.official_files import answers_to, data_root, make_images
from tests.evaluation.tasks.test_cluster_metric import PICTURES


@pytest.mark.parametrize("name", all_tasks())
def test_every_task_has_an_entry_and_a_digest_of_its_questions(tmp_path, name):
    task = all_tasks()[name]()
    root = data_root(tmp_path, task.sources[0].path.split("/")[0])
    make_images(*(root / picture for picture in PICTURES.get(name, ())))
    items = task.items(root)
    scores = [[-1.0] * len(item.question.candidates) for item in items]
    answers = [
        answer | {"metadata": answer.get("metadata", {}) | {"cluster_id": number % 2}}
        for number, answer in enumerate(answers_to(items, ["yes"] * len(items), scores))
    ]
    entry = score_task(task, items, answers)
    assert json.dumps(entry)
    assert entry["items_digest"] == score_task(task, task.items(root), answers)["items_digest"]
    assert entry["n"] == len(items)
    assert entry["headline"] in entry["metrics"]
