import dataclasses

import instruments as fakes
import numpy as np
import pytest

pytest.importorskip("scipy")

from keras_speechssm.evaluation import compare as item_measures
from keras_speechssm.evaluation.compare import has_failed
from keras_speechssm.evaluation.metrics.naturalness import minute_spans
from keras_speechssm.evaluation.models.transcript import Word

pytestmark = pytest.mark.any_backend


def whole(waveform):
    """Speech from the first to the last sample that is not silent."""
    loud = np.flatnonzero(np.abs(waveform) > 0)
    return [(loud[0] / 16000, (loud[-1] + 1) / 16000)] if len(loud) else []


@pytest.fixture(autouse=True)
def turns(monkeypatch):
    monkeypatch.setattr(item_measures, "speech_turns", whole)


def measure(continuation, reference=None):
    prompt = fakes.speak(["sea"] * 10)
    true = continuation if reference is None else reference
    seconds = len(true) / 16000
    spans = minute_spans("item", 10.0, 10 + seconds)
    return item_measures.measure_item(
        prompt, continuation, true, fakes.instruments(), spans, seconds, seconds
    )


def test_a_continuation_by_hand():
    said = ["sea", "ship", "gull", "ship"] * 5
    found = measure(fakes.speak(said))
    assert found["prompt_text"] == "sea " * 9 + "sea"
    assert found["text"].split() == said
    # Prompt and continuation in one go: a word that is cut between them is read as one.
    assert found["joint_text"].split() == ["sea"] * 10 + said
    assert found["num_words"] == 20 and found["seconds"] == 20.0
    assert found["words_per_minute"] == pytest.approx(60.0)
    # Steps of one, and each round but the last one more from ship back to sea.
    assert found["nll_nats_per_unit"] == pytest.approx(19 / 20)
    assert found["semantic_similarity"] == pytest.approx(1.0)
    assert found["repeated_4_grams"] == pytest.approx(13 / 17)
    assert found["n_mos_t"][0] == pytest.approx(1 + 4 * 0.3, abs=0.01)
    assert found["n_mos_t"][1:] == [None] * 3
    assert found["speaker_similarity"] == pytest.approx(np.cos(0.2 - 0.1))
    assert found["over_time"] == [
        {
            "silence_fraction": 0.0,
            "non_speech_fraction": 0.0,
            "repeated_4_grams": pytest.approx(13 / 17),
            "words": 20,
        }
    ]


def test_the_continuation_alone_is_measured_not_the_prompt():
    first = measure(fakes.speak(["crew"] * 3))
    assert first["text"] == "crew crew crew" and first["units"] == 3


def test_silence_has_no_words_no_voice_and_no_likelihood():
    found = measure(np.zeros(20 * 16000, "float32"), fakes.speak(["sea"] * 20))
    assert found["text"] == found["joint_text"] == "" and found["nll_nats_per_unit"] is None
    assert found["speaker_similarity"] is None and found["semantic_similarity"] == 0.0
    assert found["over_time"][0]["non_speech_fraction"] == 1.0
    assert found["over_time"][0]["silence_fraction"] == 1.0
    assert found["n_mos_t"][0] == 1.0


def test_words_that_nobody_says_do_not_count(monkeypatch):
    # As pocketsphinx does: it is sure to hear a word in digital silence.
    tools = fakes.instruments()
    heard = tools.transcriber(fakes.speak(["sea"]))
    silent = np.zeros(5 * 16000, "float32")
    hearing = dataclasses.replace(tools, transcriber=lambda waveform: heard)
    found = item_measures.measure_item(
        fakes.speak(["sea"]), silent, silent, hearing, minute_spans("item", 1.0, 6.0), 5.0, 5.0
    )
    assert found["text"] == "" and found["num_words"] == 0
    assert found["word_confidence"] is None and found["nats"] == 0


def test_a_system_that_stops_early_is_judged_on_the_truths_minutes():
    found = measure(fakes.speak(["sea"] * 3), fakes.speak(["sea"] * 80))
    assert found["n_mos_t"] == [1.0, 1.0, None, None]
    assert found["words_per_minute"] == pytest.approx(3 * 60 / 80)


