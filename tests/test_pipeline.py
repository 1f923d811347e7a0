"""The arithmetic of the pipeline with stages that paint numbers, and the real stages, tiny."""

import copy
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import soundfile
from tiny_models import shared_tiny_pipeline, shared_tiny_preset, tiny_models

from keras_speechssm.audio.io import write_audio
from keras_speechssm.models import GriffinBackbone, SoundStorm, SpeechSSM
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.shapes import SAMPLE_RATE, SAMPLES_PER_FRAME, SAMPLES_PER_TOKEN
from keras_speechssm.synthesis import SynthesisConfig, read_synthesis_config

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

    def stream(self, token_ids, block_size=250, **options):
        self.options = options
        start = int(token_ids[0, -1]) + 1
        for number in itertools.count():
            self.blocks_made += 1
            first = start + number * block_size
            yield np.arange(first, first + block_size)[None]


class RepeatingSoundStorm:
    """Two frames of two levels a token: the token and the window's seed."""

    def __init__(self):
        self.windows, self.shapes, self.batches, self.voices = [], set(), [], []

    def generate(
        self, tokens, *, prompt_semantic, prompt_acoustic, seed, padding_mask, pad_to, **settings
    ):
        self.settings = settings
        assert len(prompt_acoustic) == 2 * len(prompt_semantic)
        assert len(prompt_semantic) + tokens.shape[1] <= pad_to
        assert tokens.shape == padding_mask.shape and len(tokens) == len(seed)
        for window, real in zip(tokens, padding_mask, strict=True):
            self.windows.append(window[real])
        self.shapes.add(pad_to)
        self.voices.append(prompt_semantic)
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


