import instruments as fakes
import numpy as np
import pytest

pytest.importorskip("scipy")

from keras_speechssm.audio.io import write_audio
from keras_speechssm.evaluation import compare as item_measures
from keras_speechssm.evaluation.studies import sanity
from keras_speechssm.evaluation.studies.sanity import (
    Reference,
    corrupt,
    evaluate_sanity,
    read_speakers,
)

pytestmark = pytest.mark.any_backend


def speech(words=("sea", "ship", "gull", "wave", "rope", "mast", "sail")):
    waveform = fakes.speak([*words, *words])
    return Reference("a", waveform[: 2 * 16000], waveform[2 * 16000 :])


def test_ruins_are_as_long_as_the_truth_and_each_is_wrong():
    one, other = speech(), speech(("deck", "crew"))
    for kind in sanity.CAUGHT_BY:
        found = corrupt(kind, one, other)
        assert found.shape == one.continuation.shape and found.dtype == np.float32
        same = np.array_equal(found, one.continuation)
        assert same == (kind == "shuffled words")  # its transcript is shuffled, not its audio


def test_speakers_are_joined_recordings(tmp_path):
    for speaker in ("a", "b"):
        for number in range(3):
            folder = tmp_path / speaker
            folder.mkdir(exist_ok=True)
            write_audio(folder / f"{number}.flac", np.full(16000, 0.1 * number, "float32"))
    found = read_speakers([tmp_path / "a", tmp_path / "b"], 1.0, 2.5)
    assert [len(s.prompt) for s in found] == [16000] * 2
    assert [len(s.continuation) for s in found] == [24000] * 2
    assert found[0].continuation[0] == pytest.approx(0.1, abs=1e-4)
    with pytest.raises(ValueError, match="has less than 4 s"):
        read_speakers([tmp_path / "a", tmp_path / "b"], 2.0, 60.0)
    for folders in ([tmp_path / "a"], [tmp_path / "a", tmp_path / "b", tmp_path / "b" / "."]):
        with pytest.raises(ValueError, match="at least two speakers"):
            read_speakers(folders, 1.0, 2.5)
    for prompt, seconds in ((-3.0, 20.0), (1.0, float("inf")), (1.0, 1.0), (1.0, 1.5)):
        with pytest.raises(ValueError, match="prompt_seconds is|until_seconds is|twice the"):
            evaluate_sanity(
                [tmp_path / "a", tmp_path / "b"],
                tmp_path / "out",
                prompt_seconds=prompt,
                seconds=seconds,
            )


def test_opinions_are_of_what_was_said_where_speakers_say_less():
    said = speech()
    found = sanity._measure(said, said.continuation, fakes.instruments())
    assert found["n_mos_t"] is not None and found["n_mos_t"] > 1.0


def test_every_ruin_is_caught_by_instruments_that_work(tmp_path, monkeypatch):
    monkeypatch.setattr(item_measures, "load_transcriber", lambda name: fakes.Transcriber())
    monkeypatch.setattr(item_measures, "load_text_model", lambda name: fakes.TextModel())
    monkeypatch.setattr(
        item_measures, "load_sentence_embedder", lambda name, prompt=None: fakes.Embedder()
    )
    monkeypatch.setattr(item_measures, "open_speaker_embedder", lambda name: fakes.Voice())
    monkeypatch.setattr(item_measures, "load_mos_predictor", lambda name: fakes.Loudness())
    monkeypatch.setattr(
        item_measures, "speech_turns", lambda w: [(0, len(w) / 16000)] * bool(w.any())
    )
    texts = {"a": ["sea", "ship"] * 3 + ["gull"] * 110, "b": ["deck"] * 60 + ["crew"] * 56}
    for name, words in texts.items():
        (tmp_path / name).mkdir()
        write_audio(tmp_path / name / "x.flac", fakes.speak(words))
    found = evaluate_sanity(
        [tmp_path / "a", tmp_path / "b"], tmp_path / "out", prompt_seconds=2.0, seconds=116.0
    )
    assert found["speakers"] == ["a", "b"]
    caught = {(kind, name) for kind in sanity.CAUGHT_BY for name in sanity.CAUGHT_BY[kind]}
    # Words of these instruments are levels, which have neither direction nor confidence, and
    # noise is loud.
    blind = {("time-reversed", name) for name in sanity.CAUGHT_BY["time-reversed"]}
    blind |= {("noise", "non_speech_fraction"), ("noise", "n_mos_t")}
    for kind, name in sorted(caught - blind):
        assert found[kind][name]["caught"] >= 0.5, (kind, name, found[kind][name])
    assert found["shuffled words"]["nll_nats_per_unit"]["caught"] == 1.0
    assert found["shuffled words"]["side_by_side"] == {
        "truth": 100.0,
        "corrupted": 0.0,
        "caught": 1.0,
    }
    assert found["another speaker"]["semantic_similarity"]["caught"] == 1.0
    assert found["silence"]["num_words"] == {"truth": 114.0, "corrupted": 0.0, "caught": 1.0}
    assert found["silence"]["silence_fraction"]["caught"] == 1.0
    table = (tmp_path / "out" / "sanity.md").read_text()
    assert "| silence | num_words | 114 | 0 | 100% |" in table
    # Constant levels of one word are no worse backwards: the measure must not say so.
    assert found["time-reversed"]["semantic_similarity"]["caught"] == 0.0
