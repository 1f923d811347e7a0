"""Judges of two texts: a language model on a server, one of KerasHub, or a likelihood."""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any, NoReturn, Protocol

from keras_speechssm.evaluation.models.openai_service import (
    RequestRefusedError,
    is_address,
    open_session,
    request_reply,
)
from keras_speechssm.evaluation.models.text_models import (
    TextModel,
    load_causal_lm,
    load_text_model,
)
from keras_speechssm.files import cached_json

logger = logging.getLogger(__name__)

OFFLINE_JUDGE = "likelihood"

JUDGE_TEMPLATE = """# Your task

You will read two texts, A and B. Both are automatic transcripts of recordings of somebody reading a book aloud. Every recording was cut after the same time, so a text may stop in the middle of a sentence or of a paragraph; this is not a fault of either text.

Decide which text is the better one. Consider four criteria:
- Fluency: is the grammar correct?
- Coherence: does each sentence fit the sentences around it?
- Logicality: does what happens agree with common sense?
- Interestingness: would a reader enjoy the text?

Work in this order:
1. Comment on text A by the four criteria.
2. Comment on text B by the four criteria.
3. Compare the two texts by the four criteria. Which text comes first and which is called A must not matter.
4. End with exactly one of these labels as your verdict:
   - [[A>>B]] if text A is significantly better
   - [[A>B]] if text A is slightly better
   - [[A=B]] if both are about equally good
   - [[B>A]] if text B is slightly better
   - [[B>>A]] if text B is significantly better

The last line of a reply could be: "Verdict: [[A=B]]"

# Text A

{text_a}

# Text B

{text_b}

# Your comparison
"""  # noqa: E501
"""The question to a language model, in our own words.

Its criteria, scale and labels are those of the paper (appendix D). The paper's own text can be
read from a file: see `read_judge_template`.
"""

_CUT = {"length", "max_tokens"}
"""Why a service ended a reply before its end."""

# A service that refuses so many questions before it has answered any is misconfigured.
_MAX_REFUSALS = 3


class Judge(Protocol):
    """Compare two texts; the reply contains a verdict such as `[[A>B]]`, or none."""

    name: str

    def __call__(self, text_a: str, text_b: str) -> str: ...


class RefusedPairError(ValueError):
    """The judge gives no verdict on this pair; it may at another time."""


def load_judge(
    name: str = OFFLINE_JUDGE, model: str | None = None, template: str = JUDGE_TEMPLATE
) -> Judge:
    """Load a judge by its name.

    Args:
        name: `likelihood`; the address of an OpenAI-compatible service, such as
            `http://localhost:8000/v1`, with its key in the environment variable
            `OPENAI_API_KEY`; or a preset of an instruction-tuned `keras_hub.models.CausalLM`.
        model: Model to request from the service.
        template: Question with the places `{text_a}` and `{text_b}`. `likelihood` ignores it.

    Raises:
        ValueError: A service was given without a model, or KerasHub cannot load the preset.
    """
    if name == OFFLINE_JUDGE:
        return LikelihoodJudge(load_text_model())
    if is_address(name):
        if not model:
            raise ValueError(f"The judge {name} needs the name of a model: set --judge-model.")
        return EndpointJudge(name, model, os.environ.get("OPENAI_API_KEY"), template=template)
    return KerasHubJudge(load_causal_lm(name, f"{OFFLINE_JUDGE}, an address"), name, template)


def read_judge_template(path: str | Path | None) -> str:
    """Read a question for judges from a text file.

    Use it for exact comparisons with the paper, whose question is in its appendix D.

    Args:
        path: File with the places `{text_a}` and `{text_b}`. With `None`, the template of this
            package.

    Raises:
        ValueError: The file does not exist or lacks one of the places.
    """
    if path is None:
        return JUDGE_TEMPLATE
    if not Path(path).is_file():
        raise ValueError(f"The judge template {path} does not exist.")
    template = Path(path).read_text(encoding="utf-8")
    for place in ("{text_a}", "{text_b}"):
        if place not in template:
            raise ValueError(f"The judge template {path} lacks {place}, where a text belongs.")
    return template


def fill_template(template: str, text_a: str, text_b: str) -> str:
    """Put two texts into a template; other braces in the template are kept."""
    before, after = template.split("{text_a}", 1)
    # The texts themselves may contain the marks of the places.
    if "{text_b}" in after:
        middle, end = after.split("{text_b}", 1)
        return before + text_a + middle + text_b + end
    start, middle = before.split("{text_b}", 1)
    return start + text_b + middle + text_a + after


class CachedJudge:
    """Keeps the replies of a judge on disk, so that no pair is judged twice.

    Args:
        judge: Who judges. A pair that it refuses gets the reply `""`, which is not kept.
        folder: Folder for one JSON file per pair and order.
        template: The judge's template; replies to another one are not used.
    """

    def __init__(self, judge: Judge, folder: str | Path, template: str = JUDGE_TEMPLATE):
        self.name = judge.name
        self._judge = judge
        self._folder = Path(folder)
        self._template = hashlib.sha256(template.encode()).hexdigest()[:16]

    def __call__(self, text_a: str, text_b: str) -> str:
        key = {
            "judge": self.name,
            "template": self._template,
            "text_a": text_a,
            "text_b": text_b,
        }
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
        path = self._folder / f"{digest[:32]}.json"
        try:
            return cached_json(path, key, lambda: self._judge(text_a, text_b))
        except RefusedPairError as error:
            logger.warning("%s", error)
            return ""


