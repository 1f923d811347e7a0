from types import SimpleNamespace

import numpy as np
import pytest

from keras_speechssm.audio.io import write_audio
from keras_speechssm.evaluation.metrics.similarity import speaker_identity
from keras_speechssm.evaluation.studies import speaker_identity as module
from keras_speechssm.evaluation.studies.speaker_identity import evaluate_speaker_identity

pytestmark = pytest.mark.any_backend


def embed(waveform):
    """A voice is the direction of the first two samples."""
    return waveform[:2] / np.linalg.norm(waveform[:2])


def sound(level):
    return level * np.resize([1.0, -1.0], 16000)


def embed_level(waveform):
    level = np.abs(waveform).mean()
    return np.array([np.cos(3 * level), np.sin(3 * level)])


def speakers():
    angles = [[0.0, 0.1, 0.2], [1.0, 1.1], [2.0, 2.1]]
    return {
        name: [np.array([np.cos(a), np.sin(a), 7.0]) for a in speaker]
        for name, speaker in zip("abc", angles, strict=True)
    }


def test_a_perfect_copy_is_always_nearest_to_its_own_speaker():
    measured = speaker_identity(speakers(), lambda waveform: waveform, embed)
    assert measured["nearest_fraction"] == measured["nearest_fraction_originals"] == 1.0
    assert measured["to_own"] > 0.98 > measured["to_others"]
    assert measured["num_speakers"] == 3 and measured["num_recordings"] == 7
    assert measured["taken_for"] == {}


def test_one_voice_for_all_is_right_for_one_speaker_only():
    constant = np.array([np.cos(1.05), np.sin(1.05), 0.0])
    measured = speaker_identity(speakers(), lambda waveform: constant, embed)
    assert measured["nearest_fraction"] == pytest.approx(2 / 7)
    assert measured["taken_for"] == {"a": {"b": 3}, "c": {"b": 2}}
    assert measured["nearest_fraction_originals"] == 1.0


def test_the_recording_itself_is_left_out():
    # Each first recording is far from its speaker's other one: a copy cannot be its own neighbor.
    pair = [np.array([1.0, 0.0]), np.array([0.0, 1.0])]
    near = [np.array([1.0, 0.01]), np.array([1.0, -0.01])]
    measured = speaker_identity({"pair": pair, "near": near}, lambda waveform: waveform, embed)
    assert measured["nearest_fraction"] == measured["nearest_fraction_originals"] < 1.0


def test_distractors_are_taken_for_but_not_judged():
    nearer = {"d": np.array([np.cos(1.06), np.sin(1.06), 7.0])}
    constant = np.array([np.cos(1.07), np.sin(1.07), 0.0])
    measured = speaker_identity(speakers(), lambda waveform: constant, embed, nearer)
    assert measured["num_speakers"] == 4 and measured["num_recordings"] == 7
    assert measured["taken_for"] == {"a": {"d": 3}, "b": {"d": 2}, "c": {"d": 2}}
    assert measured["nearest_fraction"] == 0.0
    assert measured["nearest_fraction_originals"] == pytest.approx(5 / 7)  # b's two are nearer to d


@pytest.mark.parametrize(
    "recordings",
    [{}, {"a": [np.ones(2)] * 2}, {"a": [np.ones(2)] * 2, "b": [np.ones(2)]}],
)
def test_too_few_speakers_or_recordings(recordings):
    with pytest.raises(ValueError, match="two speakers"):
        speaker_identity(recordings, lambda waveform: waveform, embed)


def test_synthesized_speech_is_grouped_by_its_voices(tmp_path, monkeypatch):
    # A voice is a level here, which a copy keeps.
    for number in range(3):
        for voice, level in (("flite-a-00", 0.1), ("espeak-b-01", 0.5)):
            path = tmp_path / f"{number:03d}_{voice}.wav"
            write_audio(path, sound(level + number / 100))
    pipeline = SimpleNamespace(resynthesize=lambda waveform, seed: waveform)
    loader = SimpleNamespace(from_preset=lambda preset: pipeline)
    monkeypatch.setattr(module, "SpeechContinuation", loader)

    monkeypatch.setattr(module, "open_speaker_embedder", lambda: embed_level)
    measured = evaluate_speaker_identity(audio_folders=[tmp_path], per_speaker=2)
    assert (measured["num_speakers"], measured["num_recordings"]) == (2, 4)
    assert measured["nearest_fraction"] == 1.0 and measured["to_own"] > 0.99 > measured["to_others"]
    with pytest.raises(ValueError, match="speaker_folders, or audio_folders"):
        evaluate_speaker_identity()
    with pytest.raises(ValueError, match="same folder twice"):
        evaluate_speaker_identity([tmp_path, f"{tmp_path}/."])
    with pytest.raises(ValueError, match="per_speaker is 1"):
        evaluate_speaker_identity(audio_folders=[tmp_path], per_speaker=1)
    write_audio(tmp_path / "000_flite-a-00.wav", np.zeros(16000))
    with pytest.raises(ValueError, match="000_flite-a-00.wav"):
        evaluate_speaker_identity(audio_folders=[tmp_path])
    (tmp_path / "000_flite-a-00.wav").rename(tmp_path / "000_flite-c-00.wav")
    with pytest.raises(ValueError, match="flite-c-00 has one"):
        evaluate_speaker_identity(audio_folders=[tmp_path])


def test_the_codec_alone_among_further_speakers(tmp_path, monkeypatch):
    for path, level in (("a/0", 0.1), ("a/1", 0.11), ("b/0", 0.5), ("b/1", 0.51), ("c/0", 0.13)):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        write_audio(tmp_path / f"{path}.wav", sound(level))
    codec = SimpleNamespace(encode=lambda w: w[:, None], decode=lambda tokens: 1.3 * tokens[:, 0])
    monkeypatch.setattr(module, "SoundStream", SimpleNamespace(from_preset=lambda preset: codec))
    monkeypatch.setattr(module, "open_speaker_embedder", lambda: embed_level)
    folders = [tmp_path / "a", tmp_path / "b"]
    measured = evaluate_speaker_identity(
        folders, distractor_folders=[tmp_path / "c"], codec_only=True
    )
    # 0.13 and 0.143, a's through the codec, are nearer to c.
    assert measured["num_speakers"] == 3 and measured["nearest_fraction"] == 0.5
    assert measured["taken_for"] == {str(tmp_path / "a"): {"0": 2}}
    with pytest.raises(ValueError, match="is a recording of one of the speakers"):
        evaluate_speaker_identity(folders, distractor_folders=folders[:1], codec_only=True)
