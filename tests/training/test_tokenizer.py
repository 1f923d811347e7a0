import json
import pickle
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest
from broken_runs import verify_last_epoch_is_repeated
from keras import ops

from keras_speechssm.audio.io import write_audio
from keras_speechssm.data.corpora import PHONEMES
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer import SemanticTokenizer
from keras_speechssm.training.callbacks import Progress, read_metrics
from keras_speechssm.training.speech_crops import CropBatches, augment, change_speed
from keras_speechssm.training.tokenizer import (
    PhonemeLoss,
    QuantizerPhaseIn,
    TokenizerTrainingConfig,
    _initial_model,
    open_labels,
    train_tokenizer,
)

DEMO = Path(__file__).parents[2] / "presets" / "speech_ssm_demo_en"

TINY = {
    "vocabulary_size": 8,
    "num_layers": 1,
    "num_decoder_layers": 1,
    "hidden_dim": 8,
    "num_heads": 2,
    "intermediate_dim": 8,
    "num_mels": 8,
    "masked_codebook_size": 8,
}


def say(folder, name, seconds, segments=None):
    """A recording whose samples tell their own time: sample n is n / 2**20."""
    folder.mkdir(exist_ok=True)
    write_audio(folder / f"{name}.wav", np.arange(int(seconds * 16000)) / 2**20)
    if segments is not None:
        entries = [
            {"start": start, "end": end, "text": "", "phonemes": phonemes.split()}
            for start, end, phonemes in segments
        ]
        sidecar = {"voice": "v", "segments": entries}
        (folder / f"{name}.json").write_text(json.dumps(sidecar))


def path_sum(chances, labels):
    """CTC by enumeration: the probability of every path that collapses to `labels`."""
    time, classes = chances.shape
    total = 0.0
    for path in np.ndindex(*[classes] * time):
        kept = [c for n, c in enumerate(path) if c and (n == 0 or path[n - 1] != c)]
        if kept == labels:
            total += np.prod(chances[np.arange(time), path])
    return total


def unaligned(labels):
    """CTC labels as `PhonemeLoss` takes them, with no step's phoneme known."""
    return np.stack([labels, np.zeros_like(labels)], axis=1)


def test_aligned_steps_add_their_cross_entropy():
    logits = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    aligned = np.array([[0, 2, 2], [0, 0, 3]])
    labels = np.stack([np.zeros_like(aligned), aligned], axis=1)
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.log([chances[0, 1, 2], chances[0, 2, 2], chances[1, 2, 3]]).mean()
    for weight in (1.0, 0.5):
        found = PhonemeLoss(alignment_weight=weight)(labels, ops.convert_to_tensor(logits))
        np.testing.assert_allclose(float(ops.convert_to_numpy(found)), weight * expected, rtol=1e-5)


def test_crops_know_where_phonemes_sound(tmp_path):
    write_audio(tmp_path / "a.wav", np.full(16000, 0.1))
    spans = [(0.0, 0.2), (0.2, 0.52)]
    segment = {"start": 0.0, "end": 1.0, "phonemes": ["hh", "ax"], "phoneme_spans": spans}
    (tmp_path / "a.json").write_text(json.dumps({"segments": [segment]}))
    _, labels = CropBatches([tmp_path], 1.0, 2, augmented=False)(0)
    hh, ax = PHONEMES.index("hh") + 1, PHONEMES.index("ax") + 1
    expected = [hh] * 5 + [ax] * 8 + [0] * 12
    assert labels["phoneme_logits"][:, 1].tolist() == [expected] * 2


def test_ctc_against_enumeration_of_paths():
    logits = np.random.default_rng(0).normal(size=(3, 4, 3)).astype("float32")
    logits[1, 2:] = [0.0, -1e4, -1e4]  # padding: blank for certain
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = np.array([[1, 1, 2, 0], [2, 1, 0, 0], [0, 0, 0, 0]])
    labels[0] = [1, 1, 0, 0]
    expected = [
        -np.log(path_sum(chances[0], [1, 1])) / 2,
        -np.log(path_sum(chances[1, :2], [2, 1])) / 2,
    ]
    # The third has no transcript: it is left out of the mean.
    found = PhonemeLoss()(unaligned(labels), ops.convert_to_tensor(logits))
    np.testing.assert_allclose(float(ops.convert_to_numpy(found)), np.mean(expected), rtol=1e-4)