class LikelihoodJudge:
    """Prefers the text that a text model finds more likely per unit.

    It measures fluency only and favors repetition. Use it when no language model that follows
    instructions is available.

    Args:
        model: A `TextModel`.
        slightly: Difference in nats per unit from which on a text is slightly better; three
            times as much is significantly better. Defaults to `0.05`.
    """

    name = OFFLINE_JUDGE

    def __init__(self, model: TextModel, slightly: float = 0.05):
        self._model = model
        self._slightly = slightly

    def __call__(self, text_a: str, text_b: str) -> str:
        nats_a, units_a = self._model.negative_log_likelihood(text_a)
        nats_b, units_b = self._model.negative_log_likelihood(text_b)
        if not units_a or not units_b:
            label = "A=B" if units_a == units_b else "A>>B" if units_a else "B>>A"
            return f"[[{label}]]"
        difference = nats_b / units_b - nats_a / units_a
        if abs(difference) < self._slightly:
            return "[[A=B]]"
        sign = ">>" if abs(difference) >= 3 * self._slightly else ">"
        return f"[[A{sign}B]]" if difference > 0 else f"[[B{sign}A]]"


class KerasHubJudge:
    """A local, instruction-tuned `keras_hub.models.CausalLM`, without a chat format.

    Args:
        causal_lm: The model, with its preprocessor.
        name: Name to report. Defaults to `"keras_hub"`.
        template: Question with the places `{text_a}` and `{text_b}`.
        reply_tokens: Maximal length of a reply in tokens. Defaults to `1024`.

    Raises:
        RefusedPairError: The reply is cut at its maximal length.
    """

    def __init__(
        self,
        causal_lm: Any,
        name: str = "keras_hub",
        template: str = JUDGE_TEMPLATE,
        reply_tokens: int = 1024,
    ):
        self.name = name
        self._model = causal_lm
        self._template = template
        # KerasHub samples by default; the same question must get the same verdict.
        self._model.compile(sampler="greedy")
        self._reply_tokens = reply_tokens

    def __call__(self, text_a: str, text_b: str) -> str:
        question = fill_template(self._template, text_a, text_b)
        tokenizer = self._model.preprocessor.tokenizer
        num_asked = len(tokenizer(question))
        # Each length is compiled, so there are few of them.
        length = -(-(num_asked + self._reply_tokens) // 512) * 512
        # The question contains the labels, so only what follows it is the reply.
        reply = self._model.generate(question, max_length=length, strip_prompt=True)
        # KerasHub does not say whether the end token was reached. A few tokens of it are special.
        if len(tokenizer(reply)) >= length - num_asked - 8:
            raise RefusedPairError(f"The reply of {self.name} was cut at its maximum length.")
        return reply


class EndpointJudge:
    """A service with OpenAI's chat completions.

    Args:
        address: Address up to and including `/v1`.
        model: Model to request.
        key: Bearer token, or `None`. It is never written anywhere.
        template: Question with the places `{text_a}` and `{text_b}`.
        timeout: Seconds to wait for each reply. Defaults to `120.0`.
        attempts: How often a failing request is sent, with pauses of 1, 2, 4, ... s. A pair
            that the service refuses (because it is too long, for instance) is not sent again.

    The temperature is 0, except for models that accept only their own.

    Raises:
        RefusedPairError: The service refuses this pair, or cuts its reply at a maximum length.
        ValueError: `address` or `key` is malformed, the service does not accept the key or does
            not know the model, no attempt was answered, or the service refused the first three
            pairs.
    """

    def __init__(
        self,
        address: str,
        model: str,
        key: str | None = None,
        *,
        template: str = JUDGE_TEMPLATE,
        timeout: float = 120.0,
        attempts: int = 6,
    ):
        self.name = model
        self._template = template
        self._num_refused, self._has_answered = 0, False
        self._options: dict[str, Any] = {"temperature": 0}
        self._address = address.rstrip("/") + "/chat/completions"
        self._timeout = timeout
        self._attempts = attempts
        self._session = open_session(address, key)

    def __call__(self, text_a: str, text_b: str) -> str:
        question = fill_template(self._template, text_a, text_b)
        content: dict[str, Any] = {
            "model": self.name,
            "messages": [{"role": "user", "content": question}],
        }
        name = f"The judge at {self._address}"
        try:
            text, finish = request_reply(
                lambda: self._post(content), _read_choice, name, self._attempts
            )
        except RequestRefusedError as error:
            if error.is_final:
                raise ValueError(
                    f"{name} cannot be used ({error}); check the address, --judge-model and "
                    "OPENAI_API_KEY."
                ) from error
            self._refuse(str(error))
        if finish in _CUT:
            self._refuse(f"its reply was cut at its maximum length, finish_reason {finish!r}")
        if not text:
            self._refuse("an empty reply")
        self._has_answered = True
        return text

    def _post(self, content: dict) -> Any:
        """Send a question, without a temperature if the model refuses that."""
        response = self._session.post(
            self._address, json={**content, **self._options}, timeout=self._timeout
        )
        if response.status_code == 400 and self._options and "temperature" in response.text:
            logger.warning("%s has a fixed temperature, which is used.", self.name)
            self._options = {}
            return self._post(content)
        return response

    def _refuse(self, reason: str) -> NoReturn:
        self._num_refused += 1
        if not self._has_answered and self._num_refused >= _MAX_REFUSALS:
            raise ValueError(f"The judge at {self._address} refuses every question ({reason}).")
        raise RefusedPairError(f"The judge refuses a pair ({reason}).")


def _read_choice(reply: Any) -> tuple[str, str | None]:
    """Return the text of a reply, and why it ended."""
    choice = reply["choices"][0]
    return _text(choice["message"].get("content")), choice.get("finish_reason")


def _text(content: Any) -> str:
    """Join the text of a reply, which may be a string or a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content)
    return str(content or "")
