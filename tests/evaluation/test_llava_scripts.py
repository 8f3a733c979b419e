"""The suite's own answers files as LLaVA's scorers and converters take them.

Each test reads the lines as the script of that name does: which keys, ids of which types, in which order. It is written
from what the script needs, and fails where the script raises or counts nothing.
"""

import json
import re

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.registry import all_tasks
from llava_mocle.evaluation.suite import SuiteSettings, evaluate_tasks
from tests.evaluation.fakes import FakePredictor
from tests.evaluation.tasks.official_files import data_root, make_images


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def answered(tmp_path, name, folder, *, prompts="llava", text=None):
    """The data root, and the lines of the answers file that a run of the suite writes."""
    root = data_root(tmp_path / "data", folder)
    task = all_tasks()[name]()
    if name == "mme":
        from tests.evaluation.tasks.test_mme import IMAGES

        make_images(*(root / image for image in IMAGES))
    items = task.items(root, prompts)
    for image in {image for item in items for image in item.question.images}:
        image.parent.mkdir(parents=True, exist_ok=True)
        image.touch()  # nobody looks at it, and SEED-Bench's have no ending
    for source in task.sources:
        if not (root / source.path).exists() and source.needed:
            (root / source.path).mkdir(parents=True)
    says = {item.question.prompt: text(item) for item in items} if text else {}
    evaluate_tasks(FakePredictor(says), [task], root, tmp_path / "out", SuiteSettings(prompts=prompts))
    return root, lines_of(tmp_path / "out" / "answers" / f"{name}.jsonl")


def test_eval_pope(tmp_path):
    """The question file by id, with a category a question; the answers of a category in the order of its file."""
    root, answers = answered(tmp_path, "pope", "pope", text=lambda item: item.reference)
    questions = {
        line["question_id"]: line for line in lines_of(tmp_path / "out/submissions/pope/llava_pope_test.jsonl")
    }
    assert len(questions) == len(answers) == 6
    for category in ("adversarial", "popular", "random"):
        labels = [line["label"] for line in lines_of(root / f"pope/coco/coco_pope_{category}.json")]
        own = [answer for answer in answers if questions[answer["question_id"]]["category"] == category]
        assert [answer["text"] for answer in own] == labels
    # LLaVA's own question file, from its archive eval.zip: the first of each category.
    llavas = {1: "adversarial", 10000001: "random", 20000001: "popular"}
    assert {number: questions[number]["category"] for number in llavas} == llavas
    assert questions[1] == {
        "question_id": 1,
        "image": "COCO_val2014_000000000042.jpg",
        "text": "Is there a kite in the image?\nAnswer the question using a single word or phrase.",
        "category": "adversarial",
    }


@pytest.mark.parametrize("prompts", ["llava", "instructblip"])
def test_eval_science_qa(tmp_path, prompts):
    """Answers by problem id, a text; the prompt says whether there is an image. Without one it divides by zero."""
    root, answers = answered(tmp_path, "scienceqa", "scienceqa", prompts=prompts)
    predictions = {answer["question_id"]: answer for answer in answers}
    problems = json.loads((root / "scienceqa/problems.json").read_text())
    test = json.loads((root / "scienceqa/pid_splits.json").read_text())["test"]
    assert list(predictions) == test
    for pid in test:
        assert ("<image>" in predictions[pid]["prompt"]) == bool(problems[pid]["image"])
    assert any("<image>" in answer["prompt"] for answer in answers)


def textvqa_question(prompt):
    """The question that the scorer reads out of a prompt."""
    if prompt.startswith("OCR tokens: "):
        return re.search(r"Question: (.*?) Short answer:", prompt, re.DOTALL).group(1).lower()
    lines = prompt.split("\n")
    assert "Reference OCR token: " in prompt
    assert len(lines) == 3
    return lines[0].lower()


@pytest.mark.parametrize("prompts", ["llava", "instructblip"])
def test_eval_textvqa(tmp_path, prompts):
    root, answers = answered(tmp_path, "textvqa", "textvqa", prompts=prompts)
    data = json.loads((root / "textvqa/TextVQA_0.5.1_val.json").read_text())["data"]
    annotations = {(record["image_id"], record["question"].lower()): record for record in data}
    found = [annotations[answer["question_id"], textvqa_question(answer["prompt"])] for answer in answers]
    assert found == data


def test_convert_seed_for_submission(tmp_path):
    """An id is a number where the file's is one in digits; then the text is compared with the letter."""
    root, answers = answered(tmp_path, "seed_bench", "seed_bench", text=lambda item: "ABCD"[item.reference])
    rows = {answer["question_id"]: answer for answer in answers}
    questions = json.loads((root / "seed_bench/SEED-Bench.json").read_text())["questions"]
    right = 0
    for question in questions:
        try:
            name = int(question["question_id"])
        except ValueError:
            name = question["question_id"]
        right += rows[name]["text"] == question["answer"]
    assert right == len(questions) == 4
    upload = lines_of(tmp_path / "out/submissions/seed_bench/results.jsonl")
    assert [line["question_id"] for line in upload] == [question["question_id"] for question in questions]


