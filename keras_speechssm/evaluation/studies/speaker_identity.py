"""Does resynthesis keep voices apart? Whose is a resynthesized voice?"""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import MIN_PROMPT_SECONDS, read_audio
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import name_recordings, recordings_of_speakers
from keras_speechssm.data.speaker_embedding import open_speaker_embedder
from keras_speechssm.evaluation.metrics.similarity import speaker_identity
from keras_speechssm.evaluation.studies.resynthesis import codec_round_trip
from keras_speechssm.models import SoundStream
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.presets import DEFAULT_PRESET


def evaluate_speaker_identity(
    speaker_folders: Sequence[str | Path] = (),
    audio_folders: Sequence[str | Path] = (),
    *,
    distractor_folders: Sequence[str | Path] = (),
    preset: str = DEFAULT_PRESET,
    per_speaker: int = 4,
    codec_only: bool = False,
    seed: int = 0,
) -> dict:
    """Resynthesize recordings and find which speaker each sounds most like.

    Args:
        speaker_folders: One folder of recordings per speaker, at least two recordings each.
        audio_folders: Instead of them, folders of synthesized speech (`speechssm prepare
            synthesized`) with files named after their voices. In its `parallel/`, every voice
            says each sentence: a voice is then compared with the same words in other voices, but
            with other words in its own, which is a little harder.
        distractor_folders: Folders of recordings of further speakers, with whom a voice may be
            confused. Each recording counts as a speaker, and is not resynthesized itself.
        preset: Pipeline preset.
        per_speaker: Maximal number of recordings per speaker, the first ones by name.
        codec_only: Use the codec alone, which is the upper limit for SoundStorm.
        seed: Seed of SoundStorm's samples.

    Returns:
        See `speaker_identity`.

    Raises:
        ValueError: There are fewer than two speakers, one has a single recording, or a recording
            is shorter than half a second or silent.
    """
    check_at_least(2, per_speaker=per_speaker)
    speakers = defaultdict(list)
    for speaker, path in recordings_of_speakers(speaker_folders, audio_folders):
        speakers[speaker].append(path)
    for speaker, paths in speakers.items():
        if len(paths) < 2:
            raise ValueError(f"{speaker} has one recording; expected at least two per speaker.")
    recordings = {
        speaker: [_read(path) for path in paths[:per_speaker]]
        for speaker, paths in speakers.items()
    }
    distractors = name_recordings(distractor_folders) if distractor_folders else {}
    judged = {path.resolve() for paths in speakers.values() for path in paths}
    for path in distractors.values():
        if path.resolve() in judged:
            raise ValueError(f"The distractor {path} is a recording of one of the speakers.")
    further = {name: _read(path) for name, path in distractors.items()}
    if codec_only:
        restore = codec_round_trip(SoundStream.from_preset(preset))
    else:
        restore = partial(SpeechContinuation.from_preset(preset).resynthesize, seed=seed)
    return speaker_identity(recordings, restore, open_speaker_embedder(), further)


def _read(path: Path) -> np.ndarray:
    return read_audio(path, min_seconds=MIN_PROMPT_SECONDS, allow_silence=False)
