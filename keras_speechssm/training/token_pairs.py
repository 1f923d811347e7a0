"""Pairs of token streams: what SoundStorm learns from, computed once from audio."""

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.audio import io as audio
from keras_speechssm.data.corpora import find_audio
from keras_speechssm.files import atomic_write, write_json
from keras_speechssm.shapes import (
    FRAMES_PER_TOKEN,
    SAMPLE_RATE,
    SAMPLES_PER_FRAME,
    SAMPLES_PER_TOKEN,
)

TokenPair = tuple[np.ndarray, np.ndarray]
"""Semantic tokens (time,) and acoustic tokens (2 time, levels) of one recording."""

_PIECE_SAMPLES = 30 * SAMPLE_RATE
_CONTEXT_SAMPLES = 2 * SAMPLE_RATE
_STEP_SAMPLES = 4 * SAMPLE_RATE


def prepare_token_pairs(
    audio_folders: Sequence[str | Path],
    cache_dir: str | Path,
    tokenizer,
    codec,
) -> list[list[Path]]:
    """Tokenizes recordings with both models, once; run again, it goes on where it stopped.

    Each recording becomes one `.npz` file with `semantic` (time,) and `acoustic`
    (2 time, levels), uint16, below `cache_dir`, in a folder for each audio folder.
    The codec takes recordings in pieces of 30 s, each after 2 s of what came before it,
    so memory does not grow with the length. Progress goes to standard error.

    Args:
        audio_folders: folders of audio files.
        cache_dir: folder of the token files. It remembers the two models, and refuses
            others.
        tokenizer: model with `tokenize(waveform)` -> int (time,), a `SemanticTokenizer`.
        codec: model with `encode(waveform)` -> int (2 time, levels), a `SoundStream`.

    Returns:
        For each folder, the token files of its recordings.
    """
    cache_dir = Path(cache_dir)
    work = []
    for folder in audio_folders:
        recordings = find_audio([folder])
        target = cache_dir / _cache_name(Path(folder))
        work.append([(path, target / f"{path.relative_to(folder)}.npz") for path in recordings])
    _check_models(cache_dir, tokenizer, codec)
    missing = [pair for group in work for pair in group if not pair[1].exists()]
    shown = time.monotonic()
    for number, (recording, target) in enumerate(missing, start=1):
        _write_pair(target, *_tokenize(recording, tokenizer, codec))
        if time.monotonic() - shown > 10 or number == len(missing):
            shown = time.monotonic()
            print(f"token pairs: {number} of {len(missing)}", file=sys.stderr, flush=True)
    return [[target for _, target in group] for group in work]


def _cache_name(folder: Path) -> str:
    """The folder's name, told apart from others of that name by its place."""
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()
    return f"{folder.resolve().name}-{place[:8]}"


def _check_models(cache_dir: Path, tokenizer, codec) -> None:
    """Ties a cache to the two models that fill it."""
    # Sorted: in which order a model names its weights may differ from backend to backend.
    digests = [
        sorted(
            hashlib.sha256(np.ascontiguousarray(weight).tobytes()).hexdigest()
            for weight in model.get_weights()
        )
        for model in (tokenizer, codec)
    ]
    models = {"models_sha256": hashlib.sha256(json.dumps(digests).encode()).hexdigest()}
    manifest = cache_dir / "manifest.json"
    if not manifest.exists():
        write_json(manifest, models)
    elif json.loads(manifest.read_text()) != models:
        raise ValueError(
            f"The token cache {cache_dir} was made with another tokenizer or codec: "
            "delete it or name another folder."
        )


def _tokenize(recording: Path, tokenizer, codec) -> TokenPair:
    """Semantic and acoustic tokens of a whole recording, cut to whole semantic tokens."""
    waveform = audio.read_audio(recording)
    num_tokens = len(waveform) // SAMPLES_PER_TOKEN
    if num_tokens == 0:
        return np.zeros((0,)), np.zeros((0, codec.num_quantizers))
    semantic = np.asarray(tokenizer.tokenize(waveform))[:num_tokens]
    acoustic = []
    for start in range(0, len(waveform), _PIECE_SAMPLES):
        first = max(0, start - _CONTEXT_SAMPLES)
        piece = waveform[first : start + _PIECE_SAMPLES]
        # Filled up, so that few shapes are compiled; the codec is causal.
        fill = -len(piece) % _STEP_SAMPLES
        frames = np.asarray(codec.encode(np.pad(piece, (0, fill))))
        end = len(piece) // SAMPLES_PER_FRAME
        acoustic.append(frames[(start - first) // SAMPLES_PER_FRAME : end])
    return semantic, np.concatenate(acoustic)[: num_tokens * FRAMES_PER_TOKEN]


def _write_pair(path: Path, semantic: np.ndarray, acoustic: np.ndarray) -> None:
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, semantic=semantic.astype("uint16"), acoustic=acoustic.astype("uint16"))


def read_token_pairs(paths: Sequence[str | Path]) -> list[TokenPair]:
    """The pairs that `prepare_token_pairs` wrote, without recordings of no token at all."""
    pairs = []
    for path in paths:
        with np.load(path, allow_pickle=False) as arrays:
            if len(arrays["semantic"]):
                pairs.append((arrays["semantic"], arrays["acoustic"]))
    return pairs
