"""A pipeline of open parts: S3Tokenizer, SpeechSSM, and S3Gen, with random weights."""

import itertools
import types

import keras
import numpy as np
import pytest

from keras_speechssm.models import (
    DescriptAudioCodec,
    GriffinBackbone,
    HubertTokenizer,
    S3Gen,
    S3Tokenizer,
    SoundStorm,
    SpeechSSM,
)
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.synthesis import SynthesisConfig, Synthesizer

pytestmark = pytest.mark.slow_to_compile

CONFIG = SynthesisConfig(
    window_seconds=2.0, overlap_seconds=0.4, first_window_seconds=1.0, voice_seconds=0.4
)


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    keras.utils.set_random_seed(0)
    backbone = GriffinBackbone(
        vocabulary_size=9,
        num_layers=3,
        hidden_dim=8,
        intermediate_dim=8,
        num_heads=2,
        attention_window=16,
        use_rotary=False,
    )
    s3_gen = S3Gen(
        9,
        hidden_dim=8,
        intermediate_dim=8,
        num_heads=2,
        num_layers=1,
        num_upsampled_layers=1,
        flow_channels=8,
        flow_num_heads=1,
        flow_layers_per_stage=1,
        flow_num_stages=1,
        mean_flow=True,
        vocoder_channels=8,
        f0_channels=4,
        speaker_channels=8,
        speaker_growth=1,
        speaker_stack_sizes=(1, 1, 1),
    )
    s3_gen.vocoder.f0_dense.bias.assign([150.0])  # A voice.
    tokenizer = S3Tokenizer(1, 2, 16, 32, num_mels=16, kernel_size=5, code_dim=2)
    speech = SpeechContinuation(tokenizer, SpeechSSM(backbone), synthesis=CONFIG, s3_gen=s3_gen)
    folder = tmp_path_factory.mktemp("preset") / "s3"
    speech.save_to_preset(folder)
    return str(folder)


@pytest.fixture(scope="module")
def speech(preset):
    return SpeechContinuation.from_preset(preset)


@pytest.fixture(scope="module")
def prompt():
    return (0.1 * np.random.default_rng(0).normal(size=16_000)).astype("float32")


def test_stream_of_windows_at_24_khz(speech, prompt, tmp_path):
    assert speech.sample_rate == 24_000 and speech.soundstorm is None
    blocks = list(speech.stream(prompt, seed=1, seconds=4.0))
    whole = np.concatenate(blocks)
    assert len(blocks) > 2 and whole.shape == (96_000,) and whole.dtype == np.float32
    assert np.isfinite(whole).all() and np.abs(whole).max() > 1e-3
    np.testing.assert_array_equal(speech.continue_speech(prompt, 4.0, seed=1), whole)
    # The state after the first block continues to the same speech.
    stream = speech.stream(prompt, seed=1, seconds=4.0)
    next(stream)
    stream.save_state(tmp_path / "state.npz")
    rest = np.concatenate(list(speech.resume(tmp_path / "state.npz", seconds=4.0)))
    np.testing.assert_array_equal(rest, whole[len(blocks[0]) :])


def test_windows_in_batches_give_the_same_speech(speech, prompt):
    tokens = np.random.default_rng(0).integers(0, 9, 130)
    voice = speech.synthesizer.encode_voice(prompt, speech.tokenize(prompt))
    alone = speech.synthesizer(tokens, voice, 0)
    assert alone.shape == (130 * 960,)
    settings = {**CONFIG.get_config(), "windows_per_batch": 3}
    batched = Synthesizer(config=SynthesisConfig(**settings), s3_gen=speech.s3_gen)
    # Products of batches round in another way, and the vocoder amplifies that: on torch the largest
    # error is .0014 at a level of 1; relative changes of the weights by 1e-7 cause errors of .2.
    errors = np.abs(batched(tokens, voice, 0) - alone)
    assert errors.max() < 5e-3 and errors.mean() < 1e-4


def test_windows_agree_at_their_seam(speech, prompt):
    """The end of one window and the beginning of the next, where they are cut and joined."""
    tokens = np.random.default_rng(0).integers(0, 9, 90)
    voice = speech.synthesizer.encode_voice(prompt, speech.tokenize(prompt))

    def difference(seeds, seams):
        """Of the 20 ms on both sides of the seam, relative to the loudness."""
        first = speech.s3_gen.generate(tokens[:50], voice, seeds[0], seams=seams[:1])
        second = speech.s3_gen.generate(tokens[40:], voice, seeds[1], starts=40, seams=seams[1:])
        pair = first[45 * 960 - 480 : 45 * 960 + 480], second[5 * 960 - 480 : 5 * 960 + 480]
        return np.std(pair[0] - pair[1]) / np.std(pair[0])

    aligned = difference((0, 0), [(0, 45), (5, 49)])
    # 0.67 when this was written, and 1.33 without alignment: the attention of random weights
    # gives each window another spectrum, even from the same noise.
    assert aligned < 0.7 * difference((0, 0), [(0, 49), (0, 49)])
    assert aligned < 0.9 * difference((0, 1), [(0, 45), (5, 49)])


