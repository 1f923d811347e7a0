import json

import numpy as np
import pytest

from keras_speechssm.audio.io import write_audio
from keras_speechssm.evaluation.studies import intelligibility
from keras_speechssm.evaluation.studies.intelligibility import (
    compare_word_errors,
    evaluate_intelligibility,
)
from tests import instruments

pytestmark = pytest.mark.any_backend


def test_errors_are_counted_over_all_words_and_set_in_relation():
    excerpts = [
        (instruments.speak(words), " ".join(words)) for words in (["sea", "ship", "gull"], ["crew"])
    ]
    excerpts[0] = (instruments.speak(["sea", "ship", "wave"]), "Sea, ship; gull!")

    def restore(waveform):
        return waveform[: -16000 if len(waveform) > 16000 else None]  # the last word is lost

    found = compare_word_errors(excerpts, restore, instruments.Transcriber())
    assert found["original"] == found["resynthesized"] == pytest.approx(1 / 4)
    worse = compare_word_errors(excerpts, lambda x: np.zeros_like(x), instruments.Transcriber())
    assert worse["resynthesized"] == 1.0 and worse["ratio"] == pytest.approx(4.0)
    assert (worse["num_words"], worse["num_excerpts"]) == (4, 2)
    same = compare_word_errors(excerpts[1:], lambda x: x, instruments.Transcriber())
    assert np.isnan(same["ratio"])
    with pytest.raises(ValueError, match="The excerpts have no words"):
        compare_word_errors([], restore, instruments.Transcriber())


def test_excerpts_are_whole_segments_of_the_recordings_that_are_meant(tmp_path, monkeypatch):
    words = ["sea", "ship", "gull", "wave", "rope"]
    for name in ("0000_flite-slt", "0001_flite-rms", "0002_espeak-m1"):
        write_audio(tmp_path / f"{name}.wav", instruments.speak(words))
        segments = [{"start": n, "end": n + 1.0, "text": w.title()} for n, w in enumerate(words)]
        (tmp_path / f"{name}.json").write_text(json.dumps({"segments": segments}))
    write_audio(tmp_path / "plain.wav", np.zeros(16000))
    seen = []

    class Pipeline:
        sample_rate = 16_000

        @classmethod
        def from_preset(cls, preset):
            return cls()

        def resynthesize(self, waveform, seed):
            seen.append(len(waveform))
            return waveform

    monkeypatch.setattr(intelligibility, "SpeechContinuation", Pipeline)
    monkeypatch.setattr(intelligibility, "load_transcriber", lambda n: instruments.Transcriber())
    found = evaluate_intelligibility([tmp_path], name_contains="flite", excerpt_seconds=3.5)
    assert seen == [48000, 48000] and found["num_words"] == 6
    assert found["original"] == found["resynthesized"] == 0.0
    sidecar = tmp_path / "0000_flite-slt.json"
    sidecar.write_text(sidecar.read_text().replace("Gull", ""))
    evaluate_intelligibility([tmp_path], name_contains="flite-slt", excerpt_seconds=9)
    assert seen[2:] == [32000]  # up to where the words are not known
    with pytest.raises(ValueError, match=r"with 'gold' in its name"):
        evaluate_intelligibility([tmp_path], name_contains="gold")
