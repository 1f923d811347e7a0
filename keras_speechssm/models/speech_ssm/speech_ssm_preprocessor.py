"""From recordings or tokens to what a speech language model trains on and continues."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np

from keras_speechssm.audio.io import read_speech
from keras_speechssm.checks import first_line, token_array
from keras_speechssm.data.packing import PackedSequences
from keras_speechssm.files import write_json
from keras_speechssm.models.preset_mixin import check_arguments, load_part
from keras_speechssm.presets import (
    fetch_folder,
    is_trained,
    presets_of,
    read_json_file,
    resolve_preset,
)

MAX_SEQUENCE_LENGTH = 6000
"""Most tokens of a row if `sequence_length` is not given: 4 min, as in the paper."""

TOKENIZER_FOLDER = "semantic_tokenizer"
"""Folder of a preset that contains the preprocessor's tokenizer."""

_CONFIG_FILE = "preprocessor.json"


@keras.saving.register_keras_serializable(package="keras_speechssm")
class SpeechSSMPreprocessor(keras_hub.models.Preprocessor):
    """Turns recordings or semantic tokens into rows to train on, and into prompts.

    It takes one recording or sequence, or a list of them: paths of audio files, waveforms float
    (samples,) at 16 kHz, or semantic tokens int (time,). Lengths may differ. An array int (batch,
    time) is a list of sequences too. Paths and waveforms need a `tokenizer`.

    Calling it packs the sequences into rows of one length and returns `(x, y, sample_weight)`: `x`
    is a dictionary of `token_ids` and `reset_mask` (`True` at the first token of each sequence),
    `y` is the next tokens, and `sample_weight` is 0 where there is no next token and 1 on average.
    In a `tf.data` pipeline, `dataset.map(preprocessor)` shifts each batch of tokens instead.

    `fit` and `evaluate` of `SpeechSSM` apply it to inputs without targets, and `generate` to
    recordings.

    Args:
        tokenizer: A `SemanticTokenizer`, or another object with its `tokenize`. Defaults to
            `None`: the preprocessor takes tokens only.
        sequence_length: Number of tokens of a row. Longer sequences are cut. Defaults to `None`:
            that of the longest sequence, at most 6000 (4 min).
        pack: Whether a row may hold several sequences. If `False`, each row holds one, and `x`
            has a `padding_mask` instead of the `reset_mask`: TWIST needs that.
            Defaults to `True`.

    Example:

    ```python
    from keras_speechssm.models import SpeechSSMPreprocessor

    preprocessor = SpeechSSMPreprocessor(sequence_length=8)
    x, y, sample_weight = preprocessor([[1, 2, 3], [4, 5, 6, 7]])
    print(x["token_ids"])  # [[4 5 6 7 1 2 3 0]]
    prompts = preprocessor.generate_preprocess([[1, 2, 3], [4, 5]])
    print(prompts["padding_mask"])
    ```

    Reference:
        Park et al. 2024, "Long-Form Speech Generation with Spoken Language Models" (arXiv
        2412.18603), section 4.
    """

    presets = presets_of("SpeechSSM")

    def __init__(
        self,
        tokenizer=None,
        sequence_length: int | None = None,
        pack: bool = True,
        **kwargs,
    ):
        check_arguments(type(self), kwargs, ["config_file"])  # of KerasHub
        super().__init__(**kwargs)
        if sequence_length is not None and sequence_length < 2:
            raise ValueError(f"sequence_length is {sequence_length}; expected at least 2.")
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length
        self.pack = pack
        self.built = True

    # KerasHub's property, but the tokenizer's weights must not become weights of the model.
    @property
    def tokenizer(self):
        """The `SemanticTokenizer`, or `None`."""
        return getattr(self, "_speech_tokenizer", [None])[0]

    @tokenizer.setter
    def tokenizer(self, value):
        object.__setattr__(self, "_speech_tokenizer", (value,))

    def call(self, x, y=None, sample_weight=None, sequence_length: int | None = None):
        """Returns `(x, y, sample_weight)`; see the class.

        Args:
            x: Recordings or sequences, see the class.
            y: Targets. If given, nothing is changed. Defaults to `None`.
            sample_weight: Weights of the targets. Defaults to `None`.
            sequence_length: Overrides that of the preprocessor. Defaults to `None`.
        """
        if y is not None:
            return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
        if self._use_tf_workflow():
            return shift_batch(x)
        rows = self.pack_sequences(x, sequence_length)
        return rows.batch(range(len(rows)))

    def read_sequences(self, x: Any) -> list[np.ndarray]:
        """Returns the tokens int32 (time,) of each recording or sequence.

        Args:
            x: Recordings or sequences, see the class, or a dictionary of `token_ids` and,
                optionally, `padding_mask`.

        Raises:
            ValueError: If `x` is something else, or audio without a tokenizer.
        """
        if isinstance(x, dict):
            return _real_tokens(x)
        if _is_single(x):
            x = [x]
        return [self._read_sequence(sequence) for sequence in x]

    def _read_sequence(self, sequence: Any) -> np.ndarray:
        if isinstance(sequence, str | os.PathLike) or _kind(sequence) == "f":
            if self.tokenizer is None:
                raise ValueError(
                    "The preprocessor got audio but has no tokenizer; pass tokens, or a model with "
                    "preprocessor=SpeechSSMPreprocessor(tokenizer)."
                )
            waveform = read_speech(sequence)
            return np.asarray(self.tokenizer.tokenize(waveform), "int32")
        size = getattr(self.tokenizer, "vocabulary_size", None)
        return token_array(sequence, vocabulary_size=size, shapes=("(time,)",))

    def pack_sequences(
        self, x: Any, sequence_length: int | None = None, seed: int = 0
    ) -> PackedSequences:
        """Returns the rows of recordings or sequences; `rows.dataset(batch_size)` is for `fit`.

        Args:
            x: Recordings or sequences, see the class.
            sequence_length: Overrides that of the preprocessor. Defaults to `None`.
            seed: Seed of the packing and of the order of the rows. Defaults to `0`.

        Raises:
            ValueError: If there are no sequences of at least two tokens.
        """
        sequences = self.read_sequences(x)
        longest = max((len(sequence) for sequence in sequences), default=0)
        length = sequence_length or self.sequence_length
        length = length or max(2, min(longest, MAX_SEQUENCE_LENGTH))
        return PackedSequences.from_arrays(sequences, length, seed, pack=self.pack)

    def generate_preprocess(self, x: Any, sequence_length: int | None = None) -> dict:
        """Returns prompts for `generate`.

        Args:
            x: Recordings or sequences, see the class.
            sequence_length: Number of tokens of a row. Longer prompts keep their end. Defaults to
                `None`: that of the longest prompt.

        Returns:
            `token_ids` int32 and `padding_mask` bool, (batch, time) each, or (time,) for a single
            prompt.
        """
        sequences = self.read_sequences(x)
        time = sequence_length or max(len(sequence) for sequence in sequences)
        token_ids = np.zeros((len(sequences), time), "int32")
        mask = np.zeros(token_ids.shape, bool)
        for row, sequence in enumerate(sequences):
            kept = sequence[-time:]
            token_ids[row, : len(kept)] = kept
            mask[row, : len(kept)] = True
        if not isinstance(x, dict) and _is_single(x):
            token_ids, mask = token_ids[0], mask[0]
        return {"token_ids": token_ids, "padding_mask": mask}

    def generate_postprocess(self, x: dict) -> np.ndarray | list[np.ndarray]:
        """Returns generated tokens without padding.

        Args:
            x: `token_ids` and `padding_mask`, as from `generate_preprocess`.

        Returns:
            int32 (time,), or a list of them for a batch. `SpeechContinuation.speak_tokens` turns
            them into audio.
        """
        single = keras.ops.ndim(x["token_ids"]) == 1
        sequences = _real_tokens(x)
        return sequences[0] if single else sequences

    def save_to_preset(self, preset_dir: str) -> None:
        """Writes the config, and the tokenizer, if any, into a preset folder.

        Args:
            preset_dir: Path of the folder, which exists.
        """
        write_json(Path(preset_dir) / _CONFIG_FILE, keras.saving.serialize_keras_object(self))
        if self.tokenizer is not None:
            self.tokenizer.save_to_preset(str(Path(preset_dir) / TOKENIZER_FOLDER))

    @classmethod
    def from_preset(cls, preset: str, **kwargs) -> "SpeechSSMPreprocessor":
        """Builds the preprocessor of a preset.

        That of a pipeline has the pipeline's tokenizer, if it is trained. A preset without a
        preprocessor gives one for tokens only.

        Args:
            preset: Name, folder, or `hf://` or `kaggle://` handle of a `SpeechSSM` or of a
                pipeline.
            **kwargs: Arguments that override the preset's.

        Raises:
            ValueError: If the preset is unknown or damaged.
        """
        folder = Path(fetch_folder(preset))
        config = {}
        if (folder / _CONFIG_FILE).is_file():
            try:
                config = dict(read_json_file(folder, _CONFIG_FILE)["config"])
                cls(**{**config, "tokenizer": None})
            except Exception as error:  # A config may hold anything.
                raise ValueError(
                    f"The preprocessor of preset {preset!r} could not be loaded: "
                    f"{first_line(error)}"
                ) from error
            if config.get("tokenizer") and "tokenizer" not in kwargs:
                config["tokenizer"] = load_part(str(folder / TOKENIZER_FOLDER), TOKENIZER_FOLDER)
        elif "tokenizer" not in kwargs and _is_pipeline(folder):
            tokenizer = resolve_preset(folder, TOKENIZER_FOLDER)
            if is_trained(preset) and is_trained(folder) and is_trained(tokenizer):
                config["tokenizer"] = load_part(tokenizer, TOKENIZER_FOLDER)
        return cls(**{**config, **kwargs})

    def get_config(self) -> dict:
        # KerasHub's has the tokenizer.
        config = super().get_config()
        config.update(sequence_length=self.sequence_length, pack=self.pack)
        return config