def painted(sampling=None, soundstorm=None, **synthesis):
    return SpeechContinuation(
        PaintedTokenizer(),
        CountingModel(),
        soundstorm or RepeatingSoundStorm(),
        PaintingCodec(),
        synthesis=synthesis,
        sampling=sampling,
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


def test_blocks_grow_up_to_23_seconds():
    speech = painted()
    blocks = list(itertools.islice(speech.stream(PROMPT), 5))
    assert [len(block) / SAMPLE_RATE for block in blocks] == [3, 5, 12, 23, 23]
    assert [window[0] - 251 for window in speech.soundstorm.windows] == [0, 50, 150, 450, 1025]
    assert [len(window) for window in speech.soundstorm.windows] == [100, 200, 400, 675, 675]
    np.testing.assert_array_equal(np.concatenate(blocks), paint(251, 66 * 25))


def test_the_paper_s_windows_have_seams_at_25_seconds_and_every_23_after():
    for speech, options in ((painted(), {"windows": "paper"}), (painted(windows="paper"), {})):
        blocks = list(itertools.islice(speech.stream(PROMPT, **options), 3))
        assert [len(block) / SAMPLE_RATE for block in blocks] == [25, 23, 23]
        assert {len(window) for window in speech.soundstorm.windows} == {675}
    with pytest.raises(ValueError, match="windows is 'long'; expected 'growing' or 'paper'"):
        painted().stream(PROMPT, windows="long")


@pytest.mark.parametrize("seconds", [1, 7, 26.99, 27, 60])
def test_the_paper_s_last_window_is_no_longer_than_the_speech(seconds):
    speech = painted()
    speech.speech_lm = BoundedModel()  # stops at its limit
    spoken = speech.continue_speech(PROMPT, seconds, windows="paper")
    np.testing.assert_array_equal(spoken, paint(251, 1500, round(seconds * SAMPLE_RATE)))
    assert speech.soundstorm.windows[-1][-1] == 250 + np.ceil(seconds * 25)


@pytest.mark.parametrize("minutes, windows", [(4, 11), (16, 42)])
@pytest.mark.parametrize("plan, extra", [("paper", [0]), ("growing", [2, 3])])
def test_number_of_windows_is_the_paper_s_or_few_more(minutes, windows, plan, extra):
    speech = painted(windows=plan)
    for _ in speech.stream(PROMPT, seconds=60 * minutes):
        pass
    assert len(speech.soundstorm.windows) - windows in extra


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_windows_in_batches_say_the_same(size):
    speech = painted(windows_per_batch=size)
    np.testing.assert_array_equal(speech.continue_speech(PROMPT, 100), paint(251, 2500))
    assert speech.soundstorm.batches[0] == 1  # low latency
    assert size == 100 or set(speech.soundstorm.batches[1:]) == {size}
    np.testing.assert_array_equal(speech.resynthesize(paint(1, 1700)), paint(1, 1700))


def test_the_settings_of_synthesis_reach_soundstorm():
    settings = dict(temperature=0.5, guidance_scale=2.5, iterations=(8, 1))
    speech = painted(**settings)
    next(speech.stream(PROMPT))
    assert speech.soundstorm.settings == settings
    speech = painted()
    next(speech.stream(PROMPT))
    assert speech.soundstorm.settings == dict(temperature=1.0, guidance_scale=1.0, iterations=None)


def test_sampling_of_the_language_model_has_defaults_that_arguments_override():
    def options_of(sampling=None, **given):
        speech = painted(sampling=sampling)
        next(speech.stream(PROMPT, seed=3, **given))
        return speech.speech_lm.options

    assert options_of() == dict(temperature=1.0, top_k=None, top_p=None, seed=3)
    defaults = {"temperature": 0.8, "top_p": 0.9}
    assert options_of(defaults) == dict(temperature=0.8, top_k=None, top_p=0.9, seed=3)
    found = options_of(defaults, top_p=1.0, top_k=5, temperature=0.0)
    assert found == dict(temperature=0.0, top_k=5, top_p=None, seed=3)
    with pytest.raises(ValueError, match="Unknown sampling setting 'beams'"):
        painted(sampling={"beams": 3})


def test_config_of_the_synthesis_is_in_seconds_and_reads_older_ones():
    config = SynthesisConfig(
        window_seconds=12.0, overlap_seconds=2.0, iterations=[4, 1], guidance_scale=[2, 1]
    )
    assert (config.window, config.overlap, config.first_windows) == (300, 50, (100, 200))
    saved = json.loads(json.dumps(config.get_config()))
    assert SynthesisConfig.from_config(saved) == config
    defaults = SynthesisConfig()
    assert (defaults.window, defaults.overlap) == (675, 100)
    assert (defaults.first_windows, defaults.voice_tokens) == ((100, 200, 400), 75)
    old = dict(
        pipeline="SpeechContinuation",
        parts={},
        window=300,
        overlap=50,
        voice_tokens=75,
        first_window=None,
        windows_at_once=2,
        synthesis_temperature=0.9,
        synthesis_guidance_scale=2.5,
        synthesis_iterations=[8, 1],
    )
    assert read_synthesis_config(old) == SynthesisConfig(
        window_seconds=12.0,
        overlap_seconds=2.0,
        temperature=0.9,
        guidance_scale=2.5,
        iterations=(8, 1),
        windows_per_batch=2,
    )
    with pytest.raises(ValueError, match="Unknown synthesis setting 'speed'"):
        SynthesisConfig.from_config({"speed": 2})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(window_seconds=5.0), "half the window"),
        (dict(overlap_seconds=-1.0), "overlap_seconds is -1.0"),
        (dict(overlap_seconds=float("nan")), "overlap_seconds is nan"),
        (dict(voice_seconds=0.0), "at least 0.04"),
        (dict(voice_seconds=1e12), "voice_seconds is 1000000000000.0; expected 0 to 3600"),
        (dict(window_seconds="10"), "window_seconds is '10'"),
        (dict(window_seconds=None), "window_seconds is None"),
        (dict(windows_per_batch=[1]), r"windows_per_batch is \[1\]"),
        (dict(iterations=["x"]), "iterations is 'x'"),
        (dict(first_window_seconds=0.0), "first_window is 0"),
        (dict(windows_per_batch=0), "windows_per_batch is 0"),
        (dict(temperature=-1.0), "temperature is -1.0"),
        (dict(guidance_scale=-1.0), "guidance_scale must be"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        painted(**settings)


def test_stream_makes_no_more_tokens_than_it_needs():
    speech = painted()
    next(iter(speech.stream(PROMPT)))
    assert speech.speech_lm.blocks_made == 1


class BoundedModel(CountingModel):
    """Has room for so many tokens, prompt included."""

    max_length = 2048

    def stream(self, token_ids, block_size=250, num_tokens=None, **options):
        assert num_tokens is None or token_ids.shape[1] + num_tokens <= self.max_length
        for block in super().stream(token_ids, block_size):
            if num_tokens is None:
                raise AssertionError("it continues beyond its max_length")
            yield block[:, :num_tokens]
            num_tokens -= block.shape[1]
            if num_tokens <= 0:
                return


def test_a_bounded_language_model_speaks_up_to_its_max_length():
    speech = painted()
    speech.speech_lm = BoundedModel()
    room = 2048 - len(PROMPT) // SAMPLES_PER_TOKEN
    for tokens in (60 * 25, room):  # the windows of the first look beyond the room
        seconds = tokens / 25
        np.testing.assert_array_equal(speech.continue_speech(PROMPT, seconds), paint(251, tokens))
    with pytest.raises(ValueError, match=f"exceeds the {room / 25:g} s that fit"):
        speech.stream(PROMPT, seconds=(room + 1) / 25)  # at once, before anything is spoken


def test_a_continuation_has_a_length():
    for arguments in ({}, {"seconds": None}, {"max_length": 100}):
        with pytest.raises(ValueError, match="seconds is missing; pass the length"):
            painted().generate(PROMPT, **arguments)


def test_what_only_the_language_model_has_is_named():
    speech = painted()
    match = "; it is one of the language model: `speech_lm.blocks_made`.$"
    with pytest.raises(AttributeError, match="has no attribute 'blocks_made'" + match):
        speech.blocks_made  # noqa: B018
    for name in ("foo", "_state"):
        with pytest.raises(AttributeError, match=f"SpeechContinuation has no attribute '{name}'.$"):
            getattr(speech, name)
    assert not hasattr(SpeechContinuation.__new__(SpeechContinuation), "speech_lm")
    assert copy.copy(speech).synthesis == speech.synthesis


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
    assert speech.soundstorm.shapes == {75 + 100}  # one program for both
    assert [len(voice) for voice in speech.soundstorm.voices] == [75, 25]


@pytest.mark.parametrize("window, overlap", [(10, 0), (10, 5), (11, 5), (7, 3), (300, 100)])
def test_any_window_and_overlap(window, overlap):
    seconds = dict(window_seconds=window / 25, overlap_seconds=overlap / 25)
    speech = painted(**seconds, voice_seconds=0.12)
    assert (speech.synthesis.window, speech.synthesis.overlap) == (window, overlap)
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
    assert speech.soundstorm.shapes == {75 + 100, 75 + 200, 75 + 400, 75 + 675}


def test_windows_draw_different_numbers_and_seeds_repeat():
    seen = []

    class Recording(RepeatingSoundStorm):
        def generate(self, tokens, seed, **arguments):
            seen.extend(seed)
            return super().generate(tokens, seed=seed, **arguments)

    speech = painted(soundstorm=Recording())
    for seed in (0, 0, 1, None, None):
        speech.continue_speech(PROMPT, 30, seed=seed)
    count = len(seen) // 5
    first, again, other, fresh, fresher = (
        tuple(seen[i : i + count]) for i in range(0, len(seen), count)
    )
    assert first == again and first[0] != first[1]
    assert len({first, other, fresh, fresher}) == 4


def test_the_seed_of_keras_is_honored():
    speech = painted()
    streams = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        speech.continue_speech(PROMPT, 1)
        streams.append(speech.speech_lm.options["seed"])
    speech.continue_speech(PROMPT, 1)
    assert streams[0] == streams[1] != speech.speech_lm.options["seed"]


def test_memory_stays_bounded():
    speech = painted()
    stream = speech.stream(PROMPT)
    next(stream)
    pending = []
    for _ in range(20):
        next(stream)
        pending.append(len(stream.state.synthesis.tokens))
    assert max(pending) <= 675 + 250


BAD_AUDIO = [
    (np.zeros(SAMPLE_RATE, "float32"), "silence"),
    (np.full(SAMPLE_RATE, np.nan, "float32"), "NaN"),
    (PROMPT[:3200], "holds 0.20 s"),
    (np.zeros(0, "float32"), "holds 0.00 s"),
    (np.ones((2, SAMPLE_RATE), "float32"), "mono"),
    ((SAMPLE_RATE, PROMPT), "pass the array, and `sample_rate=rate`"),
]


@pytest.mark.parametrize("audio, message", BAD_AUDIO)
@pytest.mark.parametrize("verb", ["tokenize", "resynthesize", "continue_speech", "stream"])
def test_bad_audio_is_refused(verb, audio, message):
    arguments = (1,) if verb == "continue_speech" else ()
    with pytest.raises(ValueError, match=message) as error:
        getattr(painted(), verb)(audio, *arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "1", [1]])
