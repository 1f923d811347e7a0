import numpy as np
import pytest
from tiny_models import shared_tiny_preset

from keras_speechssm.data.token_store import write_token_store
from keras_speechssm.evaluation.metrics.token_perplexity import held_out_perplexity
from keras_speechssm.evaluation.studies.token_perplexity import evaluate_language_model
from keras_speechssm.models import SpeechSSM


def test_language_model_is_judged_on_the_held_out_folder(tmp_path):
    for name, tokens in (("train", np.arange(120) % 12), ("held_out", np.arange(36) % 12)):
        write_token_store(tmp_path / name, {"a": tokens}, vocabulary_size=12)
    measured = evaluate_language_model(
        [tmp_path / "train"], [tmp_path / "held_out"], preset=shared_tiny_preset()
    )
    assert measured["tokens"] == 35
    model = SpeechSSM.from_preset(shared_tiny_preset())
    assert measured["model"] == pytest.approx(held_out_perplexity(model, [np.arange(36) % 12]))
    # The trigrams memorize the sequence.
    assert measured["trigram"] < 1.5 < measured["unigram"]
    write_token_store(tmp_path / "train", {"a": np.arange(120) % 12}, vocabulary_size=500)
    for folders in (("train", "held_out"), ("held_out", "train")):
        with pytest.raises(ValueError, match="has 12 tokens, but the recordings have 500"):
            evaluate_language_model(
                *([tmp_path / name] for name in folders), preset=shared_tiny_preset()
            )
