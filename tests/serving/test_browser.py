"""The page in a real Chromium, over a backend without a model."""

import base64
import os
import shutil

import pytest

from tests.serving.live import PATIENCE, front
from tests.serving.pngs import png
from tests.serving.stand_in import StandIn

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (make test-packages)")
# Gives the page a picture as the mouse or the clipboard would.
GIVE = """([kind, encoded]) => {
    const bytes = Uint8Array.from(atob(encoded), letter => letter.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], "given.png", {type: "image/png"}));
    const target = document.getElementById("text");
    target.dispatchEvent(kind === "drop"
        ? new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})
        : new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
}"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    # Root may not use Chromium's sandbox, and this page is the only one.
    flags = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def backend():
    return StandIn()


@pytest.fixture
def live(backend):
    with front(backend) as server:
        yield server


@pytest.fixture
def page(browser, live):
    """The page; at the end, it must have asked nobody else and complained of nothing."""
    page = browser.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(live.url)
    page.locator("#examples button").nth(1).wait_for()
    yield page
    page.close()
    assert {url.split(":")[0] for url in asked if not url.startswith(f"{live.url}/")} <= {"data", "blob"}
    assert not complaints


def answers(page):
    return page.locator(".turn.assistant .text")


def ask(page, text):
    page.get_by_label("Question", exact=True).fill(text)
    page.keyboard.press("Enter")


def until_ready(page):
    page.locator("#stop:disabled").wait_for()


def test_a_picture_is_asked_about_and_the_route_is_shown(page, backend):
    page.get_by_label("Images: choose, paste or drop them here").set_input_files(
        {"name": "red.png", "mimeType": "image/png", "buffer": png()}
    )
    page.get_by_alt_text("red.png").wait_for()
    ask(page, "Which plane is it?")
    until_ready(page)
    assert answers(page).all_inner_texts() == ["Which plane is it?"]
    (question,) = backend.asked
    assert [picture.size for picture in question.pictures] == [(6, 4)]
    assert question.stream
    found = {name: page.locator(f"#{name}").inner_text() for name in ("cluster", "distance", "gate", "universal")}
    assert found == {"cluster": "1", "distance": "0.625", "gate": "0.500", "universal": "0.500"}
    assert page.locator("#strip span").all_inner_texts() == ["0", "0"]
    assert page.locator("#strip-words").inner_text() == "expert 0 at 2 of 2 sites"
    # What was written in training is shown as it is, and is no markup.
    assert page.locator("#nearest li").all_inner_texts() == ["Which plane?", "<b>bold?</b>"]
    assert page.locator("#nearest b").count() == 0


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted_and_removed(page, backend, kind):
    page.evaluate(GIVE, [kind, base64.b64encode(png()).decode()])
    page.get_by_alt_text("given.png").wait_for()
    page.get_by_role("button", name="Remove given.png").click()
    ask(page, "What is this?")
    until_ready(page)
    assert backend.asked[0].pictures == ()


def test_stop_and_regenerate(page, backend, live):
    backend.wait = True
    ask(page, "one two three")
    answers(page).filter(has_text="one").wait_for()
    page.keyboard.press("Escape")
    live.wait(backend.given_up.wait)
    until_ready(page)
    assert page.get_by_role("status").inner_text() == "Stopped."
    assert answers(page).all_inner_texts() == ["one"]  # what had come stays
    backend.wait = False
    page.get_by_role("button", name="Regenerate").click()
    until_ready(page)
    assert answers(page).all_inner_texts() == ["one two three"]
    assert [len(question.turns) for question in backend.asked] == [1, 1]


def test_several_turns_with_settings(page, backend):
    page.locator("#examples button").nth(1).click()
    page.keyboard.press("Enter")
    until_ready(page)
    page.get_by_label("Experts of").select_option("mocle/cluster_0")
    page.get_by_label("Temperature").fill("0.7")
    page.get_by_label("Most tokens").fill("9")
    ask(page, "And now?")
    until_ready(page)
    assert answers(page).all_inner_texts() == ["Which plane?", "And now?"]
    first, second = backend.asked
    assert [turn.text for turn in second.turns] == ["Which plane?", "Which plane?", "And now?"]
    assert (first.cluster_id, second.cluster_id) == (None, 0)
    assert (second.decoding.temperature, second.decoding.max_tokens) == (0.7, 9)
    assert page.locator("#cluster").inner_text() == "0"
    page.get_by_role("button", name="New conversation").click()
    assert answers(page).count() == 0


def test_an_error_is_told(browser, live, backend):
    backend.error = RuntimeError("a secret of the server")
    page = browser.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(live.url)
    page.locator("#examples button").nth(1).wait_for()
    ask(page, "one two")
    page.locator("#status.bad").wait_for()
    told = page.get_by_role("status").inner_text()
    page.close()
    assert told
    assert "secret" not in told