def test_ctc_of_nothing_transcribed_is_zero():
    found = PhonemeLoss()(np.zeros((2, 2, 4), "int32"), ops.ones((2, 4, 3)))
    assert float(ops.convert_to_numpy(found)) == 0.0


def test_crops_hold_whole_segments_with_their_phonemes(tmp_path):
    segments = [(0.5, 1.5, "hh ax"), (1.7, 2.4, "l ow"), (2.6, 4.4, "w er l d")]
    say(tmp_path / "a", "x", 5.0, segments)
    batches = CropBatches([tmp_path / "a"], 2.0, 16, seed=3, augmented=False)
    in_worker = pickle.loads(pickle.dumps(batches))
    np.testing.assert_array_equal(in_worker(1)[0]["waveform"], batches(1)[0]["waveform"])
    ids = {name: number for number, name in enumerate(PHONEMES, start=1)}
    seen = set()
    for step in range(3):
        inputs, labels = batches(step)
        waveform, mask = inputs["waveform"], inputs["padding_mask"]
        assert waveform.shape == (16, 32000) and mask.shape == (16, 50)
        rows = labels["phoneme_logits"][:, 0]
        for samples, real, row in zip(waveform, mask, rows, strict=True):
            start = samples[0] * 2**20 / 16000
            end = samples.max() * 2**20 / 16000
            inside = [p for a, b, p in segments if a >= start - 2e-3 and b <= end + 2e-3]
            assert row[row > 0].tolist() == [ids[p] for p in " ".join(inside).split()]
            assert not np.any(row[np.argmin(row > 0) :])  # filled up at the end only
            # No part of another segment may be heard.
            assert all(b <= start + 2e-3 or a >= end - 2e-3 or p in inside for a, b, p in segments)
            assert real.sum() == np.ceil((end - start) * 25 - 0.01)
            seen.add(tuple(inside))
    assert seen == {("hh ax", "l ow"), ("l ow",), ("w er l d",)}


def test_a_segment_longer_than_the_crop_loses_its_transcript(tmp_path):
    say(tmp_path / "a", "x", 5.0, [(0.5, 4.5, "hh ax")])
    inputs, labels = CropBatches([tmp_path / "a"], 2.0, 4, augmented=False)(0)
    assert not labels["phoneme_logits"].any() and inputs["padding_mask"].all()


def test_too_many_phonemes_for_the_time_lose_the_transcript(tmp_path):
    say(tmp_path / "a", "x", 0.4, [(0.0, 0.2, "hh ax l ow w er")])  # six labels, five steps
    _, labels = CropBatches([tmp_path / "a"], 0.2, 4, augmented=False)(0)
    assert not labels["phoneme_logits"].any()


def test_share_without_transcripts_and_the_same_batch_for_the_same_step(tmp_path):
    say(tmp_path / "a", "x", 3.0, [(0.5, 1.5, "hh ax")])
    say(tmp_path / "b", "y", 3.0)
    folders = [tmp_path / "a", tmp_path / "b"]
    batches = CropBatches(folders, 1.4, 200, seed=1, untranscribed_fraction=0.3)
    inputs, labels = batches(5)
    without = np.mean(~labels["phoneme_logits"].any(axis=(1, 2)))
    assert 0.2 < without < 0.4
    again, _ = CropBatches(folders, 1.4, 200, seed=1, untranscribed_fraction=0.3)(5)
    np.testing.assert_array_equal(again["waveform"], inputs["waveform"])
    assert np.isfinite(inputs["waveform"]).all() and np.abs(inputs["waveform"]).max() <= 1


