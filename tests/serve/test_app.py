"""The HTTP service: what it answers, what it refuses, and when a session ends."""

import dataclasses
import io
import re
import socket
import threading
import time

import numpy as np
import pytest
import soundfile
from tiny_models import shared_tiny_pipeline

from keras_speechssm.pipeline import Sampling
from keras_speechssm.synthesis import SynthesisConfig

pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")

from fastapi.testclient import TestClient  # noqa: E402

from keras_speechssm.serve import app as service  # noqa: E402

pytestmark = pytest.mark.any_backend

LIMITS = service.ServeLimits(max_upload_bytes=200_000, max_prompt_seconds=5.0, max_seconds=20.0)


class FakeSpeech:
    """Speaks noise of the seed, one second per block, and records its options."""

    sampling = Sampling(temperature=0.9, top_p=0.8)
    synthesis = SynthesisConfig()
    sample_rate = 16000

    def __init__(self):
        self.requests, self.num_blocks, self.ended = [], 0, threading.Event()
        self.wait = threading.Event()
        self.wait.set()

    def stream(self, prompt, seconds, seed, **options):
        assert prompt.dtype == np.float32 and prompt.ndim == 1
        self.requests.append({"samples": len(prompt), "seed": seed, **options})
        if options["top_k"] == 99:
            raise ValueError("top_k is 99; expected\nan integer from 1 to 12.")
        return self._blocks(seconds, np.random.default_rng(seed))

    def _blocks(self, seconds, rng):
        try:
            while seconds is None or seconds > 0:
                self.wait.wait(10)
                self.num_blocks += 1
                yield rng.uniform(-0.5, 0.5, 16000).astype("float32")
                seconds = None if seconds is None else seconds - 1
        finally:
            self.ended.set()


def wav(seconds: float, rate: int = 16000, channels: int = 1, **options) -> bytes:
    noise = 0.1 * np.random.default_rng(0).standard_normal((round(seconds * rate), channels))
    soundfile.write(file := io.BytesIO(), noise, rate, format="WAV", **options)
    return file.getvalue()


def client_of(speech, **options) -> TestClient:
    options = {"limits": LIMITS, "local": True, **options}
    return TestClient(service.create_app(speech, "tiny", **options), base_url="http://localhost")


@pytest.fixture
def speech():
    return FakeSpeech()


@pytest.fixture
def client(speech):
    return client_of(speech)


def test_a_recording_is_continued_as_a_wav_stream(client, speech):
    reply = client.post("/continue", content=wav(1.0), params={"seconds": 3, "seed": 7})
    assert reply.status_code == 200 and reply.headers["content-type"] == "audio/wav"
    samples = np.frombuffer(reply.content[44:], "<i2")
    assert reply.content[:4] == b"RIFF" and len(samples) == 3 * 16000
    expected = np.concatenate(list(FakeSpeech()._blocks(3, np.random.default_rng(7))))
    assert np.abs(samples / 32768 - expected).max() < 1e-4
    assert reply.headers["x-seed"] == "7"
    assert speech.requests == [
        {"samples": 16000, "seed": 7, "temperature": None, "top_k": None, "top_p": None}
        | {"windows": None}
    ]
    # The answer says how to get it again.
    one = client.post("/continue", content=wav(1.0), params={"seconds": 1})
    again = client.post(
        "/continue", content=wav(1.0), params={"seconds": 1, "seed": one.headers["x-seed"]}
    )
    assert one.content == again.content
    assert one.headers["x-prompt-sha256"] == again.headers["x-prompt-sha256"]


def test_options_and_prompts_are_passed_on(client, speech):
    config = client.get("/config").json()
    assert config["preset"] == "tiny" and config["limits"] == dataclasses.asdict(LIMITS)
    assert config["sampling"] == {"temperature": 0.9, "top_k": None, "top_p": 0.8}
    (prompt,) = config["prompts"]
    params = {"seconds": 1, "prompt": prompt["name"], "temperature": 0.5, "top_k": 3}
    reply = client.post("/continue", params={**params, "top_p": 0.7, "windows": "paper"})
    assert reply.headers["x-prompt-sha256"] == prompt["sha256"]
    found = speech.requests[0]
    assert (found["temperature"], found["top_k"], found["top_p"]) == (0.5, 3, 0.7)
    assert found["windows"] == "paper"
    assert client.get(f"/prompts/{prompt['name']}").content.startswith(b"fLaC")
    assert client.get("/prompts/..%2F..%2Fpyproject").status_code == 404


BAD = {
    "empty": (b"", "has no recording"),
    "text": (b"Call me Ishmael. " * 9, "cannot be read"),
    "cut": (wav(1.0)[:60], "holds 0.00 s|has no audio"),
    "short": (wav(0.2), "holds 0.20 s"),
    "silent": (wav(1.0)[:44] + bytes(32000), "silence"),
    "long": (wav(6.0, 8000), "longer than the limit of 5 s"),
    "channels": (wav(0.6, 8000, 12), "12 channels at 8000 Hz"),
    "rate": (wav(0.01, 400_000), "400000 Hz"),
    "nan": (wav(1.0, subtype="FLOAT")[:-4] + b"\xff\xff\xff\x7f", "NaN"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_recordings_are_refused_in_one_line(client, speech, kind):
    content, message = BAD[kind]
    reply = client.post("/continue", content=content, params={"seconds": 1})
    assert reply.status_code == 400, reply.text
    detail = reply.json()["detail"]
    assert re.search(message, detail), detail
    assert "\n" not in detail and "/tmp" not in detail
    assert speech.requests == [] and not client.get("/health").json()["busy"]


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"seconds": 21}, 400),
        ({"prompt": "nobody"}, 400),
        ({"top_k": 99}, 400),
        ({"seconds": 0}, 422),
        ({"seconds": "nan"}, 422),
        ({"seed": -1}, 422),
        ({"top_p": 2}, 422),
        ({"windows": "long"}, 422),
    ],
)
def test_bad_options_are_refused_and_free_the_worker(client, params, status):
    reply = client.post("/continue", content=wav(1.0), params={"seconds": 1, **params})
    assert reply.status_code == status, reply.text
    assert not client.get("/health").json()["busy"]


