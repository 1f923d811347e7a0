import json
import socket
import threading
import types
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from keras_speechssm.evaluation.metrics.side_by_side import parse_verdict
from keras_speechssm.evaluation.models import judges, openai_service
from keras_speechssm.evaluation.models.judges import (
    JUDGE_TEMPLATE,
    CachedJudge,
    EndpointJudge,
    KerasHubJudge,
    LikelihoodJudge,
    fill_template,
    read_judge_template,
)
from keras_speechssm.evaluation.models.transcript import plain_words

pytestmark = pytest.mark.any_backend


class Service(BaseHTTPRequestHandler):
    replies: ClassVar[list] = []
    requests: ClassVar[list] = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Service.requests.append((self.path, self.headers.get("Authorization"), json.loads(body)))
        status, content = Service.replies.pop(0)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setattr(openai_service.time, "sleep", lambda seconds: None)
    server = HTTPServer(("127.0.0.1", 0), Service)
    Service.replies, Service.requests = [], []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/"
    server.shutdown()
    server.server_close()


def content(reply):
    return json.dumps({"choices": [{"message": {"content": reply}}]})


def test_a_service_is_asked_and_its_reply_given(service, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    Service.replies = [(200, content("so [[A>B]]"))]
    judge = judges.load_judge(service, "gemma")
    assert judge("one text", "the other") == "so [[A>B]]"
    path, key, asked = Service.requests[0]
    assert path == "/v1/chat/completions" and key == "Bearer secret"
    assert asked["model"] == judge.name == "gemma" and asked["temperature"] == 0
    question = asked["messages"][0]["content"]
    assert question.index("one text") < question.index("the other")


def test_a_failing_service_is_asked_again(service):
    Service.replies = [(500, "busy"), (200, "no json"), (200, content("[[A=B]]"))]
    assert EndpointJudge(service, "gemma")("a", "b") == "[[A=B]]"
    assert len(Service.requests) == 3 and Service.requests[0][1] is None


@pytest.mark.parametrize("status", [400, 413, 422, 200])
def test_a_pair_that_the_service_refuses_gets_no_verdict(service, status, caplog, tmp_path):
    refusal = content(None) if status == 200 else "context length exceeded"
    Service.replies = [(status, refusal), (200, content("[[A>B]]"))]
    judge = CachedJudge(EndpointJudge(service, "gemma"), tmp_path)
    assert parse_verdict(judge("a", "b")) is None and len(Service.requests) == 1
    assert ("empty reply" if status == 200 else str(status)) in caplog.text
    # It is not kept: asked again, with the key put right say, there may be one.
    assert parse_verdict(judge("a", "b")) == 1


def test_a_service_that_refuses_everything_is_no_judge(service, tmp_path):
    Service.replies = [(400, "API key not valid")] * 3
    judge = CachedJudge(EndpointJudge(service, "gemma"), tmp_path)
    assert [judge(text, "b") for text in "cd"] == ["", ""]
    with pytest.raises(ValueError, match="refuses every question"):
        judge("e", "b")


def test_a_key_from_a_file_is_stripped_and_an_odd_one_never_shown(service):
    Service.replies = [(200, content("[[A=B]]"))]
    EndpointJudge(service, "gemma", "secret\r\n")("a", "b")
    assert Service.requests[0][1] == "Bearer secret"
    with pytest.raises(ValueError) as error:
        EndpointJudge(service, "gemma", "sec\nret")
    assert "ret" not in str(error.value)


def test_a_service_that_never_replies_is_one_clear_line(service):
    Service.replies = [(500, "busy"), (200, "{}"), (503, "")]
    with pytest.raises(ValueError, match="gave no reply"):
        EndpointJudge(service, "gemma", attempts=3)("a", "b")


@pytest.mark.parametrize(
    "reply", [b"garbage", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nx"]
)
def test_a_service_that_speaks_nonsense_is_one_clear_line(monkeypatch, reply):
    monkeypatch.setattr(openai_service.time, "sleep", lambda seconds: None)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            for _ in range(2):
                connection, _ = server.accept()
                connection.recv(65536)
                connection.sendall(reply)
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        with pytest.raises(ValueError, match="gave no reply"):
            EndpointJudge(address, "gemma", attempts=2)("a", "b")
        thread.join()


@pytest.mark.parametrize("address", ["http://localhost:abc/v1", "http:///v1", "http://a b/v1"])
def test_what_is_no_address_is_said_at_once(address):
    with pytest.raises(ValueError, match="is not an address"):
        judges.load_judge(address, "gemma")


def test_no_pair_is_judged_twice(tmp_path):
    asked = []

    class Judge:
        name = "judge"

        def __call__(self, text_a, text_b):
            asked.append((text_a, text_b))
            return f"[[A>B]] {len(asked)}"

    first = CachedJudge(Judge(), tmp_path)
    assert first.name == "judge"
    assert first("a", "b") == first("a", "b") == "[[A>B]] 1"
    assert CachedJudge(Judge(), tmp_path)("a", "b") == "[[A>B]] 1"
    assert first("b", "a") == "[[A>B]] 2" and asked == [("a", "b"), ("b", "a")]
    for path in tmp_path.glob("*.json"):
        path.write_text("{")
    assert first("a", "b") == "[[A>B]] 3"


def test_a_service_needs_a_model():
    with pytest.raises(ValueError, match="needs the name of a model"):
        judges.load_judge("http://localhost:1/v1")


def test_a_local_models_labels_in_the_question_are_no_reply():
    model = LocalModel()
    assert parse_verdict(KerasHubJudge(model, reply_tokens=64)("x", "y")) == -1
    # The same question gets the same verdict: nothing is drawn.
    assert model.sampler == "greedy"


def test_long_transcripts_fit_a_local_model():
    model = LocalModel()
    judge = KerasHubJudge(model, reply_tokens=64)
    judge("word " * 3000, "word " * 3000)
    judge("word " * 3001, "word " * 3000)
    long, other = model.lengths
    assert 6000 + 64 < long < 7000 and long % 512 == 0
    assert other == long  # compiled once


def test_a_local_reply_that_fills_its_length_is_no_verdict():
    model = LocalModel()
    judge = KerasHubJudge(model, reply_tokens=64)
    judge("x", "y")
    room = model.lengths[0] - model.num_asked
    model.reply = "[[A>B]] " + "because " * (room - 2)
    with pytest.raises(judges.RefusedPairError, match="keras_hub was cut at its maximum length"):
        judge("x", "y")


class LocalModel:
    """Its tokens are words."""

    reply = "Text B is better: [[B>A]]"

    def __init__(self):
        self.lengths = []
        self.preprocessor = types.SimpleNamespace(tokenizer=str.split)

    def compile(self, sampler):
        self.sampler = sampler

    def generate(self, question, max_length, strip_prompt):
        self.lengths.append(max_length)
        self.num_asked = len(question.split())
        assert strip_prompt and "[[A=B]]" in question
        return self.reply


class Lengths:
    name, unit = "lengths", "word"

    def negative_log_likelihood(self, text):
        words = text.split()
        return float(sum(map(len, words))), len(words)


@pytest.mark.parametrize(
    ("first", "second", "reply"),
    [
        ("a a", "aaa aaa", "[[A>>B]]"),
        ("aaa", "a", "[[B>>A]]"),
        ("aa", "bb", "[[A=B]]"),
        ("", "b", "[[B>>A]]"),
        ("a", "", "[[A>>B]]"),
        ("", "", "[[A=B]]"),
    ],
)
def test_the_likelier_text_wins(first, second, reply):
    assert LikelihoodJudge(Lengths())(first, second) == reply


def test_a_little_likelier_is_slightly_better():
    judge = LikelihoodJudge(Lengths(), slightly=0.5)
    assert judge("a", "aa") == "[[A>B]]" and judge("aa", "a") == "[[B>A]]"
    assert judge("a", "aaa") == "[[A>>B]]"


def test_the_template_has_both_texts_the_criteria_and_all_labels():
    filled = fill_template(JUDGE_TEMPLATE, "alpha", "beta {text_a} {x}")
    assert filled.index("alpha") < filled.index("beta {text_a} {x}")
    for word in ("Fluency", "Coherence", "Logicality", "Interestingness"):
        assert word in filled
    for label in ("A>>B", "A>B", "A=B", "B>A", "B>>A"):
        assert f"[[{label}]]" in filled


def test_a_template_from_a_file_replaces_ours(service, tmp_path):
    path = tmp_path / "question.txt"
    path.write_text("B: {text_b}, A: {text_a}, {other}")
    template = read_judge_template(path)
    Service.replies = [(200, content("[[A>B]]")), (200, content("[[B>A]]"))]
    judge = judges.load_judge(service, "gemma", template)
    assert CachedJudge(judge, tmp_path, template)("one", "two") == "[[A>B]]"
    question = Service.requests[0][2]["messages"][0]["content"]
    assert question == "B: two, A: one, {other}"
    # A reply to another question is not used.
    assert CachedJudge(judge, tmp_path, "other")("one", "two") == "[[B>A]]"
    path.write_text("A: {text_a}")
    with pytest.raises(ValueError, match="lacks {text_b}"):
        read_judge_template(path)
    assert read_judge_template(None) == JUDGE_TEMPLATE


def test_a_model_that_refuses_a_temperature_is_asked_without(service, caplog):
    refusal = {"message": "Unsupported value: 'temperature' does not support 0 with this model."}
    Service.replies = [(400, json.dumps({"error": refusal}))] + [(200, content("[[A=B]]"))] * 2
    judge = EndpointJudge(service, "reasoner")
    assert judge("a", "b") == judge("c", "d") == "[[A=B]]"
    assert ["temperature" in request[2] for request in Service.requests] == [True, False, False]
    assert "fixed temperature" in caplog.text


def test_a_reply_that_was_cut_gives_no_verdict(service, tmp_path, caplog):
    choice = {"message": {"content": "one of [[A>>B]], [[B>>A]]"}, "finish_reason": "length"}
    Service.replies = [(200, json.dumps({"choices": [choice]}))]
    assert CachedJudge(EndpointJudge(service, "gemma"), tmp_path)("a", "b") == ""
    assert "cut at its maximum length" in caplog.text and not any(tmp_path.iterdir())


def test_a_reply_in_parts_is_joined(service):
    parts = [{"type": "text", "text": "so "}, {"type": "text", "text": "[[A>B]]"}]
    Service.replies = [(200, content(parts))]
    assert EndpointJudge(service, "gemma")("a", "b") == "so [[A>B]]"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_is_not_asked_again(service, status):
    words = {"error": {"message": "The model does not exist\nor you do not have access."}}
    Service.replies = [(status, json.dumps(words))]
    with pytest.raises(ValueError, match="exist or you do not have access.*OPENAI_API_KEY") as e:
        EndpointJudge(service, "gemma", "wrong")("a", "b")
    assert len(Service.requests) == 1 and f"HTTP {status}" in str(e.value)
    assert "wrong" not in str(e.value) and "\n" not in str(e.value)


def test_a_refusal_has_the_service_s_own_words(service, caplog, tmp_path):
    Service.replies = [(400, '{"detail": "too many tokens"}'), (400, "plain " * 200)]
    judge = CachedJudge(EndpointJudge(service, "gemma"), tmp_path)
    assert judge("a", "b") == judge("c", "b") == ""
    assert "HTTP 400 Bad Request: too many tokens" in caplog.text
    assert "plain plain" in caplog.text and max(map(len, caplog.text.splitlines())) < 600


def test_words_are_the_same_with_typographic_apostrophes_and_decomposed_letters():
    plain = "i don't know it's o'clock na\u00efve caf\u00e9 half-past".split()
    for text in (
        "I don\u2019t know; it\u2019s o\u2018clock, nai\u0308ve cafe\u0301 half-past!",
        "I don't know; it\u02bcs o\uff07clock: na\u00efve 'caf\u00e9' half-past",
    ):
        assert plain_words(text) == plain
    assert plain_words("\u0939\u093f\u0928\u094d\u0926\u0940 x") == [
        "\u0939\u093f\u0928\u094d\u0926\u0940",
        "x",
    ]
