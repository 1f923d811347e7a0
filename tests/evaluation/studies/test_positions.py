import json
import math

import numpy as np
import pytest
from tiny_models import VOCABULARY, shared_tiny_pipeline

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

from keras_speechssm.data.token_store import finish_token_folder, write_tokens
from keras_speechssm.evaluation.studies.positions import evaluate_positions, likelihood_by_position


class Forgets:
    """Two nats a token up to position 10, three beyond; the first token counts nothing."""

    max_length = 4

    def log_probabilities(self, tokens):
        assert tokens.shape[1] <= self.max_length
        nats = np.where(np.arange(tokens.shape[1]) < 10, 2.0, 3.0)
        nats[0] = 0.0
        return -nats[None]


def test_means_by_position_by_hand():
    streams = [np.zeros(20, int), np.zeros(13, int), np.zeros(4, int)]
    found = likelihood_by_position(Forgets(), streams, 5)
    assert [entry["mean"] for entry in found] == pytest.approx([2.0, 2.0, 3.0, 3.0])
    assert [entry["num"] for entry in found] == [2, 2, 1, 1]


def test_a_real_models_mean_is_its_perplexity(tmp_path):
    random = np.random.default_rng(0)
    for number in range(2):
        write_tokens(tmp_path / "tokens" / f"{number}.npy", random.integers(0, VOCABULARY, 40))
    finish_token_folder(tmp_path / "tokens", VOCABULARY)
    model = shared_tiny_pipeline().speech_lm
    model.save_to_preset(str(tmp_path / "lm"))
    report = evaluate_positions(
        [f"tiny={tmp_path / 'lm'}"], [tmp_path / "tokens"], tmp_path / "out", bin_tokens=40
    )
    tokens = np.stack([np.load(path) for path in sorted((tmp_path / "tokens").glob("*.npy"))])
    expected = -model.score(tokens).mean() / 39
    (found,) = report["models"]["tiny"]
    assert found["mean"] == pytest.approx(expected, rel=1e-4) and math.isfinite(expected)
    assert report["bin_seconds"] == 1.6 and report["num_streams"] == 2
    assert json.loads((tmp_path / "out" / "positions.json").read_text())["num_streams"] == 2
    assert (tmp_path / "out" / "positions.png").is_file()
    with pytest.raises(ValueError, match="No recording has 41 tokens"):
        evaluate_positions(
            [str(tmp_path / "lm")], [tmp_path / "tokens"], tmp_path / "x", bin_tokens=41
        )
    with pytest.raises(ValueError, match="have one name"):
        evaluate_positions(["a=b", "a=c"], [tmp_path / "tokens"], tmp_path / "x", bin_tokens=40)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="a file lies there"):
        evaluate_positions(["a"], [tmp_path / "tokens"], tmp_path / "file", bin_tokens=40)
    finish_token_folder(tmp_path / "tokens", VOCABULARY + 1)
    with pytest.raises(ValueError, match="tokenize them"):
        evaluate_positions(
            [str(tmp_path / "lm")], [tmp_path / "tokens"], tmp_path / "x", bin_tokens=40
        )
    assert not (tmp_path / "x").exists()
