"""Whether resynthesis keeps voices apart: whose is a resynthesised voice?"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio import MIN_PROMPT_SECONDS, read_audio
from keras_speechssm.data.corpora import recordings_of_speakers
from keras_speechssm.data.speaker_embedding import open_speaker_embedder
from keras_speechssm.pipeline import SpeechContinuation
from keras_speechssm.preset_registry import DEFAULT_PRESET
from keras_speechssm.training.option_checks import check_at_least


def evaluate_voices(
    speaker_folders: Sequence[str | Path] = (),
    audio_folders: Sequence[str | Path] = (),
    *,
    preset: str = DEFAULT_PRESET,
    per_speaker: int = 4,
    seed: int = 0,
) -> dict:
    """Resynthesises recordings and asks which of the speakers each sounds like.

    Args:
        speaker_folders: a folder of recordings for each speaker, at least two of each.
        audio_folders: in place of them, folders of synthesised speech (`speechssm prepare
            synthesized`), whose files are named after their voices, such as its `parallel/`, where
            every voice says each sentence: a voice is then compared with the others' same words,
            but not with its own, which is a little harder.
        preset: a pipeline preset.
        per_speaker: recordings of each speaker that are used, the first ones by name.
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
        speaker: [
            read_audio(path, min_seconds=MIN_PROMPT_SECONDS, allow_silence=False)
            for path in paths[:per_speaker]
        ]
        for speaker, paths in speakers.items()
    }
    speech = SpeechContinuation.from_preset(preset)
    return voice_identity(
        recordings,
        lambda waveform: speech.resynthesize(waveform, seed=seed),
        open_speaker_embedder(),
    )


def voice_identity(
    recordings: Mapping[str, Sequence[np.ndarray]],
    restore: Callable[[np.ndarray], np.ndarray],
    embed: Callable[[np.ndarray], np.ndarray],
) -> dict:
    """Compares restored recordings with the speakers' other, original ones.

    Args:
        recordings: by speaker, at least two waveforms (samples,) at 16 kHz.
        restore: what is judged, from waveform to waveform.
        embed: function from a waveform to a unit vector, such as `open_speaker_embedder()`.

    Returns:
        dict: `to_own` and `to_others`, mean cosines of the restored to the originals of the
        same speaker, the restored one's left out, and to those of the others; `nearest_share`,
        how often the speaker is the nearest; `nearest_share_originals`, the same of the
        originals themselves, which is what the embedder allows; `taken_for`, by speaker, for
        those that were not always nearest to their own, how many recordings were nearest to
        which other speaker; `num_speakers` and `num_recordings`.
    """
    if len(recordings) < 2 or min(map(len, recordings.values())) < 2:
        raise ValueError(
            "Voices are compared between two speakers or more, each of two recordings."
        )
    names = list(recordings)
    voices = [np.stack([embed(waveform) for waveform in recordings[name]]) for name in names]
    own, others, nearest, nearest_originals = [], [], [], []
    taken_for: dict[str, Counter] = defaultdict(Counter)
    for number, name in enumerate(names):
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
        "num_speakers": len(recordings),
        "num_recordings": len(own),
    }


def _mean_cosines(embedding: np.ndarray, voices: Sequence[np.ndarray]) -> np.ndarray:
    """Cosine to each speaker, the mean over the recordings of it."""
    return np.array([float((voice @ embedding).mean()) for voice in voices])
