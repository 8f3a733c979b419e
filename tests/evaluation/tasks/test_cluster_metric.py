"""What is broken down by cluster is one of the metrics that a task returns: of every task, on its fixture."""

import pytest

from llava_mocle.evaluation.registry import all_tasks
from tests.evaluation.tasks.official_files import answers_to, data_root, make_images
from tests.evaluation.tasks.test_mme import IMAGES

# Pictures that are looked for when the questions are read.
PICTURES = {
    "ivqa": [f"ivqa/frames/{clip}/0.jpg" for clip in ("clip1", "clip2")],
    "mme": IMAGES,
    "msrvtt_qa": [f"msrvtt_qa/frames/video{number}/0.jpg" for number in (7010, 7011)],
    "msvd_qa": [f"msvd_qa/frames/{clip}/0.jpg" for clip in ("a1B2c3D4e5F_5_15", "-b2C3d4E5f6G_0_9")],
}


@pytest.mark.parametrize("name", all_tasks())
def test_the_metric_of_clusters_is_returned(tmp_path, name):
    task = all_tasks()[name]()
    root = data_root(tmp_path, task.sources[0].path.split("/")[0])
    make_images(*(root / picture for picture in PICTURES.get(name, ())))
    items = task.items(root)
    assert items
    scores = [[-1.0] * len(item.question.candidates) for item in items]
    returned = task.score(items, answers_to(items, ["yes"] * len(items), scores))
    assert (task.cluster_metric or returned.headline) in returned.metrics
