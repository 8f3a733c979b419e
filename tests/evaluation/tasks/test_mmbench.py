import openpyxl
import pytest
from PIL import Image

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import check_questions
from llava_mocle.evaluation.suite import score_task
from llava_mocle.evaluation.tasks import mmbench
from llava_mocle.evaluation.tasks.mmbench import MMBench, MMBenchCN
from tests.evaluation.tasks.official_files import answers_to, data_root, edited

FILE = "mmbench/mmbench_dev_20230712.tsv"
LETTER = "\nAnswer with the option's letter from the given choices directly."


def made(task, root, prompts="llava"):
    task.check(root)
    items = task.items(root, prompts)
    check_questions([item.question for item in items])
    return items


def without_rotations(root):
    path = root / FILE
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(("1000", "2000"))), encoding="utf-8")


def test_published_rotations_are_asked(tmp_path):
    items = made(MMBench(), data_root(tmp_path, "mmbench"))
    assert [item.question.question_id for item in items] == [241, 252, 1000241, 1000252, 2000252]
    assert items[0].question.prompt == "Which animal is it?\nA. cat\nB. dog" + LETTER
    assert items[1].question.prompt == ("The clock shows noon.\nWhat is next?\nA. lunch\nB. dawn\nC. dusk" + LETTER)
    # "nan" is no option.
    assert items[2].question.prompt == "Which animal is it?\nA. dog\nB. cat" + LETTER
    assert [item.reference for item in items] == [1, 0, 0, 2, 1]


def test_images_are_unpacked_once(tmp_path):
    root = data_root(tmp_path, "mmbench")
    items = made(MMBench(), root)
    folder = root / "mmbench/mmbench_dev_20230712"
    assert sorted(path.name for path in folder.iterdir()) == ["241.jpg", "252.jpg"]
    assert Image.open(items[0].question.images[0]).getpixel((0, 0)) == (255, 0, 0)
    assert items[4].question.images == (folder / "252.jpg",)
    stamp = (folder / "252.jpg").stat().st_mtime_ns
    made(MMBench(), root)
    assert (folder / "252.jpg").stat().st_mtime_ns == stamp


def test_counting_unpacks_no_image(tmp_path):
    root = data_root(tmp_path, "mmbench")
    assert MMBench().count(root) == 5
    without_rotations(root)
    assert MMBench().count(root) == 5
    assert not (root / "mmbench/mmbench_dev_20230712").exists()


def test_rotations_are_made_where_the_file_has_none(tmp_path):
    root = data_root(tmp_path, "mmbench")
    published = {item.question.question_id: item for item in made(MMBench(), root)}
    without_rotations(root)
    items = made(MMBench(), root)
    assert [item.question.question_id for item in items] == [241, 1000241, 252, 1000252, 2000252]
    for item in items:
        twin = published[item.question.question_id]
        assert (item.question.prompt, item.reference) == (twin.question.prompt, twin.reference)


@pytest.mark.parametrize(
    ("texts", "circular", "vanilla", "unparsed"),
    [
        # Answers to 241, 252 and then their rotations 1000241, 1000252, 2000252.
        (["B", "A", "A", "C", "B"], (1, 1), (1, 1), 0),
        (["B.", "(A)", "B", "lunch", "B: lunch"], (0, 1), (1, 1), 0),
        (["dog", "C", "a dog", "C", "B"], (1, 0), (1, 0), 0),
        # MMBench's matcher: "A" in a longer sentence is a letter like any other.
        (["The answer is B", "The answer is A", "The answer is A", "C", "B"], (1, 1), (1, 1), 0),
        (["A dog it is", "b", "A", "", "D"], (0, 0), (0, 0), 3),
        (["Não sei", "A B", "A", "C", "B"], (0, 0), (0, 0), 2),
    ],
)
def test_circular_and_vanilla(tmp_path, texts, circular, vanilla, unparsed):
    items = made(MMBench(), data_root(tmp_path, "mmbench"))
    scores = MMBench().score(items, answers_to(items, texts))
    assert scores.headline == "circular"
    assert scores.metrics["circular"].items == circular
    assert scores.metrics["vanilla"].items == vanilla
    assert scores.metrics["circular_logic_reasoning"].items == circular[1:]
    assert scores.unparsed == unparsed


