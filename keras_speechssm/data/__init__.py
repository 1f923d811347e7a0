"""Corpora, segmentation, token stores, and packed training rows."""

import importlib

_MODULES = {
    "PHONEMES": "corpora",
    "Segment": "corpora",
    "example_prompt": "corpora",
    "example_recordings": "corpora",
    "find_audio": "corpora",
    "name_recordings": "corpora",
    "read_segments": "corpora",
    "read_turns": "corpora",
    "recordings_of_speakers": "corpora",
    "PackedDataset": "packing",
    "PackedSequences": "packing",
    "pack_rows": "packing",
    "measure_pitch": "pitch",
    "prepare_sequences": "prepare",
    "prepare_token_pairs": "prepare",
    "tokenize_file": "prepare",
    "tokenize_recordings": "prepare",
    "cut_at_pauses": "segmentation",
    "cut_at_turns": "segmentation",
    "monologue_spans": "segmentation",
    "speech_turns": "segmentation",
    "SpeakerEmbedder": "speaker_embedding",
    "open_speaker_embedder": "speaker_embedding",
    "TokenSequence": "token_store",
    "TokenSource": "token_store",
    "TokenStore": "token_store",
    "open_tokens": "token_store",
    "read_tokens": "token_store",
    "read_transcripts": "transcripts",
    "write_token_store": "token_store",
    "write_tokens": "token_store",
}

__all__ = list(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
