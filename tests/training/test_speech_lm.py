import keras
import numpy as np
import pytest

from keras_speechssm.data.token_store import finish_token_folder, write_tokens
from keras_speechssm.speech_lm import SpeechSSM
from keras_speechssm.training.metrics import read_metrics
from keras_speechssm.training.speech_lm import PackedTokens, train_speech_lm

TINY = {
    "num_layers": 2,
    "hidden_dim": 16,
    "intermediate_dim": 24,
    "num_heads": 2,
    "attention_window": 8,
}


def token_folder(folder, num_recordings=4, vocabulary=7):
    """Recordings that count up, each from its own number."""
    for number in range(num_recordings):
        write_tokens(folder / f"{number}.npy", (np.arange(60) + number) % vocabulary)
    finish_token_folder(folder, vocabulary)
    return folder


def test_windows_know_where_documents_start():
    packed = PackedTokens([np.array([1, 2, 3]), np.array([], int), np.array([4, 5, 6, 7])], 5)
    inputs, targets, weights = packed.window([0, 1])
    assert inputs["token_ids"].tolist() == [[1, 2, 3, 4, 5], [2, 3, 4, 5, 6]]
    assert inputs["reset_mask"].astype(int).tolist() == [[1, 0, 0, 1, 0], [0, 0, 1, 0, 0]]
    assert targets.tolist() == [[2, 3, 4, 5, 6], [3, 4, 5, 6, 7]]
    assert weights.tolist() == [[1, 1, 0, 1, 1], [1, 0, 1, 1, 1]]  # 3 does not tell 4


def test_random_batches_depend_on_seed_and_step_only():
    packed = PackedTokens([np.arange(1000)], 10)
    first, again, other = (
        packed.random_batches(4, seed)(step)[1] for seed, step in ((1, 5), (1, 5), (1, 6))
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    ends = [packed.random_batches(64, 0)(step)[1][:, -1] for step in range(100)]
    assert np.max(ends) == 999 and np.min(ends) == 10  # every window can be drawn


def test_batches_in_order_are_spread_and_whole():
    packed = PackedTokens([np.arange(101)], 10)
    batches = packed.batches_in_order(4, max_batches=2)
    starts = np.concatenate([batch[0]["token_ids"][:, 0] for batch in batches])
    assert [len(batch[1]) for batch in batches] == [4, 4]
    assert starts[0] == 0 and starts[-1] == 90 and (np.diff(starts) >= 10).all()
    few = packed.batches_in_order(16, max_batches=2)
    assert [len(batch[1]) for batch in few] == [10]


def test_too_few_tokens_are_refused():
    with pytest.raises(ValueError, match="hold 5 tokens; a window needs 11"):
        PackedTokens([np.arange(5)], 10)


def test_training_learns_resumes_and_writes_a_preset(tmp_path):
    folder = token_folder(tmp_path / "tokens")
    settings = dict(
        validation_folders=[folder],
        model_config=TINY,
        sequence_length=16,
        batch_size=4,
        steps_per_epoch=10,
        learning_rate=1e-2,
        weight_decay=0.01,
    )
    run = tmp_path / "run"
    train_speech_lm([folder], run, total_steps=10, **settings)
    model = train_speech_lm([folder], run, total_steps=40, **settings)
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == [10, 20, 30, 40]
    assert lines[-1]["val_loss"] < 0.5 * lines[0]["val_loss"]
    loaded = SpeechSSM.from_preset(str(run / "preset"))
    assert loaded.backbone.vocabulary_size == 7 and not loaded.backbone.use_rotary
    tokens = np.array([[1, 2, 3, 4]])
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(loaded(tokens)), keras.ops.convert_to_numpy(model(tokens))
    )


def test_folders_of_different_tokenizers_are_refused(tmp_path):
    folders = [token_folder(tmp_path / "a"), token_folder(tmp_path / "b", vocabulary=9)]
    with pytest.raises(ValueError, match="share one tokenizer"):
        train_speech_lm(folders, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="token_folders is empty"):
        train_speech_lm([], tmp_path / "run")