def test_the_version_of_the_matcher_is_chosen_and_recorded(tmp_path):
    items, task = made(MMBench(), data_root(tmp_path, "mmbench")), MMBench()
    texts = ["B. I see it here, cat-like", "A", "A", "C", "B"]
    assert score_task(task, items, answers_to(items, texts))["scorer"] == "VLMEvalKit 2024"
    assert task.score(items, answers_to(items, texts)).metrics["vanilla"].items == (1, 1)
    task.matcher = "2025"
    # There a letter counts among the last four words alone, and the text "cat" is the other option's.
    assert task.score(items, answers_to(items, texts)).metrics["vanilla"].items == (0, 1)
    assert score_task(task, items, answers_to(items, texts))["scorer"] == "VLMEvalKit 2025"


def test_the_letter_decides_between_options_of_the_same_text(tmp_path):
    root = data_root(tmp_path, "mmbench")
    one_row(root, ["cat", "dog", "cat", ""], "A")
    items = made(MMBench(), root)[:1]
    read = [MMBench().score(items, answers_to(items, [text])).metrics["vanilla"].items for text in ("A", "C", "cat")]
    assert read == [(1,), (0,), (0,)]  # "cat" is two options' text


def test_ranked(tmp_path):
    items = made(MMBench(), data_root(tmp_path, "mmbench"), "instructblip")
    assert items[1].question.prompt == (
        "Question: The clock shows noon.\nWhat is next? Options: (a) lunch (b) dawn (c) dusk. Short answer:"
    )
    ranked = [[-2, -1], [-1, -2, -3], [-1, -2], [-2, -2, -1], [-1, -2, -3]]
    scores = MMBench().score(items, answers_to(items, ["dog", "lunch", "dog", "lunch", "dusk"], ranked))
    assert scores.metrics["circular"].items == (1, 0)


def test_chinese(tmp_path):
    items = made(MMBenchCN(), data_root(tmp_path, "mmbench_cn"))
    assert items[0].question.prompt == "这是什么动物？\nA. 猫\nB. 狗\n请直接回答选项字母。"
    scores = MMBenchCN().score(items, answers_to(items, ["狗", "A"]))
    assert scores.metrics["circular"].value == 100


def submitted(items, folder):
    answers = answers_to(items, ["B", "A", "A", "C", "é\x0b"])
    return MMBench().submission(items, answers, folder)[0]


def test_spreadsheet(tmp_path):
    path = submitted(made(MMBench(), data_root(tmp_path, "mmbench")), tmp_path / "upload")
    assert path == tmp_path / "upload/mmbench_dev_20230712.xlsx"
    rows = list(openpyxl.load_workbook(path).active.iter_rows(values_only=True))
    assert rows[0] == ("index", "question", "A", "B", "C", "D", "prediction", "answer", "split")
    assert rows[1] == (241, "Which animal is it?", "cat", "dog", None, None, "B", "B", "dev")
    assert [row[6] for row in rows[1:]] == ["B", "A", "A", "C", "é"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("iVBOR", "iVB*R", "record 0: field 'image' is not base64"),
        ("1000241\t", "later\t", "record 2: field 'index' is 'later', expected a whole number"),
        ("\thint\t", "\tclue\t", "record 0: no 'hint', only index, question, clue"),
        ("\t\t\tB\tobject", "\t\t\t\tobject", "record 0: the answer is '' with 2 options"),
    ],
)
def test_bad_table(tmp_path, old, new, message):
    root = data_root(tmp_path, "mmbench")
    edited(root / FILE, old, new)
    with pytest.raises(DataError, match=message):
        MMBench().items(root)


def test_a_question_with_some_rotations_asked_counts_for_vanilla_alone(tmp_path):
    items = made(MMBench(), data_root(tmp_path, "mmbench"))[:4]
    # 241 in both of its rotations (right: B, A), 252 in two of its three (right: A, C).
    scores = MMBench().score(items, answers_to(items, ["B", "A", "A", "C"]))
    assert scores.metrics["circular"].items == (1.0,)
    assert scores.metrics["vanilla"].items == (1.0, 1.0)


