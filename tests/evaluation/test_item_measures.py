import instruments as fakes
import numpy as np
import pytest

pytest.importorskip("scipy")

from keras_speechssm.evaluation import item_measures


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
    return item_measures.measure_item(
        "item", prompt, continuation, true, fakes.instruments(), 10 + len(true) / 16000
    )


def test_a_continuation_by_hand():
    said = ["sea", "ship", "gull", "ship"] * 5
    found = measure(fakes.speak(said))
    assert found["prompt_text"] == "sea " * 9 + "sea"
    assert found["text"].split() == said
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
            "silent_share": 0.0,
            "non_speech_share": 0.0,
            "repeated_4_grams": pytest.approx(13 / 17),
            "words": 20,
        }
    ]


def test_the_continuation_alone_is_measured_not_the_prompt():
    first = measure(fakes.speak(["crew"] * 3))
    assert first["text"] == "crew crew crew" and first["units"] == 3


def test_silence_has_no_words_no_voice_and_no_likelihood():
    found = measure(np.zeros(20 * 16000, "float32"), fakes.speak(["sea"] * 20))
    assert found["text"] == "" and found["nll_nats_per_unit"] is None
    assert found["speaker_similarity"] is None and found["semantic_similarity"] == 0.0
    assert found["over_time"][0]["non_speech_share"] == 1.0
    assert found["over_time"][0]["silent_share"] == 1.0
    assert found["n_mos_t"][0] == 1.0


def test_a_system_that_stops_early_is_judged_on_the_truths_minutes():
    found = measure(fakes.speak(["sea"] * 3), fakes.speak(["sea"] * 80))
    assert found["n_mos_t"] == [1.0, 1.0, None, None]
    assert len(found["over_time"]) == 1


def test_nothing_at_all_is_measured_too():
    found = measure(np.zeros(0, "float32"), fakes.speak(["sea"] * 20))
    assert found["words_per_minute"] is None and found["over_time"] == []
