"""Pairs of semantic and acoustic tokens, computed once from audio, for training SoundStorm."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

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
"""Semantic tokens (time,) and acoustic tokens (2 * time, levels) of one recording."""

_PIECE_SAMPLES = 30 * SAMPLE_RATE
_CONTEXT_SAMPLES = 2 * SAMPLE_RATE
_STEP_SAMPLES = 4 * SAMPLE_RATE


def prepare_token_pairs(
    audio_folders: Sequence[str | Path],
    cache_dir: str | Path,
    tokenizer,
    codec,
) -> list[list[Path]]:
    """Tokenize recordings with both models; called again, compute only what is missing.

    Each recording becomes one `.npz` file with `semantic` (time,) and `acoustic`
    (2 * time, levels), uint16, in a subfolder of `cache_dir` per audio folder. The codec encodes
    recordings in pieces of 30 s, each with 2 s of context before and after it, so that memory does
    not grow with their length.

    Args:
        audio_folders: Folders of audio files.
        cache_dir: Folder of the token files. It stores a fingerprint of the two models.
        tokenizer: A `SemanticTokenizer`.
        codec: A `SoundStream`.

    Returns:
        The token files of each folder's recordings.

    Raises:
        ValueError: If the token files were made with other models.
    """
    cache_dir = Path(cache_dir)
    work = []
    for folder in audio_folders:
        recordings = find_audio([folder])
        target = cache_dir / _cache_name(Path(folder))
        work.append([(path, target / f"{path.relative_to(folder)}.npz") for path in recordings])
    _check_models(cache_dir, tokenizer, codec)
    missing = [pair for group in work for pair in group if not pair[1].exists()]
    for recording, target in tqdm(missing, desc="token pairs", unit="recording", disable=None):
        semantic, acoustic = _tokenize(recording, tokenizer, codec)
        with atomic_write(target) as temporary, open(temporary, "wb") as file:
            np.savez(file, semantic=semantic.astype("uint16"), acoustic=acoustic.astype("uint16"))
    return [[target for _, target in group] for group in work]


def _cache_name(folder: Path) -> str:
    """Return the folder's name with a hash of its path, since others may have the same name."""
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()
    return f"{folder.resolve().name}-{digest[:8]}"


def _check_models(cache_dir: Path, tokenizer, codec) -> None:
    """Check that a cache was made with these two models, or write their fingerprint."""
    # Sorted, because the order of a model's weights may differ between backends.
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
            f"The token cache {cache_dir} was made with another tokenizer or codec; delete it or "
            "use another cache_dir."
        )


def _tokenize(recording: Path, tokenizer, codec) -> TokenPair:
    """Return both kinds of tokens of a whole recording, cut to complete semantic tokens."""
    waveform = audio.read_audio(recording)
    num_tokens = len(waveform) // SAMPLES_PER_TOKEN
    if num_tokens == 0:
        return np.zeros((0,)), np.zeros((0, codec.num_quantizers))
    semantic = np.asarray(tokenizer.tokenize(waveform))[:num_tokens]
    acoustic = []
    for start in range(0, len(waveform), _PIECE_SAMPLES):
        first = max(0, start - _CONTEXT_SAMPLES)
        end = min(start + _PIECE_SAMPLES, len(waveform)) // SAMPLES_PER_FRAME
        piece = waveform[first : start + _PIECE_SAMPLES + _CONTEXT_SAMPLES]
        # Padded, so that few shapes are compiled.
        fill = -len(piece) % _STEP_SAMPLES
        frames = np.asarray(codec.encode(np.pad(piece, (0, fill))))
        offset = first // SAMPLES_PER_FRAME
        acoustic.append(frames[start // SAMPLES_PER_FRAME - offset : end - offset])
    return semantic, np.concatenate(acoustic)[: num_tokens * FRAMES_PER_TOKEN]


def read_token_pairs(paths: Sequence[str | Path]) -> list[TokenPair]:
    """Read the files of `prepare_token_pairs`, except for recordings without any token.

    Args:
        paths: The files.
    """
    pairs = []
    for path in paths:
        with np.load(path, allow_pickle=False) as arrays:
            if len(arrays["semantic"]):
                pairs.append((arrays["semantic"], arrays["acoustic"]))
    return pairs