def test_tokens_and_recordings(speech, prompt):
    assert len(speech.resynthesize(prompt, seed=0)) == 24_000
    assert len(speech.speak_tokens([1, 2, 3, 4], prompt)) == 4 * 960
    assert "s3_gen=S3Gen(" in repr(speech)


def test_parts_that_do_not_fit_are_refused(speech, preset, tmp_path):
    one, model = "a SoundStorm and a codec, or an S3Gen alone", types.SimpleNamespace()
    with pytest.raises(ValueError, match=one):
        Synthesizer(model, model, s3_gen=speech.s3_gen)
    with pytest.raises(ValueError, match=one):
        SpeechContinuation(model, model, model)
    with pytest.raises(ValueError, match="s3_gen replaces soundstorm and soundstream"):
        SpeechContinuation.from_preset(preset, s3_gen=preset, soundstorm=preset)
    model.vocabulary_size = 12
    speech_lm = types.SimpleNamespace(backbone=model)
    with pytest.raises(ValueError, match="`s3_gen` expects a vocabulary of 9 semantic tokens"):
        SpeechContinuation(model, speech_lm, s3_gen=speech.s3_gen)
    with pytest.raises(ValueError, match="`speech_lm` expects a vocabulary of 12 semantic tokens"):
        SpeechContinuation(speech.semantic_tokenizer, speech_lm, s3_gen=speech.s3_gen)
    hubert = HubertTokenizer(9, 1, 1, 8, 8, (4, 4), (20, 16), (20, 16), 2, 1)
    with pytest.raises(ValueError, match="This HubertTokenizer gives 50 tokens per second; .* 25"):
        SpeechContinuation(hubert, speech.speech_lm, s3_gen=speech.s3_gen)
    hubert.save_to_preset(str(tmp_path))
    with pytest.raises(ValueError, match="This HubertTokenizer gives 50 tokens per second; .* 25"):
        SpeechContinuation.from_preset(preset, semantic_tokenizer=tmp_path)


def test_paper_windows(speech, prompt):
    stream = speech.stream(prompt, seed=1, windows="paper")
    lengths = [len(block) for block in itertools.islice(stream, 2)]
    assert lengths == [45 * 960, 40 * 960]


def test_every_open_tokenizer_and_codec_speaks(speech, prompt):
    """The paper's recipe with open parts, and the same tokenizers with S3Gen."""
    codec = DescriptAudioCodec(
        encoder_channels=2, decoder_channels=16, num_quantizers=2, codebook_size=16
    )
    soundstorm = SoundStorm(9, 2, 16, 1, 8, 2, 8)
    hubert = HubertTokenizer(9, 1, 1, 8, 8, (4, 4, 4), (20, 16, 2), (20, 16, 2), 2, 1)
    config = SynthesisConfig(**{**CONFIG.get_config(), "iterations": (1, 1)})
    other = SpeechContinuation(hubert, speech.speech_lm, soundstorm, codec, config)
    blocks = list(other.stream(prompt, seed=1, seconds=2.0))
    whole = np.concatenate(blocks)
    assert len(blocks) > 1 and whole.shape == (32_000,) and np.isfinite(whole).all()
    np.testing.assert_array_equal(other.continue_speech(prompt, 2.0, seed=1), whole)
    other = SpeechContinuation(
        speech.semantic_tokenizer, speech.speech_lm, soundstorm, codec, config
    )
    assert other.sample_rate == 16_000 and other.resynthesize(prompt).shape == (16_000,)
    spoken = SpeechContinuation(hubert, speech.speech_lm, synthesis=CONFIG, s3_gen=speech.s3_gen)
    assert spoken.continue_speech(prompt, 1.0, seed=1).shape == (24_000,)
    soundstorm = SoundStorm(9, 3, 16, 1, 8, 2, 8)
    with pytest.raises(ValueError, match="`soundstorm` expects 3 levels of 16 codes, but `sounds"):
        SpeechContinuation(hubert, speech.speech_lm, soundstorm, codec)