def test_pairs_say_the_same_and_sound_apart(tmp_path):
    say(tmp_path / "a", "x", 9.0, [(1.0 + n, 1.8 + n, "hh ax l ow") for n in range(7)])
    noise = np.random.default_rng(0).normal(size=9 * 16000) * 0.05
    write_audio(tmp_path / "a" / "x.wav", noise)
    inputs, labels = CropBatches([tmp_path / "a"], 1.4, 6, seed=1, paired=True)(2)
    mask, labels = inputs["padding_mask"], labels["phoneme_logits"]
    np.testing.assert_array_equal(mask[0::2], mask[1::2])
    np.testing.assert_array_equal(labels[0::2], labels[1::2])
    rows = inputs["waveform"]
    assert not np.allclose(rows[0::2], rows[1::2], rtol=0.01)
    assert np.corrcoef(rows[0], rows[1])[0, 1] > 0.7  # tilts of half a sample apart
    assert abs(np.corrcoef(rows[0], rows[2])[0, 1]) < 0.1
    with pytest.raises(ValueError, match="batch_size is 3; expected an even number"):
        CropBatches([tmp_path / "a"], 1.4, 3, paired=True)


def test_speed_and_augmentation():
    tone = np.sin(2 * np.pi * 100 * np.arange(16000) / 16000).astype("float32")
    fast = change_speed(tone, 1.25)
    assert len(fast) == 12800
    assert np.abs(np.fft.rfft(fast)).argmax() == 100  # 100 periods still: 125 Hz for 0.8 s
    rng = np.random.default_rng(0)
    levels = [np.sqrt(np.mean(augment(0.1 * tone, rng) ** 2)) for _ in range(30)]
    assert min(levels) < 0.05 and max(levels) > 0.08


def test_quantizer_waits_for_the_phonemes(tmp_path):
    lines = [4.2, 4.0, 3.9, 2.3, 2.0, 1.9]
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": 1, "seconds": 1, "loss": loss}) + "\n" for loss in lines)
    )
    phase_in = QuantizerPhaseIn(Progress(tmp_path, 100), threshold=0.6, epochs=2)
    assert [phase_in.fraction(epoch) for epoch in range(7)] == [0, 0, 0, 0, 0.5, 1, 1]
    early = QuantizerPhaseIn(Progress(tmp_path, 10), threshold=0.1, epochs=2, latest=0.2)
    assert [early.fraction(epoch) for epoch in range(5)] == [0, 0, 0.5, 1, 1]
    late = QuantizerPhaseIn(Progress(tmp_path, 10), threshold=0.1, epochs=4)
    assert [late.fraction(epoch) for epoch in range(7)] == [0, 0, 0, 0, 0.25, 0.5, 0.75]


@pytest.mark.slow_to_compile
@pytest.mark.any_backend
def test_train_tokenizer_writes_a_preset_and_resumes(tmp_path):
    say(tmp_path / "a", "x", 3.0, [(0.5, 1.5, "hh ax"), (1.6, 2.5, "l ow")])
    say(tmp_path / "b", "y", 3.0)

    def train(total_steps):
        config = TokenizerTrainingConfig(
            audio_folders=[tmp_path / "a", tmp_path / "b"],
            output_dir=tmp_path / "run",
            validation_folders=[tmp_path / "a"],
            model_config={**TINY, "code_head": True, "agreement_weight": 0.1},
            crop_seconds=2.0,
            batch_size=2,
            total_steps=total_steps,
            steps_per_epoch=2,
            validation_steps=1,
        )
        return train_tokenizer(config)

    model = train(6)
    verify_last_epoch_is_repeated(tmp_path / "run", lambda: train(6))
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert all(np.isfinite(line["loss"]) and line["val_loss"] > 0 for line in lines)
    assert all(line["val_code_logits_loss"] > 0 for line in lines)
    loaded = SemanticTokenizer.from_preset(str(tmp_path / "run" / "preset"))
    waveform = np.random.default_rng(0).normal(size=9000) * 0.1
    np.testing.assert_array_equal(loaded.tokenize(waveform), model.tokenize(waveform))
    # The front end was fitted to the corpus.
    assert not np.allclose(ops.convert_to_numpy(loaded.front_end.mean), -3.0)


