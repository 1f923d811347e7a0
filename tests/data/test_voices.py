"""The voices: the same ones every time, held-out ones apart, and audible."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from keras_speechssm.data import voices
from keras_speechssm.data.corpora import PHONEMES
from keras_speechssm.data.voices import make_voices, missing_programs, pronounce, speak

needs_programs = pytest.mark.skipif(
    bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}"
)


@pytest.mark.parametrize("program", ["flite", "espeak-ng"])
def test_voices_depend_on_the_seed_alone(program):
    crowd = make_voices(3, program)
    assert crowd == make_voices(3, program)
    assert crowd != make_voices(4, program)
    assert len({voice.name for voice in crowd}) == len(crowd)
    assert all(-26 <= voice.level <= -14 and 0.9 <= voice.timbre <= 1.12 for voice in crowd)


@pytest.mark.parametrize("program", ["flite", "espeak-ng"])
def test_heldout_voices_are_other_voices_not_other_settings(program):
    def bases(heldout):
        return {voice.base.split("+")[-1] for voice in make_voices(0, program, heldout)}

    assert bases(True) and bases(False) and not bases(True) & bases(False)


@needs_programs
@pytest.mark.parametrize("program", ["flite", "espeak-ng"])
@pytest.mark.parametrize("heldout", [False, True])
def test_speaking_takes_the_planned_time_and_is_repeatable(program, heldout):
    text = "The country round was pleasant, and the evening warm. They walked on together."
    for voice in make_voices(0, program, heldout)[:3]:
        waveform = speak(text, voice)
        assert waveform.dtype == np.float32 and waveform.ndim == 1
        assert 0.05 < np.abs(waveform).max() <= 1.5
        seconds = len(waveform) / 16_000
        assert 0.6 < seconds / (len(text) / voice.characters_per_second) < 1.6
        np.testing.assert_array_equal(waveform, speak(text, voice))


@needs_programs
def test_slower_and_longer_tracts_take_longer():
    for program in ("flite", "espeak-ng"):
        voice = replace(make_voices(0, program)[0], timbre=1.0, slowness=1.0)
        plain = len(speak("One two three four five.", voice))
        slower = len(speak("One two three four five.", replace(voice, slowness=1.25)))
        longer = len(speak("One two three four five.", replace(voice, timbre=0.9)))
        assert slower > 1.1 * plain
        assert abs(longer - plain / 0.9) <= 2


@needs_programs
def test_pronunciation():
    assert pronounce("Hello there.") == ("hh", "ax", "l", "ow", "dh", "eh", "r")
    assert set(pronounce("The quick brown fox, jumping over lazy dogs; why?")) <= set(PHONEMES)


def test_a_failing_program_is_told():
    with pytest.raises(RuntimeError, match=r"python.* failed \(3\): no voice"):
        voices._run(
            [sys.executable, "-c", "import sys; print('no voice', file=sys.stderr); sys.exit(3)"]
        )