def test_who_stops_early_has_failed_in_the_minutes_that_follow():
    long = fakes.speak(["sea"] * 230)
    for continuation in (
        fakes.speak(fakes.VOCABULARY),
        np.concatenate([fakes.speak(fakes.VOCABULARY), np.zeros(200 * 16000, "float32")]),
        np.zeros(0, "float32"),
    ):
        minutes = measure(continuation, long)["over_time"]
        # Nine words in a minute, less than half of it.
        assert [has_failed(minute) for minute in minutes] == [1.0] * 4
        assert [minute["non_speech_fraction"] for minute in minutes[1:]] == [1.0] * 3


def test_a_rest_of_a_second_is_no_minute():
    waveform = np.concatenate([fakes.speak(fakes.VOCABULARY * 7), np.zeros(16000, "float32")])
    assert len(measure(waveform)["over_time"]) == 1  # 64 s
    assert len(measure(fakes.speak(["sea"] * 95))["over_time"]) == 2


def test_nothing_at_all_is_measured_too():
    found = measure(np.zeros(0, "float32"), fakes.speak(["sea"] * 20))
    assert found["words_per_minute"] == 0 and has_failed(found["over_time"][0])


def test_punctuation_and_case_do_not_hide_repetition(monkeypatch):
    monkeypatch.setattr(
        item_measures, "words_to_text", lambda words: "Sea, ship. Gull wave sea ship gull wave!"
    )
    monkeypatch.setattr(fakes.TextModel, "negative_log_likelihood", lambda self, text: (1.0, 1))
    assert measure(fakes.speak(["sea"]))["repeated_4_grams"] == pytest.approx(1 / 5)


def test_punctuation_does_not_hide_repetition_over_time_either():
    tools = fakes.instruments()
    texts = ["Sea,", "ship.", "gull", "wave", "sea", "ship", "gull!", "wave?"]
    words = [Word(text, float(place), place + 1.0) for place, text in enumerate(texts)]
    prompt, said = fakes.speak(["sea"]), fakes.speak(["sea"] * 8)

    class Transcriber:
        name = "punctuates"

        def __call__(self, waveform):
            return words if len(waveform) == len(said) else []

    class Likelihood:
        name, unit = "none", "word"

        def negative_log_likelihood(self, text):
            return 1.0, 1

    tools = dataclasses.replace(tools, transcriber=Transcriber(), text_model=Likelihood())
    found = item_measures.measure_item(prompt, said, None, tools, [None] * 4, 8.0, 8.0)
    assert found["over_time"][0]["repeated_4_grams"] == found["repeated_4_grams"] == 1 / 5


def test_a_short_continuation_is_rated_as_a_whole():
    assert measure(fakes.speak(["sea"] * 6 + ["gull"]))["n_mos"] == pytest.approx(2.2, abs=0.01)
    assert measure(np.zeros(7 * 16000, "float32"))["n_mos"] == 1.0
    assert measure(fakes.speak(["sea"] * 16))["n_mos"] is None


def test_a_truth_that_ends_soon_is_neither_short_form_nor_a_minute(monkeypatch):
    """Of a recording of 12 s among those that are judged to four minutes."""
    prompt, true = fakes.speak(["sea"] * 10), fakes.speak(["sea"] * 2)
    tools = fakes.instruments()
    found = item_measures.measure_item(prompt, true, true, tools, [None] * 4, 2.0, 230.0)
    assert found["n_mos"] is None and found["over_time"] == []
    assert found["num_words"] == 2
    silent = np.zeros(2 * 16000, "float32")
    hearing = dataclasses.replace(tools, transcriber=lambda waveform: 1 / 0)
    assert item_measures._similarity("sea", silent, hearing) == 0.0  # words of silence


def test_without_a_reference_nothing_is_compared_with_it():
    prompt = said = fakes.speak(["sea"] * 3)
    tools = fakes.instruments()
    found = item_measures.measure_item(prompt, said, None, tools, [None] * 4, 3.0, 3.0)
    assert found["semantic_similarity"] is None and found["num_words"] == 3
