"""The pipe to Chromium, spoken with a program that is none: what it does when the browser refuses, hangs or dies."""

import sys
import time
from pathlib import Path

import pytest

from compress import chromium
from compress.errors import RunError, UsageError

FAKE = """#!{python} -IS
import json, os, time
buffer = b""
while True:
    while b"\\0" not in buffer:
        chunk = os.read(3, 65536)
        if not chunk:
            raise SystemExit
        buffer += chunk
    text, _, buffer = buffer.partition(b"\\0")
    asked = json.loads(text)
    method = asked["method"]
    if method in ("die", "Browser.close"):
        raise SystemExit
    if method == "hang":
        time.sleep(60)
    answer = {{"id": asked["id"], "result": {{"echo": asked["params"]}}}}
    if method == "refuse":
        answer = {{"id": asked["id"], "error": {{"message": "no such method"}}}}
    told = json.dumps({{"method": "Told.something"}}).encode() + b"\\0" + json.dumps(answer).encode() + b"\\0"
    for start in range(0, len(told), 7):  # in pieces
        os.write(4, told[start : start + 7])
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "chromium"
    program.write_text(FAKE.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("fake")
def test_answers_belong_to_questions_and_events_are_kept() -> None:
    with chromium.launch() as browser:
        long = "x" * 100_000
        assert {"echo": {"text": long}} == browser.call("Anything.goes", text=long)
        assert {"echo": {}} == browser.call("Anything.goes")
    assert [{"method": "Told.something"}] * 2 == browser.events


@pytest.mark.usefixtures("fake")
def test_a_refusal_a_hang_and_a_death_are_run_errors() -> None:
    for method, said in (("refuse", "refuses refuse: no such method"), ("die", "ended unexpectedly")):
        with chromium.launch() as browser, pytest.raises(RunError, match=said):
            browser.call(method)
    started = time.monotonic()
    with pytest.raises(RunError, match="did not answer hang in time"), chromium.launch() as browser:
        browser.call("hang", timeout=0.2)
    assert browser.process.returncode is not None
    assert time.monotonic() - started < 30


@pytest.mark.usefixtures("fake")
def test_nothing_of_it_is_left() -> None:
    with chromium.launch() as browser:
        profile = next(word for word in browser.process.args if "user-data-dir" in word)  # type: ignore[union-attr]
        browser.call("Anything.goes")
    assert browser.process.poll() is not None
    assert not Path(str(profile).partition("=")[2]).exists()


def test_without_a_browser_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="apt install chromium"):
        chromium.find()