def test_bad_length_is_refused(seconds):
    with pytest.raises(ValueError, match="seconds must be a positive number"):
        painted().continue_speech(PROMPT, seconds)


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


def test_a_list_of_prompts_is_one_batch_of_the_language_model(tiny, speech_like, monkeypatch):
    prompts = [speech_like, speech_like[: SAMPLE_RATE // 2], speech_like]
    options = {"seconds": 4.2, "seed": 3}
    alone = [tiny.continue_speech(prompt, **options) for prompt in prompts[:2]]
    batches, make_state = [], tiny.speech_lm.initial_state
    monkeypatch.setattr(
        SpeechSSM, "initial_state", lambda self, size: batches.append(size) or make_state(size)
    )
    together = tiny.continue_speech(prompts, **options)
    assert batches == [3]
    for found, expected in zip(together, [*alone, alone[0]], strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("windows", ["growing", "paper"])
def test_a_saved_continuation_resumes_to_the_same_audio(tiny, speech_like, tmp_path, windows):
    path = tmp_path / "state.npz"
    options = {"seed": 3, "top_p": 0.9, "windows": windows}
    stream = tiny.stream(speech_like, **options)
    blocks = [next(stream) for _ in range(4)]
    for number in range(3):  # before the first block, and after some
        stream = tiny.stream(speech_like, **options)
        for _ in range(number):
            next(stream)
        stream.save_state(path)
        resumed = tiny.resume(path)
        for block in blocks[number:]:
            np.testing.assert_array_equal(next(resumed), block)


def test_a_finished_continuation_can_become_longer(tiny, speech_like, tmp_path):
    path = tmp_path / "state.npz"
    whole = tiny.continue_speech(speech_like, seconds=4.2, seed=3)
    stream = tiny.stream(speech_like, seed=3, seconds=2.51)  # ends inside of a window
    parts = list(stream)
    for seconds in (3.0, 4.2):
        stream.save_state(path)
        assert list(tiny.resume(path, seconds=1.0)) == []
        stream = tiny.resume(path, seconds=seconds)
        parts += list(stream)
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_states_that_cannot_be_resumed(tiny, tmp_path):
    path = tmp_path / "state.npz"
    with pytest.raises(ValueError, match="has no `start_generation`"):
        painted().stream(PROMPT).save_state(path)
    assert not path.exists()
    for content in (b"", b"text", b"PK"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged or is not the state of a continuation"):
            tiny.resume(path)
    tiny.stream(PROMPT, seed=0).save_state(path)
    other = GriffinBackbone(12, 3, 16, 8, 2, attention_window=16, use_rotary=False)
    speech = SpeechContinuation(*tiny_models()[:1], SpeechSSM(other), *tiny_models()[2:])
    with pytest.raises(ValueError, match="does not fit this model"):
        speech.resume(path)


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


def test_settings_of_the_preset_are_used_and_can_be_overridden(tiny):
    settings = tiny.synthesis
    assert (settings.window, settings.overlap, settings.voice_tokens) == (50, 10, 10)
    assert tiny.sampling == (1.0, None, None)
    other = SpeechContinuation.from_preset(
        shared_tiny_preset(), synthesis={"windows_per_batch": 2}, sampling={"top_p": 0.9}
    )
    assert (other.synthesis.window, other.synthesis.windows_per_batch) == (50, 2)
    assert other.sampling.top_p == 0.9


def test_a_preset_with_older_settings_loads(tmp_path, tiny, speech_like):
    folder = shutil.copytree(shared_tiny_preset(), tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    del config["synthesis"], config["sampling"]
    config |= {"window": 50, "overlap": 10, "voice_tokens": 10, "synthesis_temperature": 1.0}
    (folder / "config.json").write_text(json.dumps(config))
    old = SpeechContinuation.from_preset(folder)
    assert old.synthesis == tiny.synthesis and old.sampling == tiny.sampling


def test_dtype_and_load_weights_reach_the_four_models():
    half = SpeechContinuation.from_preset(shared_tiny_preset(), dtype="bfloat16")
    fresh = SpeechContinuation.from_preset(shared_tiny_preset(), load_weights=False)
    loaded = shared_tiny_pipeline()
    for part in ("semantic_tokenizer", "speech_lm", "soundstorm", "soundstream"):
        assert getattr(half, part).dtype_policy.compute_dtype == "bfloat16"
        weights = [getattr(speech, part).get_weights() for speech in (fresh, loaded)]
        assert any(np.any(a != b) for a, b in zip(*weights, strict=True))


def test_it_shows_its_parts(tiny):
    shown = repr(tiny)
    for part in ("SemanticTokenizer", "SpeechSSM", "SoundStorm", "SoundStream"):
        assert f"={part}(" in shown
    assert f"({tiny.soundstorm.count_params():,} parameters)" in shown
    lines = []
    tiny.summary(print_fn=lambda line, **_: lines.append(line))
    assert len(lines) >= 5 and shown in lines[-1] and "window_seconds=2.0" in lines[-1]
    assert "speech_ssm_demo_en" in SpeechContinuation.presets


def test_generate_is_continue_speech(tiny, speech_like):
    np.testing.assert_array_equal(
        tiny.generate(speech_like, seconds=0.5, seed=1),
        tiny.continue_speech(speech_like, seconds=0.5, seed=1),
    )


def test_a_list_of_prompts_gives_the_audio_of_each(tiny, speech_like):
    prompts = [speech_like, speech_like[:10_000]]
    found = tiny.generate(prompts, seconds=0.5, seed=1)
    assert isinstance(found, list)
    for waveform, prompt in zip(found, prompts, strict=True):
        np.testing.assert_array_equal(waveform, tiny.generate(prompt, seconds=0.5, seed=1))


def test_stereo_arrays_and_other_rates_are_converted_as_files_are(tiny, tmp_path):
    rng = np.random.default_rng(0)
    stereo = (0.1 * rng.standard_normal((24_000, 2))).astype("float32")
    soundfile.write(tmp_path / "stereo.wav", stereo, 24_000, "FLOAT")
    from_file = tiny.tokenize(tmp_path / "stereo.wav")
    np.testing.assert_array_equal(tiny.tokenize(stereo, sample_rate=24_000), from_file)
    assert from_file.shape == (25,)
    assert len(tiny.resynthesize(stereo, sample_rate=24_000)) == SAMPLE_RATE
    assert len(tiny.speak_tokens([1, 2, 3], stereo, sample_rate=24_000)) == 3 * 640
    assert len(tiny.continue_speech(stereo, 0.5, sample_rate=24_000)) == SAMPLE_RATE // 2


@pytest.mark.slow
def test_programs_are_optimized_as_users_run_them(tmp_path):
    """The whole way in a process without the XLA flag that other tests set."""
    script = (
        "import sys, numpy as np\n"
        "from keras_speechssm import SpeechContinuation\n"
        "speech = SpeechContinuation.from_preset(sys.argv[1])\n"
        "prompt = 0.1 * np.random.default_rng(0).standard_normal(16077).astype('float32')\n"
        "np.save(sys.argv[2], speech.continue_speech(prompt, seconds=0.5, seed=3))\n"
    )
    path = tmp_path / "speech.npy"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-c", script, shared_tiny_preset(), str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    speech = np.load(path)
    assert speech.shape == (SAMPLE_RATE // 2,) and np.isfinite(speech).all()
    assert 0 < np.abs(speech).max() <= 1


def test_parts_of_other_presets_take_the_place_of_the_pipeline_s(tmp_path):
    soundstorm = tiny_models()[2]
    soundstorm.set_weights([weight + 1.0 for weight in soundstorm.get_weights()])
    soundstorm.save_to_preset(str(tmp_path / "soundstorm"))
    base = shared_tiny_pipeline()
    mixed = SpeechContinuation.from_preset(
        shared_tiny_preset(), soundstorm=str(tmp_path / "soundstorm")
    )
    mixed.save_to_preset(tmp_path / "mine")
    metadata = json.loads((tmp_path / "mine" / "metadata.json").read_text())
    others = {"soundstorm": str(tmp_path / "soundstorm")}
    assert metadata == {"trained": False, "parts_of_other_presets": others}
    found = SpeechContinuation.from_preset(str(tmp_path / "mine"))
    assert found.synthesis == base.synthesis
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
        message = "`speech_lm` expects a vocabulary of 13 semantic tokens, .* has 12"
    else:
        sizes = dict(num_layers=1, hidden_dim=8, num_heads=2, intermediate_dim=8)
        model = SoundStorm(12, num_levels=3, codebook_size=16, **sizes)
        message = "`soundstorm` expects 3 levels of 16 codes, but `soundstream` has 2 of 16"
    other = str(tmp_path / "part")
    model.save_to_preset(other)
    with pytest.raises(ValueError, match=message):
        SpeechContinuation.from_preset(shared_tiny_preset(), **{part: other})
    with pytest.raises(ValueError, match="not a soundstream"):
        SpeechContinuation.from_preset(shared_tiny_preset(), soundstream=other)


@pytest.mark.parametrize("seed", [-1, 0.5, "1", [1, 2]])
def test_odd_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="seed is .*; expected") as error:
        painted().speak_tokens(np.arange(8), PROMPT, seed=seed)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [[1, "a"], None, 5, {"x": 1}])
def test_settings_of_a_preset_of_wrong_types(content):
    # All of a pipeline's config is in `odd_pipeline` of tests/fuzz.py.
    with pytest.raises(ValueError, match="'synthesis' of the preset is|Unknown synth") as error:
        read_synthesis_config({"synthesis": content})
    assert "\n" not in str(error.value)


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