def test_convert_mmvet_for_eval(tmp_path):
    root, answers = answered(tmp_path, "mm_vet", "mm-vet")
    result = {f"v1_{answer['question_id']}": answer["text"] for answer in answers}
    assert list(result) == list(json.loads((root / "mm-vet/mm-vet.json").read_text()))


def test_convert_answer_to_mme(tmp_path):
    """The id's first part is the subtask, its last the image; the prompt, with the request put back, the question."""
    root, answers = answered(tmp_path, "mme", "MME")
    truth = {}
    for path in root.rglob("*.txt"):
        category = path.relative_to(root / "MME/MME_Benchmark_release_version").parts[0]
        for line in path.read_text().splitlines():
            if line.strip():
                question, label = line.strip().split("\t")
                truth[category, path.name, question] = label
    asked = set()
    for answer in answers:
        parts = answer["question_id"].split("/")
        prompt = answer["prompt"].replace("Answer the question using a single word or phrase.", "").strip()
        names = [
            (parts[0], f"{parts[-1].split('.')[0]}.txt", f"{prompt}{gap}Please answer yes or no.")
            for gap in (" ", "  ")
        ]
        (name,) = [name for name in names if name in truth]
        asked.add(name)
    assert asked == set(truth)
    assert len(answers) == len(truth) == 30


@pytest.mark.parametrize("name", ["vqav2", "vqav2_val"])
def test_convert_vqav2_for_submission(tmp_path, name):
    root, answers = answered(tmp_path, name, "vqav2")
    part = "test-dev2015" if name == "vqav2" else "val2014"
    questions = json.loads((root / f"vqav2/v2_OpenEnded_mscoco_{part}_questions.json").read_text())["questions"]
    assert [answer["question_id"] for answer in answers] == [question["question_id"] for question in questions]


def test_convert_gqa_for_eval(tmp_path):
    root, answers = answered(tmp_path, "gqa", "gqa")
    questions = json.loads((root / "gqa/data/testdev_balanced_questions.json").read_text())
    assert [answer["question_id"] for answer in answers] == list(questions)


def test_convert_vizwiz_for_submission(tmp_path):
    """In LLaVA's question file, test 00000012 has the id 12."""
    root, answers = answered(tmp_path, "vizwiz", "vizwiz")
    results = {answer["question_id"]: answer["text"] for answer in answers}
    images = [record["image"] for record in json.loads((root / "vizwiz/test.json").read_text())]
    assert list(results) == [int(image.removeprefix("VizWiz_test_").removesuffix(".jpg")) for image in images]
    upload = json.loads((tmp_path / "out/submissions/vizwiz/vizwiz_test.json").read_text())
    assert [line["image"] for line in upload] == images


@pytest.mark.parametrize("name", ["mmbench", "mmbench_cn"])
def test_convert_mmbench_for_submission(tmp_path, name):
    """Compared with a column of numbers."""
    root, answers = answered(tmp_path, name, name)
    (path,) = (root / name).glob("*.tsv")
    indices = [int(line.split("\t")[0]) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    assert set(indices) <= {answer["question_id"] for answer in answers}


def test_eval_gpt_review_bench(tmp_path):
    """Three files side by side: questions, the reference's answers, the model's, each with its ids."""
    root, answers = answered(tmp_path, "llava_bench", "llava-bench-in-the-wild")
    folder = root / "llava-bench-in-the-wild"
    sides = zip(lines_of(folder / "questions.jsonl"), lines_of(folder / "answers_gpt4.jsonl"), answers, strict=True)
    for question, _, own in sides:
        assert question["question_id"] == own["question_id"]
        assert {"text", "answer_id"} <= set(own)
    submitted = lines_of(tmp_path / "out/submissions/llava_bench/answers.jsonl")
    assert [line["question_id"] for line in submitted] == [answer["question_id"] for answer in answers]


def test_answers_with_the_ids_of_an_earlier_version(tmp_path):
    root, answers = answered(tmp_path, "pope", "pope")
    path = tmp_path / "out/answers/pope.jsonl"
    old = [answer | {"question_id": answer["metadata"].pop("key")} for answer in answers]
    path.write_text("".join(json.dumps(answer) + "\n" for answer in old))
    with pytest.raises(DataError, match=r"has the question_id 'adversarial-1' of an earlier version, which is now 1"):
        evaluate_tasks(FakePredictor(), [all_tasks()["pope"]()], root, tmp_path / "out")
