"""Load test of `speechssm serve`: many clients, clients that leave, and broken uploads.

python benchmarks/serve_load.py                        # a small model with random weights
python benchmarks/serve_load.py --url http://127.0.0.1:8000/ --seconds 10

Without `--url` the service runs in a child process, with a model of random weights and a window
of two seconds. The script prints counts and the service's resident memory as JSON, and ends with
status 1 if an answer was wrong, the service did not recover, or its memory grew.
"""

import argparse
import collections
import concurrent.futures
import http.client
import io
import json
import socket
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[1]

SERVICE = """
import sys
sys.path.insert(0, "tests")
import uvicorn
from tiny_models import shared_tiny_pipeline
from keras_speechssm.serve.app import create_app
app = create_app(shared_tiny_pipeline(), "tiny", local=True)
server = uvicorn.Server(uvicorn.Config(app, port=int(sys.argv[1]), log_level="error"))
server.run()
"""


def recording(seconds: float, seed: int) -> bytes:
    """Return a WAV file of noise."""
    noise = 0.1 * np.random.default_rng(seed).standard_normal(round(16000 * seconds))
    soundfile.write(file := io.BytesIO(), noise, 16000, format="WAV")
    return file.getvalue()


class Client:
    """Requests to a service.

    Args:
        url: Its address.
        seconds: Length of the continuations.
    """

    def __init__(self, url: str, seconds: float):
        self.address = urllib.parse.urlsplit(url)
        self.seconds = seconds

    def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Return status and content of an answer."""
        connection = http.client.HTTPConnection(self.address.hostname, self.address.port, 600)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def speak(self, seed: int) -> str:
        """Continue a recording; returns the status, or what is wrong with the answer."""
        body = recording(1.0 + seed % 3 / 2, seed)
        path = f"/continue?seconds={self.seconds}&seed={seed}"
        status, content = self.request("POST", path, body)
        expected = 44 + 2 * round(16000 * self.seconds)
        if status == 200 and len(content) != expected:
            return f"{len(content)} bytes instead of {expected}"
        return str(status)

    def leave(self, seed: int) -> str:
        """Begin speech without end, and leave after the first bytes."""
        body = recording(1.0, seed)
        host = self.address.hostname
        with socket.create_connection((host, self.address.port), 600) as connection:
            head = f"POST /continue?seed={seed} HTTP/1.1\r\nHost: {host}\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            return connection.recv(12).decode().split()[-1]

    def send_garbage(self, seed: int) -> str:
        """Send an upload that is cut, or not audio, or missing."""
        whole = recording(1.0, seed)
        body = (b"", whole[:50], whole[:4000], bytes(5000), whole[::-1])[seed % 5]
        return str(self.request("POST", f"/continue?seconds=1&seed={seed}", body)[0])

    def wait_until_free(self, seconds: float = 120.0) -> None:
        """Wait until no recording is being continued."""
        deadline = time.monotonic() + seconds
        while json.loads(self.request("GET", "/health")[1])["busy"]:
            if time.monotonic() > deadline:
                raise RuntimeError("The service does not become free.")
            time.sleep(0.02)


def memory_mib(process: int | None) -> float | None:
    """Return the resident memory of a process on Linux."""
    status = Path(f"/proc/{process}/status")
    if process is None or not status.is_file():
        return None
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def run(client: Client, process: int | None, num_requests: int) -> dict:
    """Run all parts of the test.

    Args:
        client: Client of the service.
        process: Id of the service's process, if it is on this computer.
        num_requests: Number of requests of the last part, which watches the memory.
    """
    report: dict = {}

    def count(name: str, results) -> None:
        report[name] = dict(collections.Counter(results))

    count("sequential", map(client.speak, range(100)))
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        count("concurrent", threads.map(client.speak, range(64)))
    client.wait_until_free()
    left = []
    for seed in range(20):
        left.append(client.leave(seed))
        client.wait_until_free()
    count("left", left)
    count("broken", map(client.send_garbage, range(20)))
    count("after", map(client.speak, range(3)))
    memory = []
    for number in range(num_requests):
        client.speak(number % 7)
        if number % 50 == 49:
            memory.append(memory_mib(process))
    report["memory_mib_per_50_requests"] = memory
    return report


def check(report: dict) -> list[str]:
    """Return what is wrong in a report."""
    wrong = []
    if report["sequential"] != {"200": 100} or report["after"] != {"200": 3}:
        wrong.append("a request alone was not answered")
    if not set(report["concurrent"]) <= {"200", "503"} or "200" not in report["concurrent"]:
        wrong.append("concurrent requests got something else than 200 and 503")
    if report["left"] != {"200": 20} or not set(report["broken"]) <= {"400", "200"}:
        wrong.append("clients that left, or broken uploads, were handled wrongly")
    memory = [mib for mib in report["memory_mib_per_50_requests"] if mib]
    if len(memory) > 2 and memory[-1] > 1.02 * memory[1] + 5:
        wrong.append(f"the memory grew from {memory[1]:.0f} to {memory[-1]:.0f} MiB")
    return wrong


def main() -> int:
    """Run the test against a running service, or start one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", help="address of a running service")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of the continuations")
    parser.add_argument("--requests", type=int, default=500, help="requests that watch the memory")
    options = parser.parse_args()
    service = None
    if options.url is None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        service = subprocess.Popen([sys.executable, "-c", SERVICE, str(port)], cwd=ROOT)
        options.url = f"http://127.0.0.1:{port}/"
    client = Client(options.url, options.seconds)
    try:
        for _ in range(600):
            try:
                client.wait_until_free()
                break
            except OSError:
                time.sleep(0.5)
        report = run(client, service and service.pid, options.requests)
    finally:
        if service is not None:
            service.terminate()
            service.wait()
    wrong = check(report)
    print(json.dumps({**report, "wrong": wrong}, indent=2))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
