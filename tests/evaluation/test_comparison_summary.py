import numpy as np
import pytest

pytest.importorskip("scipy")

from keras_speechssm.evaluation.compare import has_failed, summarize_items

pytestmark = pytest.mark.any_backend


def minute(**changes):
    return {
        "silence_fraction": 0.1,
        "non_speech_fraction": 0.2,
        "repeated_4_grams": 0.0,
        "words": 100,
        **changes,
    }


def item(**changes):
    return {
        "nll_nats_per_unit": 4.0,
        "n_mos": None,
        "nats": 40.0,
        "units": 10,
        "num_words": 10,
        "seconds": 60.0,
        "semantic_similarity": 0.5,
        "speaker_similarity": 0.8,
        "auto_bleu": 0.1,
        "auto_bleu_arithmetic": 0.2,
        "slamkit_auto_bleu": 0.3,
        "repeated_4_grams": 0.0,
        "words_per_minute": 100.0,
        "word_confidence": 0.5,
        "sc_l": [0.5, 0.3],
        "n_mos_t": [3.0, None],
        "over_time": [minute()],
        **changes,
    }


def test_means_leave_out_what_could_not_be_measured():
    silent = item(nll_nats_per_unit=None, nats=0.0, units=0, num_words=0, sc_l=[])
    found = summarize_items(
        {"a": item(), "b": item(nll_nats_per_unit=2.0, nats=60.0, units=30), "c": silent}
    )
    assert found["nll_nats_per_unit"]["mean"] == 3.0 and found["nll_nats_per_unit"]["num"] == 2
    assert found["perplexity_per_unit"] == pytest.approx(np.exp(3.0))
    assert found["pooled_nll_nats_per_unit"] == pytest.approx(100 / 40)
    assert found["num_without_words"] == 1 and found["num_items"] == 3
    assert [entry["num"] for entry in found["sc_l"]] == [2, 2]
    assert found["n_mos_t"][1]["num"] == 0 and np.isnan(found["n_mos_t"][1]["mean"])


def test_minutes_that_failed_of_few_recordings_are_not_sure():
    found = summarize_items({"a": item(), "b": item()})["over_time"]["failed"]
    assert found[0]["mean"] == 0.0 and found[0]["high"] > 0.7


def test_curves_are_as_long_as_the_longest():
    found = summarize_items({"a": item(sc_l=[0.5]), "b": item(sc_l=[0.1, 0.2, 0.3])})
    assert [entry["mean"] for entry in found["sc_l"]] == pytest.approx([0.3, 0.2, 0.3])
    assert [entry["num"] for entry in found["sc_l"]] == [2, 1, 1]


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({}, 0.0),
        ({"words": 0}, 1.0),
        ({"non_speech_fraction": 0.51}, 1.0),
        ({"repeated_4_grams": 0.9}, 1.0),
    ],
)
def test_a_minute_fails_by_silence_noise_or_repetition(changes, failed):
    assert has_failed(minute(**changes)) == failed
