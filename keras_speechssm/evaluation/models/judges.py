"""Who judges two texts: a language model on a server, one of KerasHub, or a likelihood."""

import hashlib
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from keras_speechssm.evaluation.metrics.side_by_side import TEMPLATE, Judge
from keras_speechssm.evaluation.models.text_models import TextModel, load_causal_lm, open_text_model
from keras_speechssm.files import cached_json

OFFLINE_JUDGE = "likelihood"

_REFUSED = {400, 413, 422}
"""What may be wrong with one question only: it is too long, or filtered."""

_MOST_REFUSED = 3
"""A service that refuses so many before it has answered any is asked wrongly."""


class RefusedPairError(ValueError):
    """A judge gives no verdict on this pair, which another time it may."""


def open_judge(name: str = OFFLINE_JUDGE, model: str | None = None) -> Judge:
    """A judge by its name.

    Args:
        name: `likelihood`; the address of an OpenAI-compatible service, such as
            `http://localhost:8000/v1`, its key in the environment variable `OPENAI_API_KEY`;
            or a preset of an instruction-tuned `keras_hub.models.CausalLM`.
        model: the model to ask the service for.
    """
    if name == OFFLINE_JUDGE:
        return LikelihoodJudge(open_text_model())
    if name.startswith(("http://", "https://")):
        if not model:
            raise ValueError(f"The judge {name} needs the name of a model to ask for.")
        return EndpointJudge(name, model, os.environ.get("OPENAI_API_KEY"))
    return KerasHubJudge(load_causal_lm(name, f"{OFFLINE_JUDGE}, an address"), name)


class CachedJudge:
    """A judge whose replies are kept on disk: no pair is judged twice, through kills too.

    Args:
        judge: who judges. A pair that it refuses gets the verdict "", which is not kept.
        folder: where replies are kept, one JSON file for each pair in each order.
    """

    def __init__(self, judge: Judge, folder: str | Path):
        self.name = judge.name
        self._judge = judge
        self._folder = Path(folder)

    def __call__(self, text_a: str, text_b: str) -> str:
        key = {"judge": self.name, "text_a": text_a, "text_b": text_b}
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
        path = self._folder / f"{digest[:32]}.json"
        try:
            return cached_json(path, key, lambda: self._judge(text_a, text_b))
        except RefusedPairError as error:
            print(error, file=sys.stderr)
            return ""


class LikelihoodJudge:
    """Prefers the text that a text model finds likelier, unit by unit: no reader's judgement.

    It knows fluency only, and favors what repeats. It stands in where no language model that
    follows instructions is at hand.

    Args:
        model: of `text_models`.
        slightly: nats a unit from which on a text is better; from three times as many on it
            is significantly better. Defaults to `0.05`.
    """

    name = OFFLINE_JUDGE

    def __init__(self, model: TextModel, slightly: float = 0.05):
        self._model = model
        self._slightly = slightly

    def __call__(self, text_a: str, text_b: str) -> str:
        (nats_a, units_a), (nats_b, units_b) = map(
            self._model.negative_log_likelihood, (text_a, text_b)
        )
        if not units_a or not units_b:
            label = "A=B" if units_a == units_b else "A>>B" if units_a else "B>>A"
            return f"[[{label}]]"
        better = nats_b / units_b - nats_a / units_a
        sign = ">>" if abs(better) >= 3 * self._slightly else ">"
        if abs(better) < self._slightly:
            return "[[A=B]]"
        return f"[[A{sign}B]]" if better > 0 else f"[[B{sign}A]]"


class KerasHubJudge:
    """A local `keras_hub.models.CausalLM` that follows instructions; asked without a chat format.

    Args:
        causal_lm: the model, with its preprocessor.
        name: what to call it.
        reply_tokens: int. Room for the reply.
    """

    def __init__(self, causal_lm: Any, name: str = "keras_hub", reply_tokens: int = 1024):
        self.name = name
        self._model = causal_lm
        # KerasHub samples unless told otherwise: the same question would get other verdicts.
        self._model.compile(sampler="greedy")
        self._reply_tokens = reply_tokens

    def __call__(self, text_a: str, text_b: str) -> str:
        question = TEMPLATE.format(text_a=text_a, text_b=text_b)
        # The question holds the labels itself: only what follows it is the reply.
        tokens = len(self._model.preprocessor.tokenizer(question)) + self._reply_tokens
        # Few lengths, since each is compiled.
        length = -(-tokens // 512) * 512
        return self._model.generate(question, max_length=length, strip_prompt=True)


class EndpointJudge:
    """A service with OpenAI's chat completions.

    Args:
        address: up to and with `/v1`.
        model: which to ask for.
        key: sent as bearer token, or `None`. It is never written anywhere.
        timeout: seconds for each reply.
        attempts: how often a failing request is sent, after 1, 2, 4, ... s. A pair that the
            service refuses for itself (too long, say) is not sent again.

    Raises:
        RefusedPairError: the service refuses this pair.
        ValueError: `address` or `key` is none, no attempt was answered, or the service refused
            the first three pairs.
    """

    def __init__(
        self,
        address: str,
        model: str,
        key: str | None = None,
        timeout: float = 120.0,
        attempts: int = 6,
    ):
        try:
            parts = urllib.parse.urlsplit(address)
            good = bool(parts.hostname) and " " not in address and (parts.port or 1) > 0
        except ValueError:
            good = False
        if not good:
            raise ValueError(f"{address!r} is no address; expected http://host:port/v1.")
        key = (key or "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ValueError("The key of the judge's service holds characters that no key has.")
        self.name = model
        self._refused, self._answered = 0, False
        self._address = address.rstrip("/") + "/chat/completions"
        self._key = key
        self._timeout = timeout
        self._attempts = attempts

    def __call__(self, text_a: str, text_b: str) -> str:
        question = TEMPLATE.format(text_a=text_a, text_b=text_b)
        content = {
            "model": self.name,
            "temperature": 0,
            "messages": [{"role": "user", "content": question}],
        }
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        body = json.dumps(content).encode()
        for attempt in range(self._attempts):
            request = urllib.request.Request(self._address, body, headers)
            try:
                with urllib.request.urlopen(request, timeout=self._timeout) as response:
                    reply = json.load(response)
                text = str(reply["choices"][0]["message"]["content"] or "")
            except urllib.error.HTTPError as error:
                reason = f"HTTPError: {error}"
                if error.code in _REFUSED:
                    self._refuse(reason)
            except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as e:
                reason = f"{type(e).__name__}: {e}"
            else:
                if not text:
                    self._refuse("an empty reply")
                self._answered = True
                return text
            if attempt + 1 < self._attempts:
                time.sleep(2.0**attempt)
        raise ValueError(f"The judge at {self._address} gave no reply ({reason}).")

    def _refuse(self, reason: str) -> None:
        self._refused += 1
        if not self._answered and self._refused >= _MOST_REFUSED:
            raise ValueError(f"The judge at {self._address} refuses what it is asked ({reason}).")
        raise RefusedPairError(f"The judge refuses a pair ({reason}).")
