"""The arithmetic of the pipeline with stages that paint numbers, and the real stages, tiny."""

import itertools
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from tiny_models import shared_tiny_pipeline, shared_tiny_preset, tiny_models

from keras_speechssm.audio.io import write_audio
from keras_speechssm.models import GriffinBackbone, SoundStorm, SpeechSSM
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.shapes import SAMPLE_RATE, SAMPLES_PER_FRAME, SAMPLES_PER_TOKEN

VOICE = 1_000_000
SCALE = 2.0**-12
"""Keeps the painted numbers of the inputs in [-1, 1], exactly."""


class PaintedTokenizer:
    """A waveform whose every sample is the number of its token, scaled by SCALE."""

    vocabulary_size = 10**5

    def tokenize(self, waveform):
        tokens = np.asarray(waveform)[::SAMPLES_PER_TOKEN]
        return np.round(tokens / SCALE).astype("int32")


class CountingModel:
    """Counts on from the prompt's last token, and how far it was asked to."""

    def __init__(self):
        self.blocks_made = 0

    def stream(self, token_ids, block_size=250, temperature=1.0, top_k=None, top_p=None, seed=None):
        start = int(token_ids[0, -1]) + 1
        for number in itertools.count():
            self.blocks_made += 1
            first = start + number * block_size
            yield np.arange(first, first + block_size)[None]


class RepeatingSoundStorm:
    """Two frames of two levels a token: the token and the window's seed."""

    def __init__(self):
        self.windows, self.shapes, self.batches = [], set(), []

    def generate(
        self,
        tokens,
        prompt_semantic,
        prompt_acoustic,
        temperature,
        guidance_scale,
        iterations,
        seed,
        padding_mask,
        pad_to,
    ):
        self.settings = (temperature, guidance_scale, iterations)
        assert len(prompt_acoustic) == 2 * len(prompt_semantic)
        assert len(prompt_semantic) + tokens.shape[1] <= pad_to
        assert tokens.shape == padding_mask.shape and len(tokens) == len(seed)
        for window, real in zip(tokens, padding_mask, strict=True):
            self.windows.append(window[real])
        self.shapes.add(pad_to)
        self.batches.append(len(tokens))
        frames = np.repeat(tokens, 2, axis=1)
        seeds = np.broadcast_to(np.array(seed)[:, None] % 1000, frames.shape)
        return np.stack([frames, seeds], axis=-1)


