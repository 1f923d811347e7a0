"""The page in a real browser with a fake microphone: Chromium, by its debugging port."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from keras_speechssm.pipeline import Sampling
from keras_speechssm.synthesis import SynthesisConfig

pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")
websocket = pytest.importorskip("websocket")

from keras_speechssm.serve import app as service  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)

pytestmark = [
    pytest.mark.any_backend,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]


class FakeSpeech:
    """Hums in blocks of a second, with a pitch that depends on the seed."""

    sampling = Sampling(temperature=0.9, top_p=0.8)
    synthesis = SynthesisConfig()
    sample_rate = 16000

    def __init__(self):
        self.requests, self.ended = [], threading.Event()

    def stream(self, prompt, seconds, seed, **options):
        self.requests.append({"prompt": prompt, "seconds": seconds, "seed": seed, **options})
        return self._blocks(seconds, 100 + seed % 100)

    def _blocks(self, seconds, pitch):
        try:
            for number in itertools.count():
                if seconds is not None and number >= seconds:
                    return
                times = np.arange(16000) / 16000 + number
                glide = pitch * (times + 0.05 * np.sin(6 * times))
                waves = [np.sin(2 * np.pi * k * glide) / k for k in range(1, 30)]
                yield (0.15 * np.sum(waves, axis=0)).astype("float32")
        finally:
            self.ended.set()


class Browser:
    """A headless Chromium with one page."""

    def __init__(self, folder: Path):
        options = ["--headless=new", "--no-sandbox", "--remote-debugging-port=0", "--disable-gpu"]
        options += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        options += ["--autoplay-policy=no-user-gesture-required", "--window-size=820,980"]
        options += ["--remote-allow-origins=*", "--disable-dev-shm-usage", "--no-first-run"]
        command = [CHROMIUM, *options, f"--user-data-dir={folder}", "about:blank"]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        port = self.wait_for(lambda: _first_line(folder / "DevToolsActivePort"))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as reply:
            (page,) = [one for one in json.load(reply) if one["type"] == "page"]
        self.socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=60)
        self.numbers, self.errors = itertools.count(1), []
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params) -> dict:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(message["params"])
            if message.get("id") == number:
                return message["result"]

    def run(self, script: str):
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, condition, seconds: float = 90.0):
        deadline = time.monotonic() + seconds
        while True:
            value = condition() if callable(condition) else self.run(condition)
            if value:
                return value
            assert time.monotonic() < deadline, condition
            time.sleep(0.05)

    def text(self, element: str) -> str:
        return self.run(f"document.getElementById('{element}').textContent")

    def click(self, element: str) -> None:
        self.run(f"document.getElementById('{element}').click()")

    def save_screenshot(self, name: str) -> None:
        """Save a picture into the folder `SCREENSHOTS` of the environment, if it is set."""
        if folder := os.environ.get("SCREENSHOTS"):
            picture = self.send("Page.captureScreenshot", format="png")["data"]
            (Path(folder) / name).write_bytes(base64.b64decode(picture))

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(30)


def _first_line(path: Path) -> str:
    return path.read_text().splitlines()[0] if path.is_file() and path.read_text() else ""


@pytest.fixture
def speech():
    return FakeSpeech()


@pytest.fixture
def address(speech):
    server = uvicorn.Server(
        uvicorn.Config(service.create_app(speech, "hum", local=True), port=0, log_level="error")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture
def browser(tmp_path):
    browser = Browser(tmp_path)
    yield browser
    browser.close()


def test_a_visitor_continues_an_example_and_a_recording(browser, address, speech):
    browser.send("Page.navigate", url=address)
    browser.wait_for("document.querySelectorAll('#prompts option').length === 2")
    assert browser.run("document.getElementById('start').disabled")

    # An example, for four seconds: it is played and drawn while it is made.
    browser.run("const list = $('prompts'); list.value = 'prompt'; list.onchange()")
    browser.wait_for("!$('start').disabled")
    browser.run("$('seconds').value = 4; $('seed').value = 42; $('top_p').value = 0.7")
    browser.click("start")
    browser.wait_for("$('message').textContent === 'The speech is complete.'")
    browser.wait_for("parseFloat($('times').textContent.split('played ')[1]) > 3.9")
    browser.save_screenshot("page_complete.png")
    assert "made 4.0 s" in browser.text("times") and "first audio after" in browser.text("times")
    lit = "[...pen.getImageData(500, 0, 200, 144).data].filter(x => x > 60 && x < 255).length"
    assert browser.run(lit) > 1000
    assert browser.run("!$('save').disabled && !$('link').hidden")
    request = speech.requests[-1]
    assert (request["seconds"], request["seed"], request["top_p"]) == (4.0, 42, 0.7)
    link = browser.run("$('link').getAttribute('href')")
    saved = browser.run(
        "writeWav(state.pcm, state.rate).arrayBuffer().then(bytes => sha256(bytes))"
    )

    # The link gives the same speech.
    browser.send("Page.navigate", url="about:blank")
    browser.send("Page.navigate", url=address + link)
    browser.wait_for("document.readyState === 'complete' && !$('start').disabled")
    browser.click("start")
    browser.wait_for("$('message').textContent === 'The speech is complete.'")
    assert saved == browser.run(
        "writeWav(state.pcm, state.rate).arrayBuffer().then(bytes => sha256(bytes))"
    )
    assert len(saved) == 64 and speech.requests[-1]["seed"] == 42

    # The microphone, without end, until Stop.
    browser.send("Page.navigate", url="about:blank")
    browser.send("Page.navigate", url=address)
    browser.wait_for("document.querySelectorAll('#prompts option').length === 2")
    browser.click("record")
    browser.wait_for("$('message').textContent.startsWith('Recording.')")
    time.sleep(1.5)
    browser.click("record")
    browser.wait_for("$('message').textContent.startsWith('Recorded')")
    browser.run("$('endless').checked = true")
    speech.ended.clear()
    browser.click("start")
    browser.wait_for("parseFloat($('times').textContent.split('played ')[1]) > 2")
    browser.save_screenshot("page_endless.png")
    request = speech.requests[-1]
    assert request["seconds"] is None and 8000 < len(request["prompt"]) < 160_000
    assert np.abs(request["prompt"]).max() > 0.01
    browser.click("stop")
    assert speech.ended.wait(30)
    browser.wait_for("$('message').textContent === 'Stopped.'")
    browser.save_screenshot("page_stopped.png")

    # What the server refuses is shown.
    browser.run("$('endless').checked = false; $('seconds').value = 100000")
    browser.wait_for("!$('start').disabled")
    browser.click("start")
    browser.wait_for("$('message').className === 'error'")
    assert "above the limit of 3600" in browser.text("message")
    unexpected = [error for error in browser.errors if "400 (Bad Request)" not in str(error)]
    assert not unexpected, unexpected
