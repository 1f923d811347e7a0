"""Tests of the synthetic voices."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from keras_speechssm.data.corpora import PHONEMES
from keras_speechssm.data.recipes.synthesized import voices
from keras_speechssm.data.recipes.synthesized.voices import (
    add_reverberation,
    check_programs,
    make_voices,
    missing_programs,
    pronounce,
    set_level,
    text_to_speech,
)

pytestmark = pytest.mark.any_backend

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


def test_half_of_the_voices_stand_in_a_room():
    crowd = make_voices(0, "flite") + make_voices(0, "espeak-ng")
    rooms = [voice.reverberation for voice in crowd]
    assert 0.25 < sum(seconds > 0 for seconds in rooms) / len(rooms) < 0.75
    assert max(rooms) <= 0.45 and make_voices(0, "flite")[0].reverberation == 0


def test_a_room_lasts_as_long_as_it_says_and_begins_with_the_direct_sound():
    click = np.zeros(16_000, "float32")
    click[1000] = 1.0
    heard = add_reverberation(click, 0.4)
    assert heard.dtype == np.float32 and heard.shape == click.shape
    np.testing.assert_allclose(heard[:1000], 0.0, atol=1e-6)
    assert heard[1000] == pytest.approx(1.0, abs=1e-3)
    energy = np.cumsum(heard[:1000:-1] ** 2)[::-1]  # what is still to come
    decay = 10 * np.log10(energy / energy[0])
    assert 10 * np.log10(energy[0]) == pytest.approx(-8, abs=0.1)
    assert np.argmax(decay < -30) / 16_000 == pytest.approx(0.2, abs=0.03)
    np.testing.assert_array_equal(add_reverberation(click, 0.0), click)


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
        waveform = text_to_speech(text, voice).waveform
        assert waveform.dtype == np.float32 and waveform.ndim == 1
        assert 0.05 < np.abs(waveform).max() <= 1.5
        seconds = len(waveform) / 16_000
        assert 0.6 < seconds / (len(text) / voice.characters_per_second) < 1.6
        np.testing.assert_array_equal(waveform, text_to_speech(text, voice).waveform)


@needs_programs
def test_slower_and_longer_tracts_take_longer():
    for program in ("flite", "espeak-ng"):
        voice = replace(make_voices(0, program)[0], timbre=1.0, duration_scale=1.0)
        plain = len(text_to_speech("One two three four five.", voice).waveform)
        slow, long = replace(voice, duration_scale=1.25), replace(voice, timbre=0.9)
        slower, longer = (
            len(text_to_speech("One two three four five.", other).waveform)
            for other in (slow, long)
        )
        assert slower > 1.1 * plain
        assert abs(longer - plain / 0.9) <= 2


@needs_programs
@pytest.mark.parametrize("program", ["flite", "espeak-ng"])
def test_phonemes_and_where_they_sound(program):
    voice = replace(make_voices(0, program)[0], timbre=1.25)
    spoken = text_to_speech("Hello there.", voice)
    assert spoken.phonemes == ("hh", "ax", "l", "ow", "dh", "eh", "r")
    quick = text_to_speech("The quick brown fox, jumping over lazy dogs; why?", voice)
    assert set(quick.phonemes) <= set(PHONEMES)
    if program == "espeak-ng":
        assert spoken.phoneme_spans == ()
        return
    assert len(quick.phoneme_spans) == len(quick.phonemes)
    edges = np.ravel(quick.phoneme_spans)
    assert (np.diff(edges) >= 0).all() and edges[-1] <= len(quick.waveform) / 16_000
    power = [
        np.mean(quick.waveform[int(a * 16e3) : int(b * 16e3)] ** 2)
        for a, b in (quick.phoneme_spans[quick.phonemes.index(name)] for name in ("k", "aw"))
    ]
    assert power[0] < 0.3 * power[1]  # a closure beside a vowel: the times are those of the sound


def test_a_failing_program_is_told():
    with pytest.raises(RuntimeError, match=r"python.* failed \(3\): no voice"):
        voices._run(
            [sys.executable, "-c", "import sys; print('no voice', file=sys.stderr); sys.exit(3)"]
        )


needs_neural_voices = pytest.mark.skipif(
    bool(missing_programs(("flite", "hibari", "kokoro"))),
    reason=f"not installed: {', '.join(missing_programs(('flite', 'hibari', 'kokoro')))}",
)


def test_neural_voices_are_mixtures_and_scales():
    hibari, kokoro = make_voices(0, "hibari"), make_voices(0, "kokoro")
    assert len({voice.timbre for voice in hibari}) == len(hibari) == 3
    assert make_voices(0, "hibari", heldout=True) == []
    assert len({voice.base for voice in kokoro}) == len(kokoro) == 8
    for voice in kokoro:
        assert sum(map(float, voice.base.split())) == pytest.approx(1, abs=0.01)
    (heldout,) = make_voices(0, "kokoro", heldout=True)
    # The held-out style has no weight in the voices of training.
    assert float(heldout.base.split()[len(kokoro[0].base.split())]) == 1
    assert heldout.name not in {voice.name for voice in kokoro}


@needs_neural_voices
@pytest.mark.parametrize("program", ["hibari", "kokoro"])
def test_neural_voices_speak(program):
    text = "Anna had lost her red hat. I have found it, said Tom."
    spoken = text_to_speech(text, make_voices(0, program)[0])
    assert spoken.waveform.dtype == np.float32
    assert 2 < len(spoken.waveform) / 16_000 < 8
    assert spoken.phonemes == pronounce(text)
    assert spoken.phoneme_spans == ()


def test_set_level_scales_without_clipping():
    waveform = np.sin(np.arange(16_000) / 5).astype("float32")
    quiet = set_level(waveform, -30.0)
    assert 10 * np.log10(np.mean(quiet**2)) == pytest.approx(-30, abs=0.01)
    assert np.abs(set_level(waveform, 0.0)).max() == pytest.approx(0.95)


def test_a_missing_program_is_reported_with_advice(monkeypatch):
    monkeypatch.setattr(voices.shutil, "which", lambda name: None)
    monkeypatch.setattr(voices.importlib.util, "find_spec", lambda name: None)
    assert missing_programs(voices.PROGRAMS) == list(voices.PROGRAMS)
    with pytest.raises(ValueError, match="Not installed: flite; apt-get install flite.$"):
        check_programs(("flite",))
    with pytest.raises(
        ValueError, match=r"hibari, kokoro; .*pip install 'keras-speechssm\[voices\]'"
    ):
        check_programs(("flite", "hibari", "kokoro"))


def test_an_unknown_program_is_refused():
    with pytest.raises(ValueError, match="`program` must be one of"):
        make_voices(0, "festival")