class PaintingCodec:
    """Paints a frame's first level on its samples, and voice frames as VOICE."""

    def encode(self, waveform):
        return np.full((len(waveform) // SAMPLES_PER_FRAME, 2), VOICE)

    def decode(self, tokens):
        return np.repeat(tokens[:, :, 0], SAMPLES_PER_FRAME, axis=1).astype("float32") * SCALE


def painted(**settings):
    return SpeechContinuation(
        PaintedTokenizer(), CountingModel(), RepeatingSoundStorm(), PaintingCodec(), **settings
    )


def paint(first, count, samples=None):
    wave = np.repeat(np.arange(first, first + count), SAMPLES_PER_TOKEN).astype("float32") * SCALE
    return wave if samples is None else wave[:samples]


PROMPT = paint(1, 250)


@pytest.mark.parametrize("seconds", [0.01, 1, 24.99, 25, 27, 27.04, 48, 60.0001, 120])
def test_continuation_is_exactly_what_follows(seconds):
    speech = painted().continue_speech(PROMPT, seconds)
    samples = round(seconds * SAMPLE_RATE)
    assert speech.dtype == np.float32
    np.testing.assert_array_equal(speech, paint(251, 4000, samples))


def test_first_block_ends_at_8_seconds_and_one_every_23_after():
    speech = painted()
    blocks = list(itertools.islice(speech.stream(PROMPT), 4))
    assert [len(block) / SAMPLE_RATE for block in blocks] == [8, 23, 23, 23]
    assert [window[0] - 251 for window in speech.soundstorm.windows] == [0, 150, 725, 1300]
    assert [len(window) for window in speech.soundstorm.windows] == [250, 675, 675, 675]
    np.testing.assert_array_equal(np.concatenate(blocks), paint(251, 77 * 25))


@pytest.mark.parametrize("minutes, windows", [(4, 11), (16, 42)])
@pytest.mark.parametrize("first_window", [675, 250])
def test_number_of_windows_is_the_paper_s_or_one_more(minutes, windows, first_window):
    speech = painted(first_window=first_window)
    for _ in speech.stream(PROMPT, seconds=60 * minutes):
        pass
    assert len(speech.soundstorm.windows) - windows in ([0] if first_window == 675 else [0, 1])


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
def test_windows_in_batches_say_the_same(at_once):
    speech = painted(windows_at_once=at_once)
    np.testing.assert_array_equal(speech.continue_speech(PROMPT, 100), paint(251, 2500))
    assert speech.soundstorm.batches[0] == 1  # somebody waits for it
    assert at_once == 100 or set(speech.soundstorm.batches[1:]) == {at_once}
    np.testing.assert_array_equal(speech.resynthesize(paint(1, 1700)), paint(1, 1700))


def test_the_settings_of_synthesis_reach_it():
    settings = dict(
        synthesis_temperature=0.5, synthesis_guidance_scale=2.5, synthesis_iterations=[8, 1]
    )
    speech = painted(**settings)
    next(speech.stream(PROMPT))
    assert speech.soundstorm.settings == tuple(settings.values())
    speech = painted()
    next(speech.stream(PROMPT))
    assert speech.soundstorm.settings == (1.0, 1.0, None)
    with pytest.raises(ValueError, match="guidance_scale must be"):
        painted(synthesis_guidance_scale=-1.0)


def test_stream_makes_no_more_tokens_than_it_needs():
    speech = painted()
    next(iter(speech.stream(PROMPT)))
    assert speech.speech_lm.blocks_made == 1


class BoundedModel(CountingModel):
    """Has room for so many tokens, prompt included."""

    max_length = 2048

    def stream(self, token_ids, block_size=250, num_tokens=None, **sampling):
        assert num_tokens is None or token_ids.shape[1] + num_tokens <= self.max_length
        for block in super().stream(token_ids, block_size):
            if num_tokens is None:
                raise AssertionError("it goes on beyond its room")
            yield block[:, :num_tokens]
            num_tokens -= block.shape[1]
            if num_tokens <= 0:
                return


def test_a_bounded_language_model_speaks_to_the_end_of_its_room():
    speech = painted()
    speech.speech_lm = BoundedModel()
    room = 2048 - len(PROMPT) // SAMPLES_PER_TOKEN
    for tokens in (60 * 25, room):  # the windows of the first look beyond the room
        seconds = tokens / 25
        np.testing.assert_array_equal(speech.continue_speech(PROMPT, seconds), paint(251, tokens))
    with pytest.raises(ValueError, match=f"goes on for {room / 25:g} s"):
        speech.stream(PROMPT, seconds=(room + 1) / 25)  # at once, before anything is spoken


def test_a_continuation_has_a_length():
    with pytest.raises(ValueError, match="seconds is None"):
        painted().continue_speech(PROMPT, None)


def test_stream_is_lazy_but_checks_at_once():
    speech = painted()
    speech.stream(PROMPT)
    assert speech.speech_lm.blocks_made == 0
    with pytest.raises(ValueError):
        speech.stream(PROMPT[:100])


@pytest.mark.parametrize("extra", [1, 319, 639])
def test_prompt_of_a_fraction_of_a_token_ends_where_it_ends(extra):
    prompt = np.concatenate([np.full(extra, 0.9, "float32"), PROMPT])
    np.testing.assert_array_equal(painted().continue_speech(prompt, 1), paint(251, 25))


def test_the_shortest_prompt_is_half_a_second():
    prompt = np.resize(PROMPT, 8000)  # 12.5 tokens: what is cut off must not make it too short
    assert len(painted().continue_speech(prompt, 1)) == 16000


def test_voice_prompt_is_three_seconds_or_the_whole_prompt():
    speech = painted()
    speech.continue_speech(PROMPT, 1)
    speech.continue_speech(PROMPT[-SAMPLE_RATE:], 1)
    assert speech.soundstorm.shapes == {75 + 250, 25 + 250}


@pytest.mark.parametrize("window, overlap", [(10, 0), (10, 5), (11, 5), (7, 3), (300, 100)])
def test_any_window_and_overlap(window, overlap):
    speech = painted(window=window, overlap=overlap, voice_tokens=3)
    np.testing.assert_array_equal(speech.continue_speech(PROMPT, 4), paint(251, 100))
    np.testing.assert_array_equal(speech.resynthesize(PROMPT), PROMPT)


@pytest.mark.parametrize("tokens", [13, 74, 75, 125, 126, 674, 675, 676, 775, 1250, 1251])
def test_resynthesis_is_as_long_as_the_recording(tokens):
    wave = paint(1, tokens)[17:]
    speech = painted()
    assert len(speech.resynthesize(wave)) == len(wave)
    whole = paint(1, tokens)
    np.testing.assert_array_equal(painted().resynthesize(whole), whole)
    assert max(len(window) for window in speech.soundstorm.windows) <= 675


@pytest.mark.parametrize("tokens", [1, 75, 676, 1500])
def test_tokens_are_spoken_in_another_recording_s_voice(tokens):
    speech = painted()
    spoken = speech.speak_tokens(np.arange(300, 300 + tokens), PROMPT)
    np.testing.assert_array_equal(spoken, paint(300, tokens))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros(0, "int32"), "at least one"),
        (np.array([[1, 2]]), r"got int64 \(1, 2\)"),
        (np.array([0.5]), "got float64"),
        (np.array([5, -1]), "got -1 to 5"),
        (np.array([10**10]), "got 10000000000 to"),
    ],
)
def test_no_tokens_of_this_pipeline(tokens, message):
    with pytest.raises(ValueError, match=message):
        painted().speak_tokens(tokens, PROMPT)


