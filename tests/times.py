"""Write tests/TIMES.md from a run's report: `pytest --junitxml times.xml`, `python -m tests.times times.xml [NOTE]`.

NOTE is a sentence about the run: what else the machine did at the time.
"""

import sys
from collections import defaultdict
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

PAGE = Path(__file__).parent / "TIMES.md"
HEAD = """# How long each test file takes

Seconds of the tests in each file, set-up included, of one run of everything with two workers on two CPU cores, {day}.
The sum is larger than the run, as two files run at a time. Written by `python -m tests.times times.xml` after
`pytest -n 2 --junitxml times.xml`. {note}

All: {count} tests in {files} files, {total:.0f} s.

| file | tests | seconds |
|---|---:|---:|
"""


def file_of(name: str) -> str:
    """The file of a dotted class name, as pytest reports it: tests.data.test_rows or tests.data.test_rows.TestX."""
    words = name.split(".")
    place = next(index for index, word in enumerate(words) if word.startswith("test_"))
    return "/".join(words[: place + 1]) + ".py"


def main(report: str, note: str = "") -> None:
    seconds: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for case in ElementTree.parse(report).iter("testcase"):
        file = file_of(case.attrib["classname"])
        seconds[file] += float(case.attrib["time"])
        counts[file] += 1
    lines = [
        f"| {file} | {counts[file]} | {seconds[file]:.1f} |" for file in sorted(seconds, key=lambda f: -seconds[f])
    ]
    head = HEAD.format(
        day=date.today(), count=sum(counts.values()), files=len(counts), total=sum(seconds.values()), note=note
    )
    PAGE.write_text(head.replace("`. \n", "`.\n") + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
