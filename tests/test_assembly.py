"""Parts of several presets in one pipeline."""

import numpy as np
import pytest
from tiny_models import shared_tiny_pipeline, shared_tiny_preset, tiny_models

from keras_speechssm.assembly import assemble_pipeline
from keras_speechssm.models import GriffinBackbone, SoundStorm, SpeechSSM
from keras_speechssm.pipeline import SpeechContinuation


def test_what_is_not_named_is_the_pipeline_s(tmp_path):
    soundstorm = tiny_models()[2]
    soundstorm.set_weights([weight + 1.0 for weight in soundstorm.get_weights()])
    soundstorm.save_to_preset(str(tmp_path / "soundstorm"))
    assemble_pipeline(
        tmp_path / "mine", shared_tiny_preset(), soundstorm=str(tmp_path / "soundstorm")
    )
    found, base = SpeechContinuation.from_preset(str(tmp_path / "mine")), shared_tiny_pipeline()
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
        assemble_pipeline(tmp_path / "out", shared_tiny_preset(), **{part: other})
    with pytest.raises(ValueError, match="which is no soundstream"):
        assemble_pipeline(tmp_path / "out", shared_tiny_preset(), soundstream=other)
    assert not (tmp_path / "out").exists()


def test_a_language_model_of_other_tokens_is_refused(tmp_path):
    sizes = dict(num_layers=1, hidden_dim=8, intermediate_dim=8, num_heads=2)
    model = SpeechSSM(GriffinBackbone(vocabulary_size=13, **sizes))
    model.save_to_preset(str(tmp_path / "lm"))
    with pytest.raises(ValueError, match="lm has 13 tokens, .* 12"):
        SpeechContinuation.from_preset(shared_tiny_preset(), str(tmp_path / "lm"))
    with pytest.raises(ValueError, match="No part is named 'codec'"):
        assemble_pipeline(tmp_path / "out", shared_tiny_preset(), codec="a")