def test_short_windows_share_shapes():
    speech = painted()
    for tokens in range(80, 675, 7):
        speech.resynthesize(paint(1, tokens))
    assert len(speech.soundstorm.shapes) <= 6


def test_windows_draw_different_numbers_and_seeds_repeat():
    seen = []

    class Recording(RepeatingSoundStorm):
        def generate(self, tokens, seed, **arguments):
            seen.extend(seed)
            return super().generate(tokens, seed=seed, **arguments)

    speech = painted()
    speech.soundstorm = Recording()
    for seed in (0, 0, 1, None, None):
        speech.continue_speech(PROMPT, 30, seed=seed)
    first, again, other, fresh, fresher = (tuple(seen[i : i + 2]) for i in range(0, 10, 2))
    assert first == again and first[0] != first[1]
    assert len({first, other, fresh, fresher}) == 4


def test_memory_stays_bounded():
    speech = painted()
    stream = speech.stream(PROMPT)
    next(stream)
    pending = []
    for _ in range(20):
        next(stream)
        frame = stream.gi_frame.f_locals["blocks"].gi_frame
        pending.append(len(frame.f_locals["pending"]))
    assert max(pending) <= 675 + 250


BAD_AUDIO = [
    (np.zeros(SAMPLE_RATE, "float32"), "silence"),
    (np.full(SAMPLE_RATE, np.nan, "float32"), "NaN"),
    (PROMPT[:3200], "holds 0.20 s"),
    (np.zeros(0, "float32"), "holds 0.00 s"),
    (np.ones((2, SAMPLE_RATE), "float32"), "mono"),
]


