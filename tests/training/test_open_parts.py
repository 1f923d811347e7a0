"""The paper's recipe with open parts, at a small size: S3 tokens -> SoundStorm -> DAC."""

import keras
import numpy as np
import pytest
import soundfile

from keras_speechssm.models import DescriptAudioCodec, S3Tokenizer
from keras_speechssm.synthesis import Synthesizer
from keras_speechssm.training.soundstorm import SoundStormTrainingConfig, train_soundstorm

pytestmark = pytest.mark.slow


def test_soundstorm_trains_from_s3_tokens_to_dac_s(tmp_path):
    keras.utils.set_random_seed(0)
    tokenizer = S3Tokenizer(1, 2, 16, 32, num_mels=16, kernel_size=5)
    codec = DescriptAudioCodec(
        encoder_channels=2, decoder_channels=16, num_quantizers=2, codebook_size=16
    )
    tokenizer.save_to_preset(str(tmp_path / "tokenizer"))
    codec.save_to_preset(str(tmp_path / "codec"))
    speech = tmp_path / "speech"
    speech.mkdir()
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 48000).astype("float32")
    soundfile.write(speech / "a.wav", waveform, 16000)
    config = SoundStormTrainingConfig(
        audio_folders=[speech],
        output_dir=tmp_path / "run",
        tokenizer_preset=str(tmp_path / "tokenizer"),
        codec_preset=str(tmp_path / "codec"),
        model_config={"num_layers": 1, "hidden_dim": 16, "num_heads": 2, "intermediate_dim": 32},
        batch_size=2,
        crop_seconds=0.4,
        total_steps=2,
        steps_per_epoch=2,
        warmup_steps=0,
    )
    model = train_soundstorm(config)
    assert model.semantic_vocabulary_size == 6561 and model.num_levels == 2
    synthesizer = Synthesizer(model, codec)
    tokens = tokenizer.tokenize(waveform)
    voice = synthesizer.encode_voice(waveform, tokens)
    assert synthesizer(tokens[:50], voice, seed=0).shape == (32000,)
