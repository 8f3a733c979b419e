from llava_mocle.cli.eval_tables import print_domains, print_tasks


def entry(**more):
    value = {"value": 12.345, "interval": [1.0, 23.456], "n": 4}
    metrics = {
        "circular_finegrained_perception_of_an_instance": value,
        "unknown": {"value": None, "interval": None, "n": 0},
    }
    own = {"title": "A benchmark", "split": "dev", "n": 4, "official_n": None, "limit": None, "unparsed": 2}
    return own | {"metrics": metrics} | more


def printed(capsys, **more) -> list[list[str]]:
    """The cells of the rows."""
    print_tasks({"model_id": "m@1", "tasks": {"one": entry(**more)}})
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_a_row_holds_whole_names_at_any_width(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "circular_finegrained_perception_of_an_instance"
    assert printed(capsys) == [
        ["A", name, "4", "12.35", "1.00 to 23.46", "2"],
        ["benchmark", "", "", "", "", ""],
        ["(dev)", "", "", "", "", ""],
        ["", "unknown", "0", "-", "-", ""],
    ]


def test_what_unparsed_answers_count_as(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert printed(capsys, unparsed_as="yes")[0][-1] == "2, counted as yes"
    assert printed(capsys, unparsed_as="wrong")[0][-1] == "2"
    assert printed(capsys, unparsed_as="yes", unparsed=0)[0][-1] == "0"


def test_which_questions_were_asked(capsys, monkeypatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert printed(capsys, limit=4, official_n=9)[0][0] == "A benchmark (dev), first 4"
    assert printed(capsys, official_n=4)[0][0] == "A benchmark (dev)"
    title = "A benchmark (dev), 4 questions: n differs from the published 9"
    assert printed(capsys, official_n=9)[0][0] == title


def test_domains_hold_whole_names_at_any_width(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    summary = {"n": 4, "score": 0.5, "interval": [0.25, 0.75]}
    domain = summary | {"unparsed": 1, "majority": {"answer": "no"} | summary, "question_prior": None}
    name = "a_dataset_with_a_rather_long_name_of_its_own"
    results = {"model_id": "m@1", "metric": "exact match", "domains": {name: domain}, "clusters": {"3": summary}}
    print_domains(results)
    text = capsys.readouterr().out
    assert name in text
    assert text.count("25.0 to 75.0") == 2