@pytest.mark.parametrize("audio, message", BAD_AUDIO)
@pytest.mark.parametrize("verb", ["tokenize", "resynthesize", "continue_speech", "stream"])
def test_bad_audio_is_refused(verb, audio, message):
    arguments = (1,) if verb == "continue_speech" else ()
    with pytest.raises(ValueError, match=message) as error:
        getattr(painted(), verb)(audio, *arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_bad_length_is_refused(seconds):
    with pytest.raises(ValueError, match="seconds must be a positive number"):
        painted().continue_speech(PROMPT, seconds)


@pytest.mark.parametrize("settings", [{"overlap": 400}, {"overlap": -1}, {"voice_tokens": 0}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError):
        painted(**settings)


@pytest.fixture(scope="module")
def tiny():
    return shared_tiny_pipeline()


@pytest.fixture(scope="module")
def speech_like():
    rng = np.random.default_rng(0)
    return (0.1 * rng.standard_normal(SAMPLE_RATE + 77)).astype("float32")


def test_real_stages_continue(tiny, speech_like):
    speech = tiny.continue_speech(speech_like, seconds=4.2, seed=3)
    assert speech.shape == (round(4.2 * SAMPLE_RATE),) and speech.dtype == np.float32
    assert np.isfinite(speech).all() and np.abs(speech).max() <= 1
    again = np.concatenate(list(tiny.stream(speech_like, seed=3, seconds=4.2)))
    np.testing.assert_array_equal(speech, again)
    endless = tiny.stream(speech_like, seed=3)
    start = np.concatenate([next(endless) for _ in range(3)])
    np.testing.assert_array_equal(start[: len(speech)], speech)
    assert not np.array_equal(speech, tiny.continue_speech(speech_like, seconds=4.2, seed=4))


def test_real_stages_resynthesize_and_tokenize(tiny, speech_like, tmp_path):
    speech = tiny.resynthesize(speech_like)
    assert speech.shape == speech_like.shape
    np.testing.assert_array_equal(speech, tiny.resynthesize(speech_like))
    tokens = tiny.tokenize(speech_like)
    assert tokens.dtype == np.int32 and tokens.shape == (26,)
    write_audio(tmp_path / "speech.wav", speech_like)
    assert tiny.tokenize(tmp_path / "speech.wav").shape == (26,)


def test_saved_pipeline_holds_float16_weights_and_metadata():
    folder = Path(shared_tiny_preset())
    assert json.loads((folder / "metadata.json").read_text()) == {"trained": False}
    parts = json.loads((folder / "config.json").read_text())["parts"]
    assert list(parts) == ["semantic_tokenizer", "speech_lm", "soundstorm", "soundstream"]
    for part in parts:
        with h5py.File(folder / part / "model.weights.h5") as file:
            kinds = []
            file.visititems(lambda _, item, kinds=kinds: kinds.append(getattr(item, "dtype", None)))
        assert "float32" not in kinds and "float16" in kinds


def test_settings_of_the_preset_are_used(tiny):
    assert (tiny.window, tiny.overlap, tiny.voice_tokens) == (50, 10, 10)


def test_parts_of_other_presets_take_the_place_of_the_pipeline_s(tmp_path):
    soundstorm = tiny_models()[2]
    soundstorm.set_weights([weight + 1.0 for weight in soundstorm.get_weights()])
    soundstorm.save_to_preset(str(tmp_path / "soundstorm"))
    base = shared_tiny_pipeline()
    mixed = SpeechContinuation.from_preset(
        shared_tiny_preset(), soundstorm=str(tmp_path / "soundstorm")
    )
    mixed.save_to_preset(tmp_path / "mine")
    told = json.loads((tmp_path / "mine" / "metadata.json").read_text())
    others = {"soundstorm": str(tmp_path / "soundstorm")}
    assert told == {"trained": False, "parts_of_other_presets": others}
    found = SpeechContinuation.from_preset(str(tmp_path / "mine"))
    assert (found.window, found.overlap, found.voice_tokens) == (50, 10, 10)
    pairs = [(found.soundstorm, soundstorm), (found.speech_lm, base.speech_lm)]
    pairs += [(found.soundstream, base.soundstream)]
    for one, other in pairs:
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-3)  # kept as float16


@pytest.mark.parametrize("part", ["speech_lm", "soundstorm"])
def test_parts_that_do_not_fit_are_refused(tmp_path, part):
    if part == "speech_lm":
        sizes = dict(num_layers=1, hidden_dim=8, intermediate_dim=8, num_heads=2)
        model = SpeechSSM(GriffinBackbone(vocabulary_size=13, **sizes))
        message = "The speech_lm is of 13 tokens, the others of 12"
    else:
        sizes = dict(num_layers=1, hidden_dim=8, num_heads=2, intermediate_dim=8)
        model = SoundStorm(12, num_levels=3, codebook_size=16, **sizes)
        message = "The soundstorm is of 3 levels, the others of 2"
    other = str(tmp_path / "part")
    model.save_to_preset(other)
    with pytest.raises(ValueError, match=message):
        SpeechContinuation.from_preset(shared_tiny_preset(), **{part: other})
    with pytest.raises(ValueError, match="which is no soundstream"):
        SpeechContinuation.from_preset(shared_tiny_preset(), soundstream=other)


@pytest.mark.parametrize("part", ["semantic_tokenizer", "soundstream"])
def test_broken_part_is_one_clear_line(part, tmp_path):
    folder = shutil.copytree(shared_tiny_preset(), tmp_path / "tiny")
    path = folder / part / "model.weights.h5"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="truncated") as error:
        SpeechContinuation.from_preset(str(folder))
    path.unlink()
    with pytest.raises(ValueError, match="no weight file"):
        SpeechContinuation.from_preset(str(folder))
    assert "\n" not in str(error.value)
