"""Whether resynthesis keeps voices apart: whose is a resynthesized voice?"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from keras_speechssm.audio.io import MIN_PROMPT_SECONDS, read_audio
from keras_speechssm.checks import check_at_least
from keras_speechssm.data.corpora import name_recordings, recordings_of_speakers
from keras_speechssm.data.speaker_embedding import open_speaker_embedder
from keras_speechssm.evaluation.studies.resynthesis import codec_round_trip
from keras_speechssm.models.soundstream.soundstream import SoundStream
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
    """Resynthesizes recordings and asks which of the speakers each sounds like.

    Args:
        speaker_folders: a folder of recordings for each speaker, at least two of each.
        audio_folders: in place of them, folders of synthesized speech (`speechssm prepare
            synthesized`), whose files are named after their voices, such as its `parallel/`, where
            every voice says each sentence: a voice is then compared with the others' same words,
            but not with its own, which is a little harder.
        distractor_folders: folders of recordings of further speakers, whom a voice may be taken
            for. Each recording counts as a speaker, and is not resynthesized itself.
        preset: a pipeline preset.
        per_speaker: recordings of each speaker that are used, the first ones by name.
        codec_only: sends recordings through the codec alone: the most that SoundStorm can keep.
        seed: of SoundStorm's samples.

    Returns:
        See `voice_identity`.

    Raises:
        ValueError: there are fewer than two speakers, one has a single recording, or a recording
            holds less than half a second or silence alone.
    """
    check_at_least(2, per_speaker=per_speaker)
    speakers = defaultdict(list)
    for speaker, path in recordings_of_speakers(speaker_folders, audio_folders):
        speakers[speaker].append(path)
    for speaker, paths in speakers.items():
        if len(paths) < 2:
            raise ValueError(f"Voices are compared over two recordings each; {speaker} has one.")
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
    return voice_identity(recordings, restore, open_speaker_embedder(), further)


def _read(path: Path) -> np.ndarray:
    return read_audio(path, min_seconds=MIN_PROMPT_SECONDS, allow_silence=False)


def voice_identity(
    recordings: Mapping[str, Sequence[np.ndarray]],
    restore: Callable[[np.ndarray], np.ndarray],
    embed: Callable[[np.ndarray], np.ndarray],
    distractors: Mapping[str, np.ndarray] | None = None,
) -> dict:
    """Compares restored recordings with the speakers' other, original ones.

    Args:
        recordings: by speaker, at least two waveforms (samples,) at 16 kHz.
        restore: what is judged, from waveform to waveform.
        embed: function from a waveform to a unit vector, such as `open_speaker_embedder()`.
        distractors: a waveform of each of further speakers, who count among the others.
            Defaults to `None`.

    Returns:
        dict: `to_own` and `to_others`, mean cosines of the restored to the originals of the
        same speaker, the restored one's left out, and to those of the others; `nearest_share`,
        how often the speaker is the nearest; `nearest_share_originals`, the same of the
        originals themselves, which is what the embedder allows; `taken_for`, by speaker, for
        those that were not always nearest to their own, how many recordings were nearest to
        which other speaker; `num_speakers`, distractors included, and `num_recordings`, those
        that were judged.
    """
    if len(recordings) < 2 or min(map(len, recordings.values())) < 2:
        raise ValueError(
            "Voices are compared between two speakers or more, each of two recordings."
        )
    distractors = distractors or {}
    names = [*recordings, *distractors]
    originals = [*recordings.values(), *([waveform] for waveform in distractors.values())]
    voices = [np.stack([embed(waveform) for waveform in own]) for own in originals]
    own, others, nearest, nearest_originals = [], [], [], []
    taken_for: dict[str, Counter] = defaultdict(Counter)
    for number, name in enumerate(recordings):
        for place, waveform in enumerate(recordings[name]):
            known = [
                np.delete(voice, place, axis=0) if other == number else voice
                for other, voice in enumerate(voices)
            ]
            cosines = _mean_cosines(embed(restore(waveform)), known)
            own.append(cosines[number])
            others.append(np.delete(cosines, number).mean())
            nearest.append(cosines.argmax() == number)
            if not nearest[-1]:
                taken_for[name][names[cosines.argmax()]] += 1
            nearest_originals.append(_mean_cosines(voices[number][place], known).argmax() == number)
    return {
        "to_own": float(np.mean(own)),
        "to_others": float(np.mean(others)),
        "nearest_share": float(np.mean(nearest)),
        "nearest_share_originals": float(np.mean(nearest_originals)),
        "taken_for": {name: dict(found) for name, found in taken_for.items()},
        "num_speakers": len(names),
        "num_recordings": len(own),
    }


def _mean_cosines(embedding: np.ndarray, voices: Sequence[np.ndarray]) -> np.ndarray:
    """Cosine to each speaker, the mean over the recordings of it."""
    return np.array([float((voice @ embedding).mean()) for voice in voices])
