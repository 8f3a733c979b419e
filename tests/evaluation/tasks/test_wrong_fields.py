"""Every field of every task's files, put wrong in turn: it is refused when the questions are read, or does no harm."""

import copy
import json
from pathlib import Path

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.prompt_styles import PROMPT_STYLES
from llava_mocle.evaluation.registry import all_tasks
from tests.evaluation.tasks.official_files import answers_to, data_root, make_images
from tests.evaluation.tasks.test_cluster_metric import PICTURES

MISSING = object()
WRONG = (None, 7, True, "x", [], {}, MISSING)
# A problem of ScienceQA without picture has a null there.
MEANT = {("scienceqa", "problems.json", "image")}


def documents(path):
    """The JSON documents of a file: itself, or its lines."""
    text = path.read_text(encoding="utf-8")
    try:
        return [json.loads(text)]
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]


def fields_of(document, above=()):
    """The path of every field; the first entry stands for all of a list (but for both of two), or of records by id."""
    if isinstance(document, dict):
        keys = list(document)
        if len(keys) > 1 and all(isinstance(value, dict) for value in document.values()):
            keys = keys[:1]
    else:
        length = len(document) if isinstance(document, list) else 0
        keys = range(length if length == 2 else min(length, 1))
    for key in keys:
        yield (*above, key)
        yield from fields_of(document[key], (*above, key))


def at(document, path):
    for key in path:
        document = document[key]
    return document


def is_no_reading_of(value, right):
    """Whether `value` must not be taken for what should stand where `right` does."""
    return (
        value is None
        or (isinstance(right, str) and value is True)
        or (isinstance(value, (list, dict)) and not isinstance(right, (list, dict)))
    )


def with_wrong_field(document, field, value):
    document = copy.deepcopy(document)
    place = at(document, field[:-1])
    if value is MISSING:
        del place[field[-1]]
    else:
        place[field[-1]] = value
    return document


def harm(task, root, prompts, expected, *, same):
    """What is wrong with what the task makes of the files; None where that is well, or they are refused."""
    try:
        items = task.items(root, prompts)
    except DataError:
        return None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    for question in (item.question for item in items):
        texts = [question.prompt, *question.candidates, *([question.route_text] if question.route_text else [])]
        if type(question.question_id) not in (str, int) or any(type(text) is not str for text in texts):
            return f"asks {question}"
        if any("None" in text for text in texts):
            return f"asks for None: {texts}"
        if not all(isinstance(image, Path) for image in question.images):
            return f"shows {question.images}"
    if items == expected:
        return None
    if same:
        return "reads something else without a word"
    if prompts != PROMPT_STYLES[0]:  # scoring takes time, and does not differ
        return None
    try:
        scores = [[-1.0] * len(item.question.candidates) for item in items]
        task.score(items, answers_to(items, ["yes"] * len(items), scores))
    except Exception as error:
        return f"once answered, {type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("prompts", PROMPT_STYLES)
@pytest.mark.parametrize("name", [*all_tasks(), "vqa_rad of the authors"])
def test_a_wrong_field_is_refused_or_does_no_harm(tmp_path, name, prompts):
    task = all_tasks()[name.split()[0]]()
    root = data_root(tmp_path, task.sources[0].path.split("/")[0])
    make_images(*(root / picture for picture in PICTURES.get(task.name, ())))
    if name != task.name:
        (root / "vqa_rad/test.json").unlink()
    expected, faults = task.items(root, prompts), []
    for path in sorted(root.rglob("*.json*")):
        text, contents = path.read_text(encoding="utf-8"), documents(path)
        for field in fields_of(contents[0]):
            for value in WRONG:
                wrong = [with_wrong_field(contents[0], field, value), *contents[1:]]
                path.write_text("\n".join(json.dumps(document) for document in wrong), encoding="utf-8")
                meant = value is None and (task.name, path.name, field[-1]) in MEANT
                same = is_no_reading_of(value, at(contents[0], field)) and not meant
                found = harm(task, root, prompts, expected, same=same)
                if found:
                    faults.append(f"{path.name}, {field}: {value!r}: {found}")
        path.write_text(text, encoding="utf-8")
    assert not faults, "\n".join(faults)