@pytest.mark.slow_to_compile
def test_a_tokenizer_learns_the_characters_of_librispeech(tmp_path):
    chapter = tmp_path / "84" / "121"
    chapter.mkdir(parents=True)
    write_audio(chapter / "84-121-0000.flac", np.linspace(-0.1, 0.1, 16000))
    (chapter / "84-121.trans.txt").write_text("84-121-0000 HE BEGAN\n84-121-0001 GONE\n")
    options = dict(audio_folders=[tmp_path / "84"], crop_seconds=1.2, batch_size=2, total_steps=1)
    options |= dict(steps_per_epoch=1, warmup_steps=0, best_rq_weight=0.5, labels="characters")
    config = {**TINY, "mask_start_rate": 0.04}  # the demo's, the default size, has 0
    options |= dict(output_dir=tmp_path / "run", model_config=config)
    train_tokenizer(TokenizerTrainingConfig(**options))
    loaded = SemanticTokenizer.from_preset(str(tmp_path / "run" / "preset"))
    assert loaded.labels == (" ", *"abeghno") and loaded.num_phonemes == 8
    assert loaded.masked_prediction is True  # the config says how it was trained
    labels = open_labels(TokenizerTrainingConfig(**options))
    batches = CropBatches([chapter], 1.2, 2, augmented=False, labels=labels)
    ids = batches(0)[1]["phoneme_logits"][0, 0]
    assert "".join(labels.names[number - 1] for number in ids[ids > 0]) == "he began"
    for changes, message in (
        ({"labels": "phonemes", "preset": str(tmp_path / "run" / "preset")}, "reads other classes"),
        ({"audio_folders": [tmp_path / "empty"]}, "empty has no transcripts"),
    ):
        write_audio(
            (tmp_path / "empty").mkdir(exist_ok=True) or tmp_path / "empty" / "a.wav", ids * 0.1
        )
        changed = options | {"output_dir": tmp_path / "other", "model_config": None} | changes
        with pytest.raises(ValueError, match=message):
            train_tokenizer(TokenizerTrainingConfig(**changed))


@pytest.mark.parametrize(("weight", "rate"), [(0.0, 0.04), (0.1, 0.0)])
def test_the_config_says_that_masked_prediction_was_off(tmp_path, weight, rate):
    config = TokenizerTrainingConfig(
        audio_folders=[tmp_path],
        output_dir=tmp_path / "run",
        best_rq_weight=weight,
        model_config={**TINY, "mask_start_rate": rate},
    )
    tokenizer = _initial_model(config, open_labels(config)).tokenizer
    assert tokenizer.get_config()["masked_prediction"] is False


def test_the_demo_says_that_it_was_trained_without_masked_prediction():
    config = json.loads((DEMO / "semantic_tokenizer" / "config.json").read_text())["config"]
    assert config["masked_prediction"] is False


@pytest.mark.any_backend
@pytest.mark.slow
def test_the_encoder_of_whisper_becomes_the_front_end_and_is_kept(tmp_path):
    say(tmp_path / "a", "x", 3.0, [(0.5, 1.5, "hh ax"), (1.6, 2.5, "l ow")])
    backbone = keras_hub.models.WhisperBackbone(
        vocabulary_size=8,
        num_layers=1,
        num_heads=1,
        hidden_dim=64,
        intermediate_dim=8,
        max_decoder_sequence_length=4,
    )
    backbone.save_to_preset(str(tmp_path / "whisper"))
    config = TokenizerTrainingConfig(
        audio_folders=[tmp_path / "a"],
        output_dir=tmp_path / "run",
        whisper=tmp_path / "whisper",
        model_config=TINY,
        crop_seconds=2.0,
        batch_size=2,
        total_steps=2,
        steps_per_epoch=2,
    )
    train_tokenizer(config)
    loaded = SemanticTokenizer.from_preset(str(tmp_path / "run" / "preset"))
    kernel = ops.convert_to_numpy(loaded.front_end.encoder.first_convolution.kernel)
    expected = ops.convert_to_numpy(backbone.encoder_conv_layer_1.kernel)
    np.testing.assert_array_equal(kernel, expected)


def test_a_share_that_is_meant_as_per_cent_is_refused(tmp_path):
    with pytest.raises(ValueError, match="quantize_from"):
        TokenizerTrainingConfig(
            audio_folders=[tmp_path], output_dir=tmp_path / "run", quantize_from=40
        )
    assert not (tmp_path / "run").exists()


def test_loss_survives_serialization():
    loss = PhonemeLoss()
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert isinstance(copy, PhonemeLoss)
    with pytest.raises(ValueError, match="does not exist"):
        CropBatches(["no/such/folder"], 1.0, 1)