def test_clusters_are_scored_by_questions_as_they_first_stand(tmp_path):
    """The rotations of a question may go to several clusters, of which none then has a whole circle."""
    items = made(MMBench(), data_root(tmp_path, "mmbench"))
    answers = answers_to(items, ["B", "C", "A", "C", "B"])
    for answer, cluster in zip(answers, (0, 0, 1, 1, 1), strict=True):
        answer["metadata"]["cluster_id"] = cluster
    # Of 241 and 252 the first is right; the rotations are not among what is counted.
    clusters = score_task(MMBench(), items, answers)["clusters"]
    assert (clusters["0"]["n"], clusters["0"]["value"]) == (2, 50)
    assert clusters["1"]["n"] == 0


def one_row(root, options, answer, hint=""):
    """The table with its first row alone, of these options and this answer."""
    path = root / FILE
    header, row = path.read_text(encoding="utf-8").split("\n")[:2]
    cells = row.split("\t")
    cells[2:8] = [hint, *options, answer]
    path.write_text(f"{header}\n" + "\t".join(cells) + "\n", encoding="utf-8")


def test_an_option_none_is_an_option(tmp_path):
    root = data_root(tmp_path, "mmbench")
    one_row(root, ["None", "one", "two", "nan"], "C", hint="None")
    items = made(MMBench(), root)
    assert [item.question.prompt for item in items] == [
        f"Which animal is it?\nA. {first}\nB. {second}\nC. {third}" + LETTER
        for first, second, third in (("None", "one", "two"), ("one", "two", "None"), ("two", "None", "one"))
    ]
    # "two" is right, wherever it stands.
    assert [item.reference for item in items] == [2, 1, 0]


def test_an_empty_option_keeps_the_letters_of_the_others(tmp_path):
    root = data_root(tmp_path, "mmbench")
    one_row(root, ["cat", "", "dog", ""], "C")
    items = made(MMBench(), root)
    assert [item.question.prompt for item in items] == [
        "Which animal is it?\nA. cat\nC. dog" + LETTER,
        "Which animal is it?\nA. dog\nC. cat" + LETTER,
    ]
    assert [item.reference for item in items] == [2, 0]
    assert MMBench().score(items, answers_to(items, ["C", "A"])).metrics["circular"].items == (1,)
    assert MMBench().score(items, answers_to(items, ["B", "dog"])).metrics["circular"].items == (0,)
    ranked = made(MMBench(), root, "instructblip")
    assert ranked[0].question.prompt.endswith("Options: (a) cat (c) dog. Short answer:")
    assert ranked[1].question.candidates == ("dog", "cat")
    scores = MMBench().score(ranked, answers_to(ranked, ["dog", "dog"], [[-2, -1], [-1, -2]]))
    assert scores.metrics["circular"].items == (1,)


@pytest.mark.parametrize(("options", "answer", "count"), [(["cat", "", "dog", ""], "B", 2), ([""] * 4, "A", 0)])
def test_the_answer_is_an_option_with_text(tmp_path, options, answer, count):
    root = data_root(tmp_path, "mmbench")
    one_row(root, options, answer)
    with pytest.raises(DataError, match=f"record 0: the answer is '{answer}' with {count} options"):
        MMBench().items(root)


def test_rotations_are_looked_for_once(tmp_path, monkeypatch):
    """Not for each row, which would take time by the square of the rows."""
    calls = []
    real = mmbench._holds_rotations
    monkeypatch.setattr(mmbench, "_holds_rotations", lambda rows: calls.append(len(rows)) or real(rows))
    made(MMBench(), data_root(tmp_path, "mmbench"))
    assert calls == [5]


def test_a_table_that_is_cut_off(tmp_path):
    root = data_root(tmp_path, "mmbench")
    text = (root / FILE).read_text(encoding="utf-8")
    (root / FILE).write_text(text[: text.rindex("iVBOR") + 9], encoding="utf-8")  # in the last row's image
    with pytest.raises(
        DataError, match=r"mmbench_dev_20230712\.tsv, line 6: found 10 columns, expected the header's 14"
    ):
        MMBench().items(root)
