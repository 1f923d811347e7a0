"""Requests to services with OpenAI's interface: judges and transcribers."""

import time
import urllib.parse
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

# These may concern one request only: it is too long, or filtered.
_REFUSED_STATUSES = {400, 413, 422}

# The address, the key or the model is wrong: sending the request again does not help.
_FINAL_STATUSES = {401, 403, 404, 405, 410}

_MAX_REASON = 300
"""Characters of a service's own words in a message."""


class RequestRefusedError(Exception):
    """The service refuses a request. The message is the reason.

    Args:
        reason: Status, and what the service says.
        is_final: Whether it would refuse every other request, too.
    """

    def __init__(self, reason: str, is_final: bool):
        super().__init__(reason)
        self.is_final = is_final


def is_address(text: str) -> bool:
    """Return whether a text is the address of a service, good or bad."""
    return text.startswith(("http://", "https://"))


def open_session(address: str, key: str | None) -> Any:
    """Return a `requests.Session` for a service.

    Args:
        address: Address up to and including `/v1`.
        key: Bearer token, or `None`. It is never written anywhere.

    Raises:
        ValueError: `address` or `key` is malformed.
    """
    import requests

    try:
        parts = urllib.parse.urlsplit(address)
        is_valid = bool(parts.hostname) and " " not in address and (parts.port or 1) > 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ValueError(f"{address!r} is not an address; expected http://host:port/v1.")
    key = (key or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError("OPENAI_API_KEY contains characters that a key cannot have.")
    session = requests.Session()
    if key:
        session.headers["Authorization"] = f"Bearer {key}"
    return session


def request_reply(
    send: Callable[[], Any], read: Callable[[Any], T], name: str, attempts: int = 6
) -> T:
    """Send a request until the service replies.

    Args:
        send: Sends the request, and returns the response.
        read: Function from the JSON of a good response to the reply. What is not in the expected
            form counts as a failed attempt.
        name: Who is asked, for messages.
        attempts: How often a failing request is sent, with pauses of 1, 2, 4, ... s.

    Raises:
        RequestRefusedError: The service refuses the request; it is not sent again.
        ValueError: No attempt was answered.
    """
    import requests

    reason = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(2.0 ** (attempt - 1))
        try:
            response = send()
            status = response.status_code
            if status in (_REFUSED_STATUSES | _FINAL_STATUSES):
                raise RequestRefusedError(_service_words(response), status in _FINAL_STATUSES)
            if response.ok:
                return read(response.json())
            reason = _service_words(response)
        except (requests.RequestException, LookupError, TypeError, AttributeError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
    raise ValueError(f"{name} gave no reply ({reason}).")


def _service_words(response: Any) -> str:
    """Return the status of a response and what the service says about it, in one line."""
    words = response.text
    try:
        body = response.json()
        error = body.get("error", body.get("detail", body.get("message", words)))
        words = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        pass
    words = " ".join(str(words).split())
    if len(words) > _MAX_REASON:
        words = words[:_MAX_REASON] + "..."
    status = f"HTTP {response.status_code} {response.reason}".strip()
    return f"{status}: {words}" if words else status
