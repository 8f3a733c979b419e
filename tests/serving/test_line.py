import threading
import time
from types import SimpleNamespace

from llava_mocle.serving.line import Line


def answer(alone=False, cancelled=False):
    return SimpleNamespace(alone=alone, cancelled=cancelled)


def test_first_come_first_served():
    line, answers = Line(), [answer() for _ in range(5)]
    line.add(*answers)
    assert len(line) == 5
    assert line.take(3, 0) == answers[:3]
    line.add(first := answer(), front=True)
    assert line.take(9, 0) == [first, *answers[3:]]


def test_who_must_be_alone_comes_alone():
    line = Line()
    line.add(a := answer(), b := answer(alone=True), c := answer())
    assert [line.take(9, 0) for _ in range(3)] == [[a], [b], [c]]


def test_who_has_gone_is_passed_over():
    line = Line()
    line.add(answer(cancelled=True), here := answer(), answer(cancelled=True))
    assert line.take(9, 0) == [here]
    assert len(line) == 0


def test_who_goes_while_others_are_waited_for_does_not_end_the_line():
    """An empty list would tell the thread that owns the model to end."""
    line, taken = Line(), []

    class Going(SimpleNamespace):
        looks = 0

        @property
        def cancelled(self):
            # It is there when it is first looked at, and has gone when the patience is over.
            self.looks += 1
            return self.looks > 1

    line.add(going := Going(alone=False))
    thread = threading.Thread(target=lambda: taken.append(line.take(2, 0.01)), daemon=True)
    thread.start()
    while going.looks < 2:
        time.sleep(0.001)
    line.add(here := answer())
    thread.join(60)
    assert taken == [[here]]


def test_waiting_and_closing():
    line, taken = Line(), []
    thread = threading.Thread(target=lambda: taken.extend([line.take(2, 60.0), line.take(2, 0)]))
    thread.start()
    # The first waits for a second one, and goes on as soon as it has come.
    line.add(a := answer())
    line.add(b := answer())
    line.close()
    thread.join(60)
    assert not thread.is_alive()
    assert taken[-1] == []
    assert taken[0] in ([a, b], [])
