import math

import numpy as np
import pytest

from keras_speechssm.audio.io import write_audio
from keras_speechssm.data.corpora import PHONEMES
from keras_speechssm.evaluation.studies import word_cover
from keras_speechssm.evaluation.studies.word_cover import (
    compare_word_cover,
    evaluate_word_cover,
    read_phonemes,
)

pytestmark = pytest.mark.any_backend

AA, AE, AH, AO = PHONEMES[:4]


class Tokenizer:
    """Each run of equal tokens is the phoneme of that number; token 0 is silence."""

    labels = None

    @classmethod
    def from_preset(cls, preset):
        return cls()

    def tokenize(self, waveform):
        return np.tile([1, 1, 2, 2, 3], len(waveform) // 3200)

    def phonemes(self, tokens):
        return [
            [now for now, before in zip(row, [0, *row], strict=False) if now not in (0, before)]
            for row in np.asarray(tokens).tolist()
        ]


class Repeating:
    """A language model that repeats the last token of the prompt, or the prompt."""

    def __init__(self, whole):
        self.whole = whole
        self.sampling = []

    def generate(self, prompts, num_tokens, **sampling):
        self.sampling.append(sampling)
        kept = prompts if self.whole else prompts[:, -1:]
        return np.resize(kept[0], (len(prompts), num_tokens))


def test_models_lie_between_shuffled_tokens_and_the_truth():
    tokens = np.tile([1, 1, 2, 2, 3], (2, 8))
    models = {"good": Repeating(True), "bad": Repeating(False)}
    lexicon = {(AA, AE, AH)}
    report = compare_word_cover(models, Tokenizer(), tokens, 20, lexicon, min_phonemes=3)
    # 20 tokens are four times three phonemes in 0.8 s.
    assert report["truth"] == {"cover": 1.0, "phonemes_per_second": pytest.approx(15.0)}
    assert report["good"]["continuation"] == report["truth"]
    assert report["good"]["shuffled"]["cover"] < 1.0
    assert report["good"]["cover_of_truth"] == 1.0
    assert report["bad"]["continuation"]["cover"] == 0.0
    assert models["good"].sampling == [{"seed": 0}]
    longer = compare_word_cover(models, Tokenizer(), tokens, 20, lexicon, min_phonemes=4)
    assert longer["truth"]["cover"] == 0.0 and math.isnan(longer["good"]["cover_of_truth"])


def test_recordings_and_options_reach_the_models(monkeypatch, tmp_path):
    model = Repeating(True)
    monkeypatch.setattr(word_cover, "SemanticTokenizer", Tokenizer)
    monkeypatch.setattr(word_cover, "load_part", lambda preset, part: model)
    for name in ("one", "two"):
        write_audio(tmp_path / f"{name}.wav", np.full(16000 * 5, 0.1, "float32"))
    (tmp_path / "words.txt").write_text(f"word {AA} {AE} {AH}\n")
    report = evaluate_word_cover(
        tmp_path,
        speech_lms=["a", "b"],
        prompt_seconds=2.0,
        seconds=2.0,
        lexicon=str(tmp_path / "words.txt"),
        min_phonemes=3,
        temperature=0.5,
        top_p=0.9,
        seed=7,
    )
    assert set(report) == {"num_recordings", "truth", "a", "b"}
    assert report["num_recordings"] == 2 and report["truth"]["cover"] > 0.9
    expected = {"temperature": 0.5, "top_k": None, "top_p": 0.9, "seed": 7}
    assert model.sampling == [expected, expected]


def test_phonemes_are_named():
    assert read_phonemes(Tokenizer(), [[0, 1, 1, 4], [2, 0, 0, 2]]) == [[AA, AO], [AE, AE]]
