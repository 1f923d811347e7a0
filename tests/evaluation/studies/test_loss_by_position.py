import json
import math

import numpy as np
import pytest
from tiny_models import VOCABULARY, shared_tiny_pipeline

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

from keras_speechssm.data.token_store import write_token_store
from keras_speechssm.evaluation.studies.loss_by_position import (
    evaluate_loss_by_position,
    loss_by_position,
)


class Forgets:
    """Two nats per token up to position 10, three beyond; the first token counts nothing."""

    max_length = 4

    def log_probabilities(self, tokens):
        assert tokens.shape[1] <= self.max_length
        nats = np.where(np.arange(tokens.shape[1]) < 10, 2.0, 3.0)
        nats[0] = 0.0
        return -nats[None]


def test_means_by_position_by_hand():
    streams = [np.zeros(20, int), np.zeros(13, int), np.zeros(4, int)]
    found = loss_by_position(Forgets(), streams, 5)
    assert [entry["mean"] for entry in found] == pytest.approx([2.0, 2.0, 3.0, 3.0])
    assert [entry["num"] for entry in found] == [2, 2, 1, 1]


def test_a_real_models_mean_is_its_perplexity(tmp_path):
    random = np.random.default_rng(0)
    tokens = random.integers(0, VOCABULARY, (2, 40))
    recordings = {"first": tokens[0], "second": tokens[1]}
    write_token_store(tmp_path / "tokens", recordings, VOCABULARY)
    model = shared_tiny_pipeline().speech_lm
    model.save_to_preset(str(tmp_path / "lm"))
    report = evaluate_loss_by_position(
        [f"tiny={tmp_path / 'lm'}"], [tmp_path / "tokens"], tmp_path / "out", bin_tokens=40
    )
    expected = -model.score(tokens).mean() / 39
    (found,) = report["models"]["tiny"]
    assert found["mean"] == pytest.approx(expected, rel=1e-4) and math.isfinite(expected)
    assert report["bin_seconds"] == 1.6 and report["num_streams"] == 2
    assert json.loads((tmp_path / "out" / "positions.json").read_text())["num_streams"] == 2
    assert (tmp_path / "out" / "positions.png").is_file()
    with pytest.raises(ValueError, match="No recording has 41 tokens"):
        evaluate_loss_by_position(
            [str(tmp_path / "lm")], [tmp_path / "tokens"], tmp_path / "x", bin_tokens=41
        )
    with pytest.raises(ValueError, match="have the same name"):
        evaluate_loss_by_position(
            ["a=b", "a=c"], [tmp_path / "tokens"], tmp_path / "x", bin_tokens=40
        )
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        evaluate_loss_by_position(["a"], [tmp_path / "tokens"], tmp_path / "file", bin_tokens=40)
    write_token_store(tmp_path / "tokens", recordings, VOCABULARY + 1)
    with pytest.raises(ValueError, match="Tokenize them"):
        evaluate_loss_by_position(
            [str(tmp_path / "lm")], [tmp_path / "tokens"], tmp_path / "x", bin_tokens=40
        )
    assert not (tmp_path / "x").exists()