def shift_batch(tokens: Any) -> tuple:
    """Returns inputs, targets and weights of a batch of tokens: `tokens[:, :-1]`, `tokens[:, 1:]`.

    Args:
        tokens: int (batch, time) of NumPy or any backend, a ragged tensor of TensorFlow, or a
            dictionary of `token_ids` with `padding_mask` or `reset_mask`.

    Returns:
        `(x, y, sample_weight)`; `sample_weight` is bool, or `None` if all tokens are targets.

    Raises:
        ValueError: If `tokens` is not a batch of tokens.
    """
    inputs = dict(tokens) if isinstance(tokens, dict) else {"token_ids": tokens}
    if "token_ids" not in inputs:
        raise ValueError(f"A batch has {sorted(inputs)}; expected token_ids.")
    if hasattr(inputs["token_ids"], "to_tensor"):  # tf.RaggedTensor
        ragged = inputs["token_ids"]
        inputs = {
            "token_ids": ragged.to_tensor(),
            "padding_mask": ((ragged * 0 + 1).to_tensor()) > 0,
        }
    if len(inputs["token_ids"].shape) != 2:
        raise ValueError(
            f"A dataset gave tokens of shape {tuple(inputs['token_ids'].shape)}; expected (batch, "
            "time). Batch the dataset, with ragged batches for sequences of different lengths."
        )
    x = {name: value[:, :-1] for name, value in inputs.items()}
    weights = None
    if "padding_mask" in inputs:
        weights = inputs["padding_mask"][:, 1:] & x["padding_mask"]
    if "reset_mask" in inputs:
        same = ~inputs["reset_mask"][:, 1:]
        weights = same if weights is None else weights & same
    return keras.utils.pack_x_y_sample_weight(x, inputs["token_ids"][:, 1:], weights)