def test_large_uploads_are_refused_while_they_arrive(client, speech):
    sent = []

    def upload():
        for _ in range(1000):
            sent.append(1)
            yield bytes(10_000)

    reply = client.post("/continue", content=upload(), params={"seconds": 1})
    assert reply.status_code == 413 and "200000 bytes" in reply.json()["detail"]
    assert not client.get("/health").json()["busy"]


def test_the_page_loads_nothing_from_elsewhere(client):
    reply = client.get("/")
    assert (
        reply.status_code == 200
        and "default-src 'none'" in reply.headers["content-security-policy"]
    )
    assert "http://" not in reply.text and "https://" not in reply.text
    for part in ("record", "file", "prompts", "endless", "temperature", "top_p", "seed", "save"):
        assert f'id="{part}"' in reply.text


def test_openapi_documents_the_service(client):
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {"/health", "/config", "/continue"}
    post = document["paths"]["/continue"]["post"]
    assert "audio/wav" in post["responses"]["200"]["content"]
    assert "audio/*" in post["requestBody"]["content"] and "503" in post["responses"]


def test_a_token_guards_everything_but_the_page(speech):
    client = client_of(speech, token="secret")
    assert client.get("/").status_code == client.get("/health").status_code == 200
    options = {"content": wav(1.0), "params": {"seconds": 1}}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer é".encode()}):
        assert client.post("/continue", headers=headers, **options).status_code == 401
        assert client.get("/config", headers=headers).status_code == 401
        assert client.get("/prompts/prompt", headers=headers).status_code == 401
    assert speech.requests == []
    headers = {"Authorization": "Bearer secret"}
    assert client.post("/continue", headers=headers, **options).status_code == 200


def test_other_sites_cannot_use_a_local_service(client, speech):
    options = {"content": wav(1.0), "params": {"seconds": 1}}
    for headers in (
        {"Origin": "http://evil.example"},
        {"Host": "evil.example"},
        {"Origin": "null"},
    ):
        assert client.post("/continue", headers=headers, **options).status_code == 403
    headers = {"Origin": "http://localhost", "Host": "localhost"}
    assert client.post("/continue", headers=headers, **options).status_code == 200
    assert len(speech.requests) == 1


@pytest.fixture
def address(speech):
    """A real server: only that notices when a client leaves."""
    app = service.create_app(speech, "tiny", limits=LIMITS, local=True)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()
    speech.wait.set()
    server.should_exit = True
    thread.join()


def begin(address, query: str) -> socket.socket:
    connection = socket.create_connection(address)
    body = wav(1.0)
    head = f"POST /continue?{query} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    connection.sendall(head.encode() + b"\r\n" + body)
    assert connection.recv(12) == b"HTTP/1.1 200"
    return connection


def status_of(address, method: str, path: str, body: bytes = b"") -> tuple[str, str]:
    with socket.create_connection(address) as connection:
        head = f"{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: connection.recv(4096), b"")).decode(errors="replace")
    return answer.split()[1], answer


def test_one_session_at_a_time_which_ends_when_its_client_leaves(address, speech, monkeypatch):
    monkeypatch.setattr(service, "_LEAD_SECONDS", 0.5)  # a block, then it waits
    connection = begin(address, "seed=1")
    status, answer = status_of(address, "POST", "/continue?seconds=1", wav(1.0))
    assert status == "503" and "Retry-After: 10".lower() in answer.lower()
    assert '"busy":true' in status_of(address, "GET", "/health")[1]
    connection.close()
    assert speech.ended.wait(10)
    deadline = time.monotonic() + 10
    while '"busy":true' in status_of(address, "GET", "/health")[1]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert status_of(address, "POST", "/continue?seconds=1", wav(1.0))[0] == "200"


def test_speech_without_end_is_not_made_far_ahead(address, speech, monkeypatch):
    monkeypatch.setattr(service, "_LEAD_SECONDS", 3.0)
    start = time.monotonic()
    with begin(address, "seed=1"):
        while speech.num_blocks < 4:
            time.sleep(0.01)
        time.sleep(0.3)  # Without the limit there would be hundreds of blocks.
        assert speech.num_blocks <= 5 + (time.monotonic() - start)


def test_a_real_pipeline_answers_with_its_own_audio():
    speech = shared_tiny_pipeline()
    content = wav(1.0)
    reply = client_of(speech).post("/continue", content=content, params={"seconds": 2, "seed": 3})
    prompt = service.decode_upload(content, 5.0)
    expected = speech.continue_speech(prompt, seconds=2, seed=3)
    assert np.abs(np.frombuffer(reply.content[44:], "<i2") / 32768 - expected).max() < 1e-4
