"""Moonshine tiny, the default offline transcriber."""

import bisect
from pathlib import Path

import numpy as np

from keras_speechssm.evaluation.models.package_files import package_file
from keras_speechssm.evaluation.models.transcript import Word, place_words, transcribe_pieces
from keras_speechssm.shapes import SAMPLE_RATE

MOONSHINE = "moonshine-tiny"
REQUIREMENT = "moonshine-voice==0.0.4"

_PACKAGE = "moonshine_voice"
_FILES = {
    "encoder_model.ort": "e091ae52fc2a912197af8f7b7ae2e8365b656ff58463313e0660cce59d9e81d3",
    "decoder_model_merged.ort": "b40193912d8f4af041f2f3e9f7ff23d45b63a1c15a9c7d35fcbebeab3c4273b2",
    "tokenizer.bin": "6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d",
}
_START_ID, _END_ID = 1, 2
_NUM_HEADS, _HEAD_DIM = 8, 36
# The limit of the reference implementation; it ends loops of repeated words.
_MAX_TOKENS_PER_SECOND = 6.5
# The encoder's convolutions need about a tenth of a second.
_MIN_SAMPLES = SAMPLE_RATE // 8


class MoonshineTranscriber:
    """Moonshine tiny (27 M parameters, English), run by ONNX Runtime on the CPU.

    The weights are in the package `moonshine-voice` 0.0.4 (MIT license); later versions do not
    include them. Recordings are cut at pauses into pieces, because the model is trained on
    clips of up to 30 s. Decoding is greedy, so the same audio gives the same words.

    The model does not report when a word is said. `Word.start` and `Word.end` are estimates:
    the piece's speech is divided among its words in proportion to their letters.
    `Word.confidence` is the smallest probability among the tokens of the word.

    Args:
        piece_seconds: Longest piece. Defaults to `20.0`.
        num_threads: Threads of ONNX Runtime. Defaults to `None`: its own choice.

    Raises:
        ValueError: The package with the weights is not installed.

    Example:

    ```python
    from keras_speechssm.audio import read_audio
    from keras_speechssm.evaluation.models.moonshine import MoonshineTranscriber

    transcribe = MoonshineTranscriber()
    words = transcribe(read_audio("examples/prompt.flac"))
    ```

    Reference:
        - [Jeffries et al. 2024](https://arxiv.org/abs/2410.15608)
    """

    name = MOONSHINE

    def __init__(self, piece_seconds: float = 20.0, num_threads: int | None = None):
        import onnxruntime

        paths = {
            file: package_file(_PACKAGE, f"assets/tiny-en/{file}", REQUIREMENT, sha256)
            for file, sha256 in _FILES.items()
        }
        self.piece_seconds = piece_seconds
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if num_threads is not None:
            options.intra_op_num_threads = num_threads
        self._encoder = onnxruntime.InferenceSession(str(paths["encoder_model.ort"]), options)
        self._decoder = onnxruntime.InferenceSession(
            str(paths["decoder_model_merged.ort"]), options
        )
        self._cache_names = [
            entry.name for entry in self._decoder.get_inputs() if entry.name.startswith("past")
        ]
        self._inputs = {entry.name for entry in self._decoder.get_inputs()}
        self._outputs = [entry.name for entry in self._decoder.get_outputs()]
        self._tokens = read_tokenizer(paths["tokenizer.bin"])

    def __call__(self, waveform: np.ndarray) -> list[Word]:
        return transcribe_pieces(waveform, self.piece_seconds, self._transcribe)

    def _transcribe(self, piece: np.ndarray, offset: float) -> list[Word]:
        if len(piece) < _MIN_SAMPLES or not np.any(piece):
            return []
        token_ids, probabilities = self._decode(piece)
        words = join_tokens([self._tokens[token] for token in token_ids], probabilities)
        return place_words(words, offset, offset + len(piece) / SAMPLE_RATE)

    def _decode(self, piece: np.ndarray) -> tuple[list[int], list[float]]:
        """Greedy decoding: token ids of a piece, and the probability of each."""
        audio = piece[None]
        mask = np.ones(audio.shape, "int64")
        hidden = self._encoder.run(None, {"input_values": audio, "attention_mask": mask})[0]
        cache = {
            name: np.zeros((1, _NUM_HEADS, 0, _HEAD_DIM), "float32") for name in self._cache_names
        }
        last, token_ids, probabilities = _START_ID, [], []
        for step in range(int(len(piece) / SAMPLE_RATE * _MAX_TOKENS_PER_SECOND) + 4):
            feed = {
                "input_ids": np.array([[last]]),
                "encoder_hidden_states": hidden,
                "encoder_attention_mask": mask,
                "use_cache_branch": np.array([step > 0]),
                **cache,
            }
            feed = {name: value for name, value in feed.items() if name in self._inputs}
            logits, *present = self._decoder.run(None, feed)
            for name, value in zip(self._outputs[1:], present, strict=True):
                # The keys of the encoder's output are computed in the first step only.
                if step == 0 or "encoder" not in name:
                    cache[name.replace("present", "past_key_values")] = value
            scores = logits[0, -1].astype("float64")
            last = int(scores.argmax())
            if last == _END_ID:
                break
            token_ids.append(last)
            probabilities.append(float(1.0 / np.exp(scores - scores.max()).sum()))
        return token_ids, probabilities


def read_tokenizer(path: str | Path) -> list[bytes]:
    """Read Moonshine's `tokenizer.bin`: the bytes of each token, by token id.

    Each token is stored as its length and its bytes. A length above 127 takes two bytes, the
    lower seven bits first.
    """
    content = Path(path).read_bytes()
    tokens, place = [], 0
    while place < len(content):
        length = content[place]
        place += 1
        if length > 127:
            length = (length & 127) + 128 * content[place]
            place += 1
        tokens.append(content[place : place + length])
        place += length
    return tokens


def join_tokens(tokens: list[bytes], probabilities: list[float]) -> list[tuple[str, float]]:
    """Join tokens into lower-case words.

    Args:
        tokens: Bytes of each token, with `▁` (U+2581) for a space.
        probabilities: Probability of each token.

    Returns:
        Each word with the smallest probability among its tokens.
    """
    ends = np.cumsum([len(token) for token in tokens]).tolist()
    content = b"".join(tokens)
    words = []
    place = 0
    for part in content.split("\u2581".encode()):
        # A word may begin inside a token and end inside another.
        first = bisect.bisect_right(ends, place)
        last = bisect.bisect_left(ends, place + len(part))
        place += len(part) + len("\u2581".encode())
        text = part.decode("utf-8", "replace").strip().lower()
        if text:
            words.append((text, min(probabilities[first : last + 1])))
    return words
