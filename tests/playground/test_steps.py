"""Steps of the demonstration: run once, again when something changed, and on from where they were interrupted."""

from pathlib import Path

import pytest

from playground.steps import Step, StepRunner

APPEND = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.mkdir(exist_ok=True); (p / 'log').open('a').write('x')"


def step(out: Path, name: str = "one", inputs: tuple[Path, ...] = ()) -> Step:
    return Step(name, "a step", ["python", "-c", APPEND, str(out)], inputs, [out])


def runs(out: Path) -> int:
    return len((out / "log").read_text())


def test_a_second_run_reuses_everything(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    for expected in (True, False):
        runner = StepRunner(tmp_path / "stamps", "salt")
        assert [runner.run(step(out)), runner.run(step(other, "two"))] == [expected] * 2
    assert (runs(out), runs(other)) == (1, 1)


def test_a_changed_input_runs_the_step_and_all_after_it_afresh(tmp_path: Path) -> None:
    recipe, out, other = tmp_path / "recipe", tmp_path / "out", tmp_path / "other"
    for text in ("a", "b"):
        recipe.write_text(text)
        runner = StepRunner(tmp_path / "stamps", "salt")
        assert runner.run(step(out, inputs=(recipe,)))
        assert runner.run(step(other, "two"))
    # Outputs of another recipe were removed first, so each log holds one run.
    assert (runs(out), runs(other)) == (1, 1)


def test_a_missing_output_is_made_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    StepRunner(tmp_path / "stamps", "salt").run(step(out))
    (out / "log").unlink()
    out.rmdir()
    assert StepRunner(tmp_path / "stamps", "salt").run(step(out))


def test_an_interrupted_step_keeps_what_it_had(tmp_path: Path) -> None:
    out = tmp_path / "out"
    failing = APPEND + "; sys.exit(3 if len((p / 'log').read_text()) == 1 else 0)"
    failing_step = Step("one", "fails once", ["python", "-c", failing, str(out)], (), [out])
    with pytest.raises(SystemExit) as stopped:
        StepRunner(tmp_path / "stamps", "salt").run(failing_step)
    assert stopped.value.code == 3
    assert StepRunner(tmp_path / "stamps", "salt").run(failing_step)
    assert runs(out) == 2


# Leaves a sign that it runs, and waits for the other's; it would wait for ever if the other came after it.
MEET = """
import pathlib, sys, time
mine, other = map(pathlib.Path, sys.argv[1:])
mine.mkdir()
while not other.exists():
    time.sleep(0.01)
print("met")
"""


def meeting(out: Path, other: Path) -> Step:
    return Step(out.name, "meets another", ["python", "-c", MEET, str(out), str(other)], (), [out])


def test_steps_given_together_run_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    assert StepRunner(tmp_path / "stamps", "salt").run(meeting(a, b), meeting(b, a))
    printed = capsys.readouterr().out
    assert "[a] met" in printed
    assert "[b] met" in printed
    assert not StepRunner(tmp_path / "stamps", "salt").run(meeting(a, b), meeting(b, a))


def test_a_failed_step_stops_the_one_beside_it(tmp_path: Path) -> None:
    out, never = tmp_path / "out", tmp_path / "never"
    fails = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)\nsys.exit(3)"
    with pytest.raises(SystemExit) as stopped:
        StepRunner(tmp_path / "stamps", "salt").run(
            meeting(out, never), Step("fails", "fails", ["python", "-c", fails, str(out)])
        )
    assert stopped.value.code == 3
    assert {path.name for path in (tmp_path / "stamps").iterdir()} == {"out.started", "fails.started"}