def add_targets(batch: Any) -> tuple:
    """Returns a dataset's batch as `(x, y[, sample_weight])`: shifted if it has no targets."""
    if isinstance(batch, tuple):
        return batch if len(batch) > 1 else shift_batch(batch[0])
    return shift_batch(batch)


class TargetsDataset(keras.utils.PyDataset):
    """A `PyDataset` of tokens with targets added to batches that have none."""

    def __init__(self, dataset: keras.utils.PyDataset):
        super().__init__(dataset.workers, dataset.use_multiprocessing, dataset.max_queue_size)
        self.dataset = dataset

    @property
    def num_batches(self) -> int | None:
        return self.dataset.num_batches

    def __getitem__(self, index: int) -> tuple:
        return add_targets(self.dataset[index])

    def on_epoch_begin(self) -> None:
        self.dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.dataset.on_epoch_end()


def is_in_memory(x: Any) -> bool:
    """Returns whether `x` is an array, a path, or a list or dictionary of them: not a dataset."""
    if isinstance(x, dict):
        return bool(x) and all(is_in_memory(value) for value in x.values())
    return isinstance(x, str | os.PathLike | list | tuple) or (
        hasattr(x, "shape") and hasattr(x, "dtype")
    )


def needs_preprocessing(x: Any) -> bool:
    """Returns whether a prompt is audio, or sequences of different lengths."""
    if isinstance(x, list | tuple) and any(hasattr(y, "__len__") for y in x):
        lengths = {len(sequence) for sequence in x if hasattr(sequence, "__len__")}
        return len(lengths) > 1 or any(needs_preprocessing(sequence) for sequence in x)
    return isinstance(x, str | os.PathLike) or (hasattr(x, "dtype") and _kind(x) == "f")


def _is_single(x: Any) -> bool:
    """Whether `x` is one recording or sequence and not a batch of them."""
    if isinstance(x, str | os.PathLike):
        return True
    if isinstance(x, Sequence):
        return len(x) > 0 and not any(isinstance(y, str | os.PathLike) or np.ndim(y) for y in x)
    return keras.ops.ndim(x) == 1


def _kind(x: Any) -> str:
    """The kind of an array's or list's numbers: `"i"`, `"u"`, `"f"`, ..."""
    if hasattr(x, "dtype"):
        name = keras.backend.standardize_dtype(x.dtype)
        return "f" if "float" in name else "i" if "int" in name else "b"
    return np.asarray(x).dtype.kind if len(x) else "i"


def _real_tokens(inputs: dict) -> list[np.ndarray]:
    if unknown := sorted(set(inputs) - {"token_ids", "padding_mask"}):
        raise ValueError(
            f"The inputs {unknown} need targets; pass y, or token_ids and padding_mask only."
        )
    tokens = np.atleast_2d(keras.ops.convert_to_numpy(inputs["token_ids"]))
    mask = inputs.get("padding_mask")
    mask = np.ones(tokens.shape, bool) if mask is None else keras.ops.convert_to_numpy(mask)
    mask = np.atleast_2d(mask).astype(bool)
    tokens = token_array(tokens, "token_ids", mask=mask)
    return [row[real] for row, real in zip(tokens, mask, strict=True)]


def _is_pipeline(folder: Path) -> bool:
    return (folder / "config.json").is_file() and "parts" in read_json_file(folder)
