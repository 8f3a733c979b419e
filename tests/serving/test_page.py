"""The page asks its own server alone, and nothing runs in it but what it is."""

import base64
import hashlib
import re

from llava_mocle.serving import page


def test_only_its_own_script_and_style_run():
    policy = dict(part.split(" ", 1) for part in page.headers()["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page.html(), flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    # What the policy would stop: attributes with styles or scripts.
    assert not re.search(r"<[^>]+\s(style|on\w+)=", page.html())


def test_nothing_is_fetched_from_elsewhere():
    assert not re.search(r"https?://|//\w+\.\w|@import|url\(", page.html())
    assert set(re.findall(r"fetch\(\"([^\"]*)\"", page.html())) == {"mocle/clusters", "v1/chat/completions"}


def test_text_of_the_model_is_no_markup():
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", page.html())


def test_it_can_be_used_without_eyes_and_without_a_mouse():
    html = page.html()
    assert '<html lang="en">' in html
    assert re.search(r'role="log" aria-live="polite"', html)
    for field in re.findall(r"<(?:input|select|textarea) id=\"(\w+)\"", html):
        assert f'<label for="{field}"' in html, field
    for element in re.findall(r"\$\(\"([\w-]+)\"\)", html):
        assert f'id="{element}"' in html, element
    for label in re.findall(r'aria-labelledby="([^"]+)"', html):
        assert all(f'id="{name}"' in html for name in label.split())
    assert "prefers-color-scheme:dark" in html
