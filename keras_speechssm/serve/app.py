"""A small HTTP service that continues recordings: `speechssm serve`.

One worker continues one recording at a time, in constant memory. The page, the audio and the
documentation of the service come from this process; nothing is loaded from elsewhere.
"""

import asyncio
import base64
import dataclasses
import hashlib
import importlib.metadata
import io
import ipaddress
import logging
import re
import secrets
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import soundfile
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, StreamingResponse

from keras_speechssm.audio.io import MIN_PROMPT_SECONDS, WavStream, read_audio, read_speech
from keras_speechssm.checks import check_at_least, check_between
from keras_speechssm.config import draw_seed
from keras_speechssm.data.corpora import example_prompt
from keras_speechssm.pipeline import SpeechContinuation

logger = logging.getLogger(__name__)

_PAGE = Path(__file__).with_name("page.html")

_LEAD_SECONDS = 60.0
"""Speech without end is made at most this far ahead of the time since its start."""

_HASH_PATTERN = re.compile(r"<script>(.*?)</script>", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class ServeLimits:
    """What a request may ask for.

    Args:
        max_upload_bytes: Largest recording, in bytes.
        max_prompt_seconds: Seconds of a recording that are used at most. Longer recordings are
            refused.
        max_seconds: Longest continuation in seconds, unless it is without end.
    """

    max_upload_bytes: int = 20 * 2**20
    max_prompt_seconds: float = 60.0
    max_seconds: float = 3600.0

    def __post_init__(self):
        check_at_least(1, max_upload_bytes=self.max_upload_bytes)
        check_at_least(MIN_PROMPT_SECONDS, max_prompt_seconds=self.max_prompt_seconds)
        check_at_least(0, max_seconds=self.max_seconds)


DEFAULT_LIMITS = ServeLimits()


class Session:
    """One continuation. It holds the worker's lock until it is closed.

    Args:
        lock: The lock of the worker, acquired.
    """

    def __init__(self, lock: threading.Lock):
        self._lock = lock
        self._closed = False
        self.blocks: Iterator[np.ndarray] = iter(())

    async def audio(self, sample_rate: int, endless: bool) -> AsyncIterator[bytes]:
        """Yield the WAV stream, block by block. The models run in another thread."""
        buffer = io.BytesIO()
        stream = WavStream(buffer, sample_rate)
        start = time.monotonic()
        while True:
            content = buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
            yield content
            lead = stream.seconds - (time.monotonic() - start)
            if endless and lead > _LEAD_SECONDS:
                await asyncio.sleep(lead - _LEAD_SECONDS)
            block = await run_in_threadpool(next, self.blocks, None)
            if block is None:
                return
            stream.write(block)

    def close(self) -> None:
        """End the continuation, and let the worker continue another recording."""
        if not self._closed:
            self._closed = True
            self.blocks = iter(())  # frees the state
            self._lock.release()


class _SpeechResponse(StreamingResponse):
    """A stream that ends its session, whether it is complete or its reader has left."""

    def __init__(self, session: Session, content, headers: dict[str, str]):
        super().__init__(content, media_type="audio/wav", headers=headers)
        self.session = session

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.session.close()


def create_app(
    speech: SpeechContinuation,
    name: str = "",
    token: str | None = None,
    limits: ServeLimits = DEFAULT_LIMITS,
    local: bool = False,
) -> FastAPI:
    """Create the service.

    Args:
        speech: The pipeline.
        name: Name of its preset, for the page.
        token: Secret that requests must have as `Authorization: Bearer TOKEN`. Defaults to
            `None`: none is needed.
        limits: What a request may ask for.
        local: Whether only requests to `localhost` are answered. Pages of other sites could
            otherwise reach a service on this computer under a name of theirs.

    Returns:
        A FastAPI application.

    Example:

    ```python
    import uvicorn
    from keras_speechssm import SpeechContinuation
    from keras_speechssm.serve.app import create_app

    app = create_app(SpeechContinuation.from_preset("speech_ssm_demo_en"))
    uvicorn.run(app, port=8000)
    ```
    """
    version = importlib.metadata.version("keras-speechssm")
    app = FastAPI(title="keras_speechssm", version=version, docs_url=None, redoc_url=None)
    lock = threading.Lock()
    prompts = {path.stem: path for path in [example_prompt()]}
    hashes = {name: _sha256(path.read_bytes()) for name, path in prompts.items()}
    page = _PAGE.read_text(encoding="utf-8")
    policy = _content_policy(page)

    @app.middleware("http")
    async def check_host(request: Request, call_next):
        if local and not _is_local(request.url.hostname):
            return JSONResponse({"detail": "This service answers to localhost only."}, 403)
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
            return JSONResponse({"detail": "Pages of other sites cannot use this service."}, 403)
        return await call_next(request)

    def check_token(authorization: Annotated[str | None, Header()] = None) -> None:
        given = (authorization or "").removeprefix("Bearer ")
        if token is not None and not secrets.compare_digest(given.encode(), token.encode()):
            raise HTTPException(401, "The token is missing or wrong.")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def read_page():
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    @app.get("/health")
    def read_health() -> dict:
        """Say that the service runs, and whether it is continuing a recording."""
        return {"status": "ok", "busy": lock.locked(), "version": version}

    @app.get("/config", dependencies=[Depends(check_token)])
    def read_config() -> dict:
        """Describe the pipeline, its defaults, the limits, and the prompts to try."""
        return {
            "preset": name,
            "sample_rate": speech.sample_rate,
            "sampling": speech.sampling._asdict(),
            "windows": speech.synthesis.windows,
            "limits": dataclasses.asdict(limits),
            "prompts": [{"name": known, "sha256": hashes[known]} for known in prompts],
        }

    @app.get("/prompts/{name}", dependencies=[Depends(check_token)], include_in_schema=False)
    def read_prompt(name: str):
        if name not in prompts:
            raise HTTPException(404, f"There is no prompt {name!r}.")
        return FileResponse(prompts[name])

    @app.post(
        "/continue",
        dependencies=[Depends(check_token)],
        response_class=StreamingResponse,
        responses={
            200: {"content": {"audio/wav": {}}, "description": "A WAV stream, as it is made."},
            400: {"description": "The recording or an option cannot be used."},
            401: {"description": "The token is missing or wrong."},
            413: {"description": "The recording is too large."},
            503: {"description": "The worker is continuing another recording."},
        },
        openapi_extra={
            "requestBody": {
                "description": "The recording: WAV, FLAC, OGG, Opus, MP3 or AIFF. Empty with "
                "`prompt`.",
                "content": {"audio/*": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def continue_recording(
        request: Request,
        seconds: Annotated[
            float | None, Query(gt=0, description="Seconds of new speech; without: endless.")
        ] = None,
        prompt: Annotated[
            str | None, Query(description="A prompt of `/config`, instead of a recording.")
        ] = None,
        temperature: Annotated[float | None, Query(ge=0, le=10)] = None,
        top_k: Annotated[int | None, Query(ge=1)] = None,
        top_p: Annotated[float | None, Query(gt=0, le=1)] = None,
        seed: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
        windows: Literal["growing", "paper"] | None = None,
    ):
        """Continue a recording of speech in the same voice.

        The answer is a WAV stream (16 bits, mono). Its header `X-Seed` has the seed, with which
        the same request gives the same audio, and `X-Prompt-SHA256` the hash of the recording.
        """
        if seconds is not None and seconds > limits.max_seconds:
            raise HTTPException(400, f"seconds is above the limit of {limits.max_seconds:g}.")
        if not lock.acquire(blocking=False):
            raise HTTPException(
                503,
                "The worker is continuing another recording; try again in a moment.",
                {"Retry-After": "10"},
            )
        session = Session(lock)
        try:
            longest = limits.max_prompt_seconds
            if prompt is None:
                content = await _read_upload(request, limits.max_upload_bytes)
            elif prompt in prompts:
                content, longest = prompts[prompt].read_bytes(), 3600.0
            else:
                raise HTTPException(400, f"There is no prompt {prompt!r}; see /config.")
            chosen = draw_seed() if seed is None else seed
            session.blocks = await run_in_threadpool(
                lambda: speech.stream(
                    decode_upload(content, longest),
                    seconds=seconds,
                    seed=chosen,
                    temperature=temperature,
                    top_k=top_k,
                    top_p=top_p,
                    windows=windows,
                )
            )
        except ValueError as error:
            session.close()
            raise HTTPException(400, " ".join(str(error).split())) from None
        except BaseException:  # the reader has left, too
            session.close()
            raise
        headers = {"X-Seed": str(chosen), "X-Prompt-SHA256": _sha256(content)}
        audio = session.audio(speech.sample_rate, endless=seconds is None)
        return _SpeechResponse(session, audio, {**headers, "Cache-Control": "no-store"})

    return app


def decode_upload(content: bytes, max_seconds: float) -> np.ndarray:
    """Decode an uploaded recording, without trusting what it says about itself.

    Args:
        content: The file.
        max_seconds: Length that is accepted. No more than that is decoded.

    Returns:
        float32 (samples,) at 16 kHz.

    Raises:
        ValueError: The file is not audio, or is too long, too short, or silent.
    """
    if not content:
        raise ValueError("The request has no recording; send one, or choose a prompt.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording"
        path.write_bytes(content)
        try:
            about = soundfile.info(path)
            if about.channels > 8 or about.samplerate > 192_000:
                raise ValueError(
                    f"{path} has {about.channels} channels at {about.samplerate} Hz; expected at "
                    "most 8 channels at 192000 Hz."
                )
            waveform = read_audio(path, duration=max_seconds + 1.0)
        except soundfile.LibsndfileError:
            raise ValueError(
                "The recording cannot be read; expected WAV, FLAC, OGG, Opus, MP3 or AIFF."
            ) from None
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), "The recording")) from None
    if len(waveform) > max_seconds * 16_000:
        raise ValueError(f"The recording is longer than the limit of {max_seconds:g} s.")
    return read_speech(waveform)


def serve(
    speech: SpeechContinuation,
    name: str = "",
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    limits: ServeLimits = DEFAULT_LIMITS,
) -> None:
    """Compile the models and serve them until an interrupt.

    Args:
        speech: The pipeline.
        name: Name of its preset, for the page.
        host: Address to listen on. Defaults to this computer only.
        port: Port to listen on.
        token: See `create_app`.
        limits: What a request may ask for.
    """
    check_between(0, 65535, port=port)
    app = create_app(speech, name, token, limits, local=_is_local(host))
    next(speech.stream(str(example_prompt()), seed=0))
    logger.info("Open http://%s:%d/ in a browser. Ctrl-C ends the service.", host, port)
    uvicorn.run(app, host=host, port=port, log_level="warning")


async def _read_upload(request: Request, max_bytes: int) -> bytes:
    """Read the body of a request, and no more than is allowed."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > max_bytes:
            raise HTTPException(413, f"The recording has more than {max_bytes} bytes.")
    return bytes(content)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_local(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _content_policy(page: str) -> str:
    """Allow the page its own script, its own service, and nothing else."""
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in _HASH_PATTERN.findall(page)
    ]
    scripts = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; connect-src 'self'; "
        "media-src 'self' blob:; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
